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

#: A sleep is cut, as those of the rings are: whoever delivers may have no descriptor left to open the pipe with, or die
#: between the message and the byte.
SLEEP_SECONDS = 0.1


class Alarm:
    """Arm readers with it, then `wait`; look at all of them after it, for it may also come for nothing.

    What is asked of a closed one raises ValueError; but readers that are still armed with it are no fault.
    """

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._read_fd, select.POLLIN)
        self._lock = threading.RLock()  # what sets it may be interrupted by a handler that does, too
        self._closed = False

    def fileno(self) -> int:
        """The end of the pipe that a byte is put into."""
        self._check_open()
        return self._write_fd

    def set(self) -> None:
        """End the wait, or the next one if nobody waits. Does nothing after `close`."""
        with self._lock:
            if not self._closed:
                with suppress(BlockingIOError):  # the pipe is full: it wakes anyway
                    os.write(self._write_fd, b"\0")

    def wait(self) -> bool:
        """Sleep until it was set since the last `wait`, however often: True; or for SLEEP_SECONDS: False.

        For one thread.
        """
        self._check_open()
        if not self._poll.poll(SLEEP_SECONDS * 1e3):
            return False
        os.read(self._read_fd, 4096)
        return True

    def close(self) -> None:
        """When nobody waits any more; readers may still be armed with it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._read_fd)
                os.close(self._write_fd)

    def _check_open(self) -> None:
        # The numbers may be somebody else's files by now.
        if self._closed:
            raise ValueError("the alarm was closed")
