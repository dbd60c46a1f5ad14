"""Waiting for what another thread or process will do, where nothing reports it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import psutil

__all__ = ["wait_for_the_end", "wait_until"]

#: A watchdog: whoever needs this many seconds hangs.
_PATIENCE = 50.0
_PAUSE = 0.002


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once `condition()` is true."""
    pause = threading.Event()
    for _ in range(int(_PATIENCE / _PAUSE)):
        if condition():
            return
        pause.wait(_PAUSE)
    raise AssertionError("it never came to that")


def wait_for_the_end(pids: Collection[int]) -> None:
    """Return once none of these processes is there, not even as a zombie."""
    try:
        wait_until(lambda: not any(map(psutil.pid_exists, pids)))
    except AssertionError:
        raise AssertionError(f"still there: {[pid for pid in pids if psutil.pid_exists(pid)]}") from None
