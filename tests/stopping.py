"""Processes that a test stops, as a debugger would."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["stopped"]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Inside, no thread of the child process `pid` runs. `kill` alone returns before they have all stopped."""
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
