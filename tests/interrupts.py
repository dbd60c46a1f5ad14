"""Ctrl-C, or a signal handler that returns, at every point where it can come, one after the other, not at random."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["at_every_point", "in_time", "interrupted", "interrupted_by"]

#: A watchdog: whoever needs this many seconds hangs.
_PATIENCE = 30.0
#: Far more than any function here has.
_MOST = 2000


def interrupted(function: Callable[[], Any], point: int) -> bool:
    """Call it; at its `point`th point KeyboardInterrupt is raised. Whether there is such a point.

    What a C function returned is lost by that, as it is by a handler. Whatever else the function raises goes up.
    """
    came = False

    def interrupt() -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    try:
        return interrupted_by(interrupt, function, point)
    except KeyboardInterrupt:
        if not came:
            raise
    return True


def interrupted_by(handle: Callable[[], None], function: Callable[[], Any], point: int) -> bool:
    """Call `function`; at its `point`th point `handle()` is called. Whether there is such a point.

    Python runs signal handlers where a function begins, after a call of one that is written in C, and in a jump
    backwards; a profiler is called at the first two of these, and what it raises arrives as if a handler had.
    """
    left = point
    came = False

    def profile(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal left, came
        if event in ("call", "c_return") and not came:
            came = left == 0
            left -= 1
            if came:
                sys.setprofile(None)
                handle()

    gc.collect()
    gc.disable()  # what it would call here is not what is looked at
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
        gc.enable()
    return came


def at_every_point(check: Callable[[int], bool]) -> None:
    """`check(point)` of 0, 1, ..., until it says that there was no such point."""
    point = 0
    while check(point):
        point += 1
        assert point < _MOST
    assert point > 0, "it was never interrupted"


def in_time(function: Callable[[], Any]) -> Any:
    """What it returns, or raises, in a thread of its own; AssertionError if it hangs, and the thread is left behind."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    assert outcome, "it hangs"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
