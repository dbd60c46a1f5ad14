"""What passes between a caller and an actor: plain records that every engine carries in its own way.

A METHOD or CALL request has one reply, a LOOP request has two: when it is set up, and when it has ended.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from channels.errors import MessageTooLargeError

__all__ = ["MAX_MESSAGE_BYTES", "Kind", "Reply", "Request", "check_size"]

#: A protobuf message must stay under 2 GiB; the rest is room for its other fields.
MAX_MESSAGE_BYTES = 2**31 - 2**20


class Kind(enum.IntEnum):
    """What is asked of an actor. The numbers are those of control.proto."""

    METHOD = 0
    CALL = 1
    LOOP = 2


@dataclass(frozen=True)
class Request:
    """One thing asked of an actor by one caller; `id` is the caller's own count.

    payload: METHOD: packed (args, kwargs); otherwise packed (function, args).
    values: what stands for the `Argument`s among them, each packed on its own.
    """

    id: int
    kind: Kind
    method: str
    payload: bytes
    values: tuple[bytes, ...] = ()
    num_returns: int = 1


@dataclass(frozen=True)
class Reply:
    """`values` are packed; if `failed`, there is one, a Failure. `last`: no other reply to the request follows."""

    id: int
    failed: bool
    last: bool
    values: tuple[bytes, ...]


def check_size(what: str, parts: Sequence[bytes]) -> None:
    """Raise MessageTooLargeError if `parts` (`what`: a plural) do not fit into one message."""
    total = sum(map(len, parts))
    if total > MAX_MESSAGE_BYTES:
        raise MessageTooLargeError(
            f"{what} take {total} bytes; one call carries at most {MAX_MESSAGE_BYTES}; pass them in several pieces"
        )
