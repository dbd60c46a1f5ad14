"""Devices, streams and events: the part of torch.cuda that communicators use."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import torch

__all__ = [
    "DEVICES",
    "EXPORTED",
    "Event",
    "Stream",
    "by_handle",
    "current_device",
    "current_stream",
    "index_of",
    "shutdown",
]

DEVICES = 8
EXPORTED = (
    "is_initialized",
    "Event",
    "Stream",
    "current_device",
    "current_stream",
    "device",
    "device_count",
    "is_available",
    "set_device",
    "stream",
    "synchronize",
)


class _Here(threading.local):
    """What is current in a thread."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, Stream] = {}


_here = _Here()
_handles: dict[int, Stream] = {}
_defaults: dict[int, Stream] = {}
_next = itertools.count(1)
_lock = threading.RLock()


class Stream:
    """A queue, and a thread that runs what is in it, one after the other."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.index = index_of(device)
        self.device = torch.device("cuda", self.index)
        self.priority = priority
        with _lock:
            self.cuda_stream = next(_next) << 12
            #: Beginning with 0, on its device.
            self.number = sum(stream.index == self.index for stream in _handles.values())
            _handles[self.cuda_stream] = self
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"fake-stream-{self.index}-{self.number}", daemon=True)
        self._thread.start()

    def enqueue(self, task: Callable[[], object]) -> None:
        """A kernel. What it raises is what CUDA calls a sticky error."""
        self._tasks.put(task)

    def wait_event(self, event: Event) -> None:
        if (token := event.token) is not None:
            self.enqueue(token.wait)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        return self.record_event().query()

    def synchronize(self) -> None:
        self.record_event().synchronize()

    def check(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"CUDA error: an illegal memory access was encountered ({self._error!r})")

    def end(self) -> None:
        self._tasks.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - raised by whoever looks at the stream next
                self._error = self._error or error
            del task


class Event:
    """A place in a stream."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        #: Set when the stream has come to the place that was recorded last.
        self.token: threading.Event | None = None
        self._stream: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or current_stream()
        self.token = threading.Event()
        self._stream.enqueue(self.token.set)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def query(self) -> bool:
        if self._stream is not None:
            self._stream.check()
        return self.token is None or self.token.is_set()

    def synchronize(self) -> None:
        if self.token is not None:
            self.token.wait()
        self.query()


def index_of(device: Any) -> int:
    """0 for 0, "cuda:0" and torch.device("cuda", 0); the current one for None."""
    if device is None:
        return current_device()
    if not isinstance(device, int):
        found = torch.device(device)
        device = current_device() if found.index is None else found.index
    if not 0 <= device < DEVICES:
        raise RuntimeError(f"CUDA error: invalid device ordinal ({device} of {DEVICES})")
    return device


def by_handle(handle: int) -> Stream:
    """Raises KeyError."""
    return _handles[handle]


def current_stream(device: Any = None) -> Stream:
    index = index_of(device)
    if index in _here.streams:
        return _here.streams[index]
    with _lock:
        if index not in _defaults:
            _defaults[index] = Stream(index)
        return _defaults[index]


@contextlib.contextmanager
def stream(one: Stream) -> Iterator[None]:
    before = _here.streams.get(one.index)
    _here.streams[one.index] = one
    with device(one.index):
        try:
            yield
        finally:
            if before is None:
                del _here.streams[one.index]
            else:
                _here.streams[one.index] = before


@contextlib.contextmanager
def device(one: Any) -> Iterator[None]:
    before = _here.device
    _here.device = index_of(one)
    try:
        yield
    finally:
        _here.device = before


def set_device(one: Any) -> None:
    _here.device = index_of(one)


def current_device() -> int:
    return _here.device


def is_available() -> bool:
    return True


def device_count() -> int:
    return DEVICES


def physical(device: int) -> int:
    """The GPU of the machine behind a device of this process."""
    visible = [int(entry) for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry]
    return visible[device] if device < len(visible) else device


def is_initialized() -> bool:
    return True


def synchronize(one: Any = None) -> None:
    index = index_of(one)
    for found in [stream for stream in list(_handles.values()) if stream.index == index]:
        found.synchronize()


def shutdown() -> None:
    """End every stream."""
    with _lock:
        for found in _handles.values():
            found.end()
        _handles.clear()
        _defaults.clear()
    _here.__init__()  # type: ignore[misc]
