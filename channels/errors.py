"""What can go wrong with a channel, and the root of every error that dagc raises on purpose.

The root lives in the lowest layer because every layer raises under it; `dagc` re-exports the whole tree.

    DagcError
    ├── ChannelError
    │   ├── ChannelClosed          you, or the peer, closed it in an orderly way
    │   ├── ChannelBroken          the world did: a peer died, a header was overwritten
    │   ├── ChannelTimeout         (also a TimeoutError) the wait was longer than allowed; nothing was lost
    │   └── MessageTooLargeError   (also a ValueError) the value exceeds max_message_bytes; nothing was sent
    ├── SerializationError         (also a TypeError) the value cannot leave its process; nothing was sent
    └── ArenaFullError             (also a MemoryError) this process's shared memory cannot grow
"""

from __future__ import annotations

__all__ = [
    "ArenaFullError",
    "ChannelBroken",
    "ChannelClosed",
    "ChannelError",
    "ChannelTimeout",
    "DagcError",
    "MessageTooLargeError",
    "SerializationError",
]


class DagcError(Exception):
    """Root of every error that dagc raises on purpose."""


class ChannelError(DagcError):
    """Root of the errors of one channel."""


class ChannelClosed(ChannelError):
    """The channel was closed in an orderly way, by this end or by the other.

    A reader first gets every message that was published before the close. This is the normal end of a stream.
    """


class ChannelBroken(ChannelError):
    """The channel cannot be used any more and messages may be lost: a peer died or the memory is not a channel."""


class ChannelTimeout(ChannelError, TimeoutError):
    """The wait was longer than its timeout. The channel is as before; the same call may be repeated."""


class MessageTooLargeError(ChannelError, ValueError):
    """A message is larger than the channel's `max_message_bytes`. Nothing was sent; the channel is as before."""


class SerializationError(DagcError, TypeError):
    """A value cannot be serialized. Nothing was sent; the channel is as before."""


class ArenaFullError(DagcError, MemoryError):
    """The arena of this process has no room for another block, or the machine has no memory for it."""
