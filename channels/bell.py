"""Bell: what a thread sleeps on until something that it looks at may have changed, however it is interrupted.

Python runs signal handlers in the middle of everything that is written in Python. So this is not a threading.Condition,
whose wait loses its lock if Ctrl-C comes just as that was released; nor a queue.SimpleQueue, whose `get`, up to Python
3.12, waits for ever if a handler returns only after its timeout. Taking a lock is one step, and sees to its timeout.
"""

from __future__ import annotations

import threading

__all__ = ["Bell", "ring_all"]


class Bell:
    """For one thread and one wait. Whoever changes something rings it; the sleeper looks again."""

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        """End the sleep, or the next one if it has not begun."""
        try:
            self._silent.release()
        except RuntimeError:  # it was rung already
            return

    def sleep(self, seconds: float | None) -> None:
        """Until it was rung, or for so many seconds; None: as long as it takes."""
        self._silent.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))


def ring_all(bells: set[Bell]) -> None:
    """Other threads may add theirs meanwhile, and take them away."""
    for bell in list(bells):  # one step, where tuple() goes through the set in several
        bell.ring()
