"""The compiled graphs of this process that are not torn down: `dagc.shutdown` finds them, a thread ends dropped ones.

A graph that is dropped with results on their way is part of a cycle, so it is the garbage collector that finds it, in
whatever thread allocates at that moment and under whatever locks: it may be the engine's own thread, which would have
to answer. So its end is left to a thread that has nothing else to do.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Protocol

__all__ = ["end_soon", "open_graphs", "register", "stop"]

_log = logging.getLogger("dagc")


class _Graph(Protocol):
    def teardown(self, timeout: float) -> None: ...


class _Ender:
    def __init__(self) -> None:
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="dagc-ender", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (job := self.jobs.get()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001 - others are to be ended after it
                _log.exception("a graph that was dropped could not be ended")
            del job


#: Not a WeakSet: going through one fails if another thread compiles or tears down meanwhile.
_open: set[weakref.ref[_Graph]] = set()
_ender: _Ender | None = None
_lock = threading.Lock()


def _forget() -> None:
    """A fork has neither the threads nor the graphs."""
    global _ender, _lock
    _ender, _lock = None, threading.Lock()
    _open.clear()


os.register_at_fork(after_in_child=_forget)


def register(graph: _Graph) -> Callable[[], object]:
    """Count a graph as open, until it is gone or what is returned is called."""
    global _ender
    with _lock:
        if _ender is None:
            _ender = _Ender()
    ref = weakref.ref(graph, _open.discard)
    _open.add(ref)
    return partial(_open.discard, ref)


def open_graphs() -> list[_Graph]:
    return [graph for ref in list(_open) if (graph := ref()) is not None]


def end_soon(end: Callable[[], None]) -> None:
    """Have a dropped graph ended. For `__del__`: it takes no lock, and waits for nothing."""
    ender = _ender
    if ender is None:  # shut down: there is no engine left that it could wait for
        end()
    else:
        ender.jobs.put(end)


def stop() -> None:
    """End what was dropped, and the thread. The next graph starts another."""
    global _ender
    with _lock:
        ender, _ender = _ender, None
    if ender is not None:
        ender.jobs.put(None)
        if ender.thread is not threading.current_thread():
            ender.thread.join()
