"""ChannelSpec: how to open a channel. The spec travels between processes; the ends do not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

__all__ = ["DEFAULT_BUFFER_BYTES", "DEFAULT_MAX_MESSAGE_BYTES", "DEFAULT_SLOTS", "ChannelSpec"]

#: Messages that a channel holds before its writer waits.
DEFAULT_SLOTS = 8
#: Bytes that one slot holds inline; what is larger travels in a block beside the slots.
DEFAULT_BUFFER_BYTES = 4096
#: A larger message is refused with MessageTooLargeError.
DEFAULT_MAX_MESSAGE_BYTES = 2**30


@dataclass(frozen=True)
class ChannelSpec:
    """A channel of one writer and a fixed number of readers, each of which gets every message in order.

    Made without an address, it is a wish; `create_channel` returns a handle whose `spec` has the address,
    and any process that the address can be reached from may open an end of it.
    """

    #: Stands in every error message; in a compiled graph the name of the value that the channel carries.
    name: str
    #: "local" (threads of one process) or "shm" (processes of one machine).
    transport: str
    #: How many readers there are. Each opens the channel once, under its own index.
    readers: int = 1
    slots: int = DEFAULT_SLOTS
    buffer_bytes: int = DEFAULT_BUFFER_BYTES
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    #: The longest that a wait yields the processor before it sleeps, in microseconds; None: as suits the machine.
    yield_us: float | None = None
    #: Where it is; the transport's own business, picklable.
    address: Any = None

    def __post_init__(self) -> None:
        if self.readers < 1:
            raise ValueError(f"channel {self.name!r} has {self.readers} readers; expected at least 1")
        if not 1 <= self.slots <= 2**20:
            raise ValueError(f"channel {self.name!r} has {self.slots} slots; expected 1 to {2**20}")
        if not 64 <= self.buffer_bytes <= 2**26:
            raise ValueError(f"channel {self.name!r}: buffer_bytes={self.buffer_bytes}; expected 64 to {2**26}")
        if self.max_message_bytes < 1:
            raise ValueError(f"channel {self.name!r}: max_message_bytes={self.max_message_bytes}; expected at least 1")

    def at(self, address: Any) -> ChannelSpec:
        """The same channel, placed."""
        return replace(self, address=address)
