"""The transport between threads of one process, for actors that are threads.

Values go through `pack` and `unpack` all the same: between two actors nothing is shared, wherever they run, so a
program behaves alike in a debugger and on a cluster.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from channels import _ring
from channels.alarm import Alarm
from channels.base import Channel, ChannelStatistics, Failure, Reader, Writer
from channels.errors import ChannelBroken, ChannelClosed, ChannelTimeout, MessageTooLargeError
from channels.serialize import pack, unpack
from channels.spec import ChannelSpec

__all__ = ["LocalChannel", "open_reader", "open_writer"]

_numbers = itertools.count(1)
_queues: WeakValueDictionary[int, _Queue] = WeakValueDictionary()


class _Queue:
    """What both ends and the creator share; everything in it is guarded by `lock`."""

    def __init__(self, spec: ChannelSpec) -> None:
        self.spec = spec
        # Entered as itself, never as `with changed`: that is Python, and Ctrl-C between its taking the lock and the
        # body would leave it taken for ever.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.messages: deque[tuple[int, bytes]] = deque()  # what the slowest reader has not taken yet
        self.first = 0  # the number of messages[0]
        self.taken = [0] * spec.readers
        self.opened = [False] * spec.readers
        self.left = [False] * spec.readers  # readers that closed
        self.armed: list[Callable[[], None] | None] = [None] * spec.readers
        self.writer_opened = False
        self.ended = False
        self.broken: str | None = None
        self.bytes = 0
        self.writer_waits = 0
        self.reader_waits = [0] * spec.readers

    @property
    def published(self) -> int:
        return self.first + len(self.messages)

    def slowest(self) -> int:
        return min((t for t, left in zip(self.taken, self.left, strict=True) if not left), default=self.published)

    def discard_taken(self) -> None:
        while self.messages and self.first < self.slowest():
            self.messages.popleft()
            self.first += 1

    def notify(self) -> None:
        self.changed.notify_all()
        for index, tell in enumerate(self.armed):
            if tell is not None and self.ready(index):
                self.armed[index] = None
                tell()

    def ready(self, index: int) -> bool:
        return self.broken is not None or self.taken[index] < self.published or self.ended

    def check_unbroken(self) -> None:
        if self.broken is not None:
            raise ChannelBroken(f"channel {self.spec.name}: {self.broken}")

    def wait(self, deadline: float | None, timeout: float | None) -> None:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise ChannelTimeout(f"channel {self.spec.name}: nothing happened within {timeout} s")
        self.changed.wait(remaining)


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
        deadline = _deadline(timeout)
        waited = False
        with queue.lock:
            while True:
                if self._closed:
                    raise ChannelClosed(f"channel {self.spec.name}: this end was closed")
                queue.check_unbroken()
                if all(queue.left):
                    raise ChannelClosed(f"channel {self.spec.name}: no reader is left")
                if queue.published - queue.slowest() < self.spec.slots:
                    break
                if not waited:
                    queue.writer_waits += 1
                    waited = True
                queue.wait(deadline, timeout)
        frame = pack(value)  # outside the lock: pickling runs code of the user's classes
        if len(frame) > self.spec.max_message_bytes and type(value) is not Failure:
            raise MessageTooLargeError(
                f"channel {self.spec.name}: the value has {len(frame)} bytes, more than "
                f"max_message_bytes={self.spec.max_message_bytes}; send less, or allow more"
            )
        with queue.lock:
            queue.check_unbroken()
            if self._closed:  # meanwhile: whoever saw the end must not find more behind it
                raise ChannelClosed(f"channel {self.spec.name}: this end was closed")
            queue.messages.append((execution, frame))
            queue.bytes += len(frame)
            queue.discard_taken()
            queue.notify()

    def close(self) -> None:
        with self._queue.lock:
            self._closed = True
            self._queue.ended = True
            self._queue.notify()


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
        queue = self._queue
        deadline = _deadline(timeout)
        waited = False
        with queue.lock:
            while True:
                if self._closed:
                    raise ChannelClosed(f"channel {self.spec.name}: this end was closed")
                queue.check_unbroken()
                if queue.taken[self.index] < queue.published:
                    break
                if queue.ended:
                    raise ChannelClosed(f"channel {self.spec.name}: the writer ended the stream")
                if not waited:
                    queue.reader_waits[self.index] += 1
                    waited = True
                queue.wait(deadline, timeout)
            found, frame = queue.messages[queue.taken[self.index] - queue.first]
            if found != execution:
                raise ChannelBroken(
                    f"channel {self.spec.name}: expected the message of execution {execution}, "
                    f"found that of execution {found}"
                )
            queue.taken[self.index] += 1
            queue.discard_taken()
            queue.notify()
        return unpack(frame)

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
        with self._queue.lock:
            self._closed = True
            self._queue.left[self.index] = True
            self._queue.discard_taken()
            self._queue.notify()


class LocalChannel(Channel):
    """The creator's handle; the queue lives as long as it or an end does."""

    def __init__(self, spec: ChannelSpec) -> None:
        number = next(_numbers)
        self.spec = spec.at((os.getpid(), number))
        self._queue = _queues[number] = _Queue(self.spec)

    def break_(self, reason: str) -> None:
        with self._queue.lock:
            if self._queue.broken is None:
                self._queue.broken = reason
            self._queue.notify()

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
            self._queue.first += len(self._queue.messages)
            self._queue.messages.clear()


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
