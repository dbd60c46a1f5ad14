"""What can go wrong with a channel, and the root of every error that dagc raises on purpose.

The root lives in the lowest layer because every layer raises under it; `dagc` re-exports the whole tree.

    DagcError
    ├── ChannelError
    │   ├── ChannelClosed          you, or the peer, closed it in an orderly way
    │   ├── ChannelBroken          the world did: a peer died, a header was overwritten
    │   ├── ChannelTimeout         (also a TimeoutError) the wait was longer than allowed; nothing was lost in a channel
    │   └── MessageTooLargeError   (also a ValueError) the value exceeds max_message_bytes; nothing was sent
    ├── CommunicatorError
    │   └── MismatchError          (also a ValueError) the ranks of a group asked for different things; nothing was done
    ├── SerializationError         (also a TypeError) the value cannot leave its process; nothing was sent
    └── ArenaFullError             (also a MemoryError) this process's shared memory cannot grow
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = [
    "ArenaFullError",
    "ChannelBroken",
    "ChannelClosed",
    "ChannelError",
    "ChannelTimeout",
    "CommunicatorError",
    "DagcError",
    "MessageTooLargeError",
    "MismatchError",
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
    """The wait was longer than its timeout. A channel is as before; the same call may be repeated.

    Not so a communicator: its group is broken, because the other ranks may have got further (channels.communicators).
    """


class MessageTooLargeError(ChannelError, ValueError):
    """A message is larger than the channel's `max_message_bytes`. Nothing was sent; the channel is as before."""


class CommunicatorError(DagcError):
    """Root of the errors that only communicators have. They raise ChannelBroken, ChannelClosed, ChannelTimeout, too."""


class MismatchError(CommunicatorError, ValueError):
    """The ranks of a group asked for different things at once. Raised on every rank; no tensor was changed.

    `asked` has what each rank asked for, in words, and `declined` the ranks that had nothing to give. `cause` is why,
    in the bytes that the lowest of them gave to `Communicator.decline`, the same on every rank. The group is as before.
    """

    def __init__(self, message: str, asked: Mapping[int, str] | None = None, declined: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.asked = dict(asked or {})
        self.declined = tuple(declined)
        self.cause = b""


class SerializationError(DagcError, TypeError):
    """A value cannot be serialized. Nothing was sent; the channel is as before."""


class ArenaFullError(DagcError, MemoryError):
    """The arena of this process has no room for another block, or the machine has no memory for it."""
