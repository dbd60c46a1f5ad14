"""The transport between threads of one process, for actors that are threads.

Values go through `pack` and `unpack` all the same: between two actors nothing is shared, wherever they run, so a
program behaves alike in a debugger and on a cluster.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from channels import _ring
from channels.alarm import Alarm
from channels.base import Channel, ChannelStatistics, Failure, Reader, Writer
from channels.bell import Bell, ring_all
from channels.errors import ChannelBroken, ChannelClosed, ChannelTimeout, MessageTooLargeError
from channels.serialize import pack, unpack
from channels.spec import ChannelSpec

__all__ = ["LocalChannel", "open_reader", "open_writer"]

T = TypeVar("T")

_numbers = itertools.count(1)
_queues: WeakValueDictionary[int, _Queue] = WeakValueDictionary()


class _Queue:
    """What both ends and the creator share; everything in it is guarded by `lock`.

    An interrupt may come between any two steps. So whoever changes something wakes the others first, who wait for the
    lock then, and the change itself is one step, the last: it has happened, or nothing has but a wake-up.
    """

    def __init__(self, spec: ChannelSpec) -> None:
        self.spec = spec
        self.lock = threading.RLock()
        self.ring: list[tuple[int, bytes] | None] = [None] * spec.slots  # message n is at n % slots
        self.published = 0
        self.taken = [0] * spec.readers
        self.opened = [False] * spec.readers
        self.left = [False] * spec.readers  # readers that closed
        self.armed: list[Callable[[], None] | None] = [None] * spec.readers
        self.bells: set[Bell] = set()  # of the threads that sleep
        self.writer_opened = False
        self.ended = False
        self.broken: str | None = None
        self.bytes = 0
        self.writer_waits = 0
        self.reader_waits = [0] * spec.readers

    def slowest(self) -> int:
        return min((t for t, left in zip(self.taken, self.left, strict=True) if not left), default=self.published)

    def forget_taken(self, since: int) -> None:
        """The messages from number `since` on that nobody will take any more. They would be overwritten, but late."""
        for number in range(max(since, self.published - self.spec.slots), self.slowest()):
            self.ring[number % self.spec.slots] = None

    def notify(self) -> None:
        """Whoever sleeps, or was armed, is to look again, as soon as the lock is free."""
        ring_all(self.bells)
        for index, tell in enumerate(self.armed):
            if tell is not None:
                tell()
                self.armed[index] = None

    def ready(self, index: int) -> bool:
        return self.broken is not None or self.taken[index] < self.published or self.ended

    def check_unbroken(self) -> None:
        if self.broken is not None:
            raise ChannelBroken(f"channel {self.spec.name}: {self.broken}")

    def attempt(self, step: Callable[[], T | None], begin_wait: Callable[[], None], timeout: float | None) -> T:
        """What `step()`, called under the lock again and again, returns at last; `begin_wait()` before a sleep."""
        deadline = _deadline(timeout)
        bell = Bell()
        try:
            while True:
                with self.lock:
                    outcome = step()
                    if outcome is not None:
                        return outcome
                    if bell not in self.bells:
                        begin_wait()
                        self.bells.add(bell)
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise ChannelTimeout(f"channel {self.spec.name}: nothing happened within {timeout} s")
                bell.sleep(remaining)
        finally:
            self.bells.discard(bell)


class LocalWriter(Writer):
    def __init__(self, spec: ChannelSpec) -> None:
        self.spec = spec
        self._queue = _find(spec)
        self._closed = False
        with self._queue.lock:
            if self._queue.writer_opened:
                raise ChannelBroken(f"channel {spec.name}: cannot open the writing end: it was opened before")
            self._queue.writer_opened = True

    def write(self, value: Any, execution: int, timeout: float | None = None) -> None:
        queue = self._queue
        queue.attempt(self._room, self._count_wait, timeout)
        frame = pack(value)  # outside the lock: pickling runs code of the user's classes
        size = len(frame)
        if size > self.spec.max_message_bytes and type(value) is not Failure:
            raise MessageTooLargeError(
                f"channel {self.spec.name}: the value has {size} bytes, more than "
                f"max_message_bytes={self.spec.max_message_bytes}; send less, or allow more"
            )
        with queue.lock:
            queue.check_unbroken()
            if self._closed:  # meanwhile: whoever saw the end must not find more behind it
                raise ChannelClosed(f"channel {self.spec.name}: this end was closed")
            if queue.published - queue.slowest() == self.spec.slots:
                raise RuntimeError(
                    f"channel {self.spec.name}: this end is in use by another call; an end belongs to one thread "
                    "at a time"
                )
            queue.notify()
            queue.ring[queue.published % self.spec.slots] = (execution, frame)
            queue.bytes += size
            queue.published += 1

    def _room(self) -> bool | None:
        queue = self._queue
        if self._closed:
            raise ChannelClosed(f"channel {self.spec.name}: this end was closed")
        queue.check_unbroken()
        if all(queue.left):
            raise ChannelClosed(f"channel {self.spec.name}: no reader is left")
        return queue.published - queue.slowest() < self.spec.slots or None

    def _count_wait(self) -> None:
        self._queue.writer_waits += 1

    def close(self) -> None:
        with self._queue.lock:
            self._queue.notify()
            self._closed = self._queue.ended = True


class LocalReader(Reader):
    def __init__(self, spec: ChannelSpec, index: int) -> None:
        self.spec = spec
        self.index = index
        self._queue = _find(spec)
        self._closed = False
        with self._queue.lock:
            if not 0 <= index < spec.readers or self._queue.opened[index]:
                problem = "it was opened before" if 0 <= index < spec.readers else f"there are {spec.readers} readers"
                raise ChannelBroken(f"channel {spec.name}: cannot open reader {index}: {problem}")
            self._queue.opened[index] = True

    def read(self, execution: int, timeout: float | None = None) -> Any:
        return unpack(self._queue.attempt(lambda: self._take(execution), self._count_wait, timeout))

    def _take(self, execution: int) -> bytes | None:
        queue = self._queue
        if self._closed:
            raise ChannelClosed(f"channel {self.spec.name}: this end was closed")
        queue.check_unbroken()
        number = queue.taken[self.index]
        if number == queue.published:
            if queue.ended:
                raise ChannelClosed(f"channel {self.spec.name}: the writer ended the stream")
            return None
        message = queue.ring[number % self.spec.slots]
        assert message is not None
        found, frame = message
        if found != execution:
            raise ChannelBroken(
                f"channel {self.spec.name}: expected the message of execution {execution}, "
                f"found that of execution {found}"
            )
        ring_all(queue.bells)  # nobody who was armed waits for this
        queue.taken[self.index] = number + 1
        queue.forget_taken(number)
        return frame

    def _count_wait(self) -> None:
        self._queue.reader_waits[self.index] += 1

    def ready(self) -> bool:
        with self._queue.lock:
            return self._closed or self._queue.ready(self.index)

    def arm(self, alarm: Alarm | None = None, /) -> bool:
        if alarm is not None:
            alarm.fileno()  # raises if it was closed
        with self._queue.lock:
            lacks = not (self._closed or self._queue.ready(self.index))
            tell = _ring.wake if alarm is None else alarm.set
            self._queue.armed[self.index] = tell if lacks else None
            return lacks

    def close(self) -> None:
        queue = self._queue
        with queue.lock:
            queue.notify()
            self._closed = queue.left[self.index] = True
            queue.forget_taken(queue.taken[self.index])


class LocalChannel(Channel):
    """The creator's handle; the queue lives as long as it or an end does."""

    def __init__(self, spec: ChannelSpec) -> None:
        number = next(_numbers)
        self.spec = spec.at((os.getpid(), number))
        self._queue = _queues[number] = _Queue(self.spec)

    def break_(self, reason: str) -> None:
        with self._queue.lock:
            self._queue.notify()
            if self._queue.broken is None:
                self._queue.broken = reason

    def statistics(self) -> ChannelStatistics:
        queue = self._queue
        with queue.lock:
            return ChannelStatistics(
                name=self.spec.name,
                messages=queue.published,
                bytes=queue.bytes,
                waiting=queue.published - queue.slowest(),
                writer_waits=queue.writer_waits,
                reader_waits=tuple(queue.reader_waits),
                read=tuple(queue.taken),
            )

    def destroy(self) -> None:
        self.break_("the channel was destroyed by its creator")
        with self._queue.lock:
            self._queue.ring[:] = [None] * self.spec.slots


def open_writer(spec: ChannelSpec) -> Writer:
    return LocalWriter(spec)


def open_reader(spec: ChannelSpec, index: int) -> Reader:
    return LocalReader(spec, index)


def _find(spec: ChannelSpec) -> _Queue:
    pid, number = spec.address
    queue = _queues.get(number) if pid == os.getpid() else None
    if queue is None:
        where = "the channel is gone" if pid == os.getpid() else f"it is in process {pid}, this is {os.getpid()}"
        raise ChannelBroken(f"channel {spec.name}: cannot reach it: {where}")
    return queue


def _deadline(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if not timeout >= 0:
        raise ValueError(f"timeout={timeout!r}; expected seconds >= 0, or None to wait for ever")
    return time.monotonic() + timeout
