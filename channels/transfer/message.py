"""Message: what is written into the ring of a channel whose tensors travel on their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from channels.transfer.split import Rest

__all__ = ["Held", "Message", "Sent"]


class Sent(NamedTuple):
    """A tensor that follows by the communicator."""

    dtype: str
    shape: tuple[int, ...]
    requires_grad: bool
    #: Where the reader shall have it, as `channels.devices.destination` says.
    where: str


class Held(NamedTuple):
    """A tensor that is in the message itself, on the host."""

    tensor: Any
    requires_grad: bool
    where: str


class Message(NamedTuple):
    """A value. One that is no Message is itself what was sent."""

    #: The value without its tensors; None: it is one tensor.
    rest: Rest | None
    #: Its tensors, in the order of their numbers in `rest`.
    parts: Sequence[Sent | Held]
