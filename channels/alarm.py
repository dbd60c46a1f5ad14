"""Alarm: what a thread sleeps on that waits for several readers at once.

A reader that is armed with it wakes it when it turns ready. A pipe, as the process's own `wake_fd()` is one: whoever
delivers may be another process, which opens it by its number in /proc. Futexes that wait for several words at once came
with Linux 5.16, which is too new to rely on.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress

__all__ = ["Alarm"]


class Alarm:
    """Arm readers with it, then `wait`; look at all of them after it, for it may also come for nothing."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._read_fd, select.POLLIN)
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """The end of the pipe that a byte is put into."""
        return self._write_fd

    def set(self) -> None:
        """End the wait, or the next one if nobody waits. Does nothing after `close`."""
        with self._lock:
            if not self._closed:
                with suppress(BlockingIOError):  # the pipe is full: it wakes anyway
                    os.write(self._write_fd, b"\0")

    def wait(self) -> None:
        """Return when it was set since the last `wait`, however often. For one thread."""
        self._poll.poll()
        os.read(self._read_fd, 4096)

    def close(self) -> None:
        """When nobody waits any more; readers may still be armed with it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._read_fd)
                os.close(self._write_fd)
