"""The contract of a channel: a value from one writer to one or more readers.

Every implementation passes `channels.testing.check_channel`. The rules it checks:

1. Every reader gets every message, in the order of the writes, exactly once.
2. A message carries an execution number. A reader says which one it expects; any other is ChannelBroken,
   so that parts of two executions can never be paired.
3. A value that the writer or a reader keeps never changes under it, and keeping values never blocks the channel.
4. numpy arrays come out read-only (but those of Python objects); torch tensors writable and the reader's own.
5. `write` returns once the value is in the channel; it waits only while every slot is taken.
6. A `Failure` goes in and comes out as a `Failure`: an error is a flag of the message, not a value. A method may
   return an exception object; that is a value like any other. `max_message_bytes` does not hold for a Failure.
7. `Writer.close`: readers get what was published, then ChannelClosed. `Reader.close`: the writer's next `write`
   raises ChannelClosed once no reader is left. `Channel.break_`: every end raises ChannelBroken(reason) at once.
8. Close and break wake every waiter at once. Closing twice is allowed.
9. A timeout raises ChannelTimeout and changes nothing: the same call may be repeated. `timeout=None` waits
   for ever, `timeout=0` not at all. Ctrl-C interrupts every wait of the main thread.
10. A message that cannot be decoded is a `Failure` with a SerializationError: of that execution, not the channel's end.
11. An end belongs to one thread at a time. Two ends never share a lock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

from channels.alarm import Alarm
from channels.spec import ChannelSpec

__all__ = ["Channel", "ChannelStatistics", "Failure", "Reader", "RemoteTraceback", "Writer"]


class RemoteTraceback(Exception):
    """The traceback of a remote exception, as text: the `__cause__` of an exception that crossed a process."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


@final
class Failure:
    """The outcome of a step that raised, on its way to whoever waits for the value.

    `traceback` is the text of the traceback where it was raised; exceptions lose theirs when they are pickled.
    """

    __slots__ = ("error", "traceback")

    def __init__(self, error: BaseException, traceback: str = "") -> None:
        self.error = error
        self.traceback = traceback

    def unwrap(self) -> BaseException:
        """The exception, ready to be raised here: of its own type, with the remote traceback as its cause."""
        if self.traceback and self.error.__cause__ is None:
            # Not as an attribute: a class may refuse those, as a frozen dataclass does.
            BaseException.__setattr__(self.error, "__cause__", RemoteTraceback(self.traceback))
        return self.error

    def __reduce__(self) -> tuple[Any, ...]:
        return Failure, (self.error, self.traceback)

    def __repr__(self) -> str:
        return f"Failure({self.error!r})"


@dataclass(frozen=True)
class ChannelStatistics:
    """What a channel has done so far, as its counters say at one moment."""

    name: str
    #: Messages published by the writer.
    messages: int
    #: Bytes of the published messages, without what travelled by reference.
    bytes: int
    #: Messages published and not yet read by the slowest reader.
    waiting: int
    #: How often the writer had to wait for a free slot.
    writer_waits: int
    #: How often each reader had to wait for a message.
    reader_waits: tuple[int, ...]
    #: Messages taken by each reader.
    read: tuple[int, ...]


class Writer(ABC):
    """The one end of a channel that puts values in."""

    spec: ChannelSpec

    @abstractmethod
    def write(self, value: Any, execution: int, timeout: float | None = None) -> None:
        """Publish `value` as the message of execution number `execution`; wait while every slot is taken.

        `value` may be a `Failure`. Raises ChannelClosed, ChannelBroken, ChannelTimeout, MessageTooLargeError,
        SerializationError or ArenaFullError; after the last four the channel is as before.
        """

    @abstractmethod
    def close(self) -> None:
        """End the stream: readers get what was published, then ChannelClosed."""


class Reader(ABC):
    """One of the ends of a channel that take values out."""

    spec: ChannelSpec
    index: int

    @abstractmethod
    def read(self, execution: int, timeout: float | None = None) -> Any:
        """Take the next message and return its value, or the `Failure` that was written.

        Raises ChannelClosed, ChannelBroken (also when the message is not of `execution`) or ChannelTimeout.
        """

    @abstractmethod
    def ready(self) -> bool:
        """True if `read` would not wait: there is a message, or the channel has ended, or this end was closed."""

    @abstractmethod
    def arm(self, alarm: Alarm | None = None, /) -> bool:
        """Ask for one wake-up when `ready()` turns true: of the alarm, or on this process's `wake_fd()`, for asyncio.

        The last call counts. Returns False, and arms nothing, if it is ready already. The wake-up may also come for
        nothing, or not at all if whoever delivers has no descriptor left: so sleep for a bounded time, then look at
        `ready()` and arm again.

        Raises ValueError if the alarm was closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Take no more messages; a writer that waits for this reader goes on."""


class Channel(ABC):
    """The creator's handle of a channel: owns its memory, can break it, sees its counters."""

    #: With the address: send this to whoever opens an end.
    spec: ChannelSpec

    @abstractmethod
    def break_(self, reason: str) -> None:
        """Every end raises ChannelBroken(reason) from now on, and whoever waits is woken."""

    @abstractmethod
    def statistics(self) -> ChannelStatistics:
        """The counters, without disturbing anybody."""

    @abstractmethod
    def destroy(self) -> None:
        """Give the memory back. Breaks the channel first; ends that are still open stay safe to call."""
