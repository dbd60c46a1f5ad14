"""Bells: sleeping, and being woken."""

from __future__ import annotations

import signal
import threading
import time

from channels.bell import Bell
from tests.interrupts import in_time
from tests.waiting import wait_until


def test_ringing_ends_the_sleep() -> None:
    bell = Bell()
    sleeper = threading.Thread(target=bell.sleep, args=(None,))
    sleeper.start()
    bell.ring()
    sleeper.join()


def test_who_was_rung_before_does_not_sleep() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    in_time(lambda: bell.sleep(None))


def test_a_timeout_may_be_longer_than_a_lock_can_wait() -> None:
    bell = Bell()
    bell.ring()
    in_time(lambda: bell.sleep(1e30))


def test_a_sleep_ends_though_a_handler_lasts_longer() -> None:
    bell, seconds = Bell(), 0.05
    handled = []

    def handle(*_: object) -> None:
        handled.append(True)
        while time.monotonic() < end:
            pass

    before = signal.signal(signal.SIGALRM, handle)
    try:
        end = time.monotonic() + 2 * seconds
        signal.setitimer(signal.ITIMER_REAL, seconds / 2)
        bell.sleep(seconds)
        wait_until(lambda: bool(handled))  # on a busy machine the sleep may end first
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
