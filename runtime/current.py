"""The engine of this process: one at a time, started at first use if nobody started one. And whose code runs here.

A module of its own so that a handle can reach the engine without importing any implementation of one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.engine import Engine
    from runtime.ids import ActorId

__all__ = ["check_thread", "clear", "engine", "inside", "install", "set_default", "started", "thread"]

#: The actor whose code runs in this thread or coroutine; None outside of any, and in threads that its code starts.
inside: ContextVar[ActorId | None] = ContextVar("inside", default=None)


class _Thread(threading.local):
    #: Whether results come through this thread, so that what waits for one here waits for itself. A user's code runs
    #: here in callbacks of futures, and in `__del__`, which the garbage collector calls in any thread.
    own = False


thread = _Thread()


def check_thread(what: str) -> None:
    """Refuse to wait for results on the thread that they come through: EngineError."""
    if thread.own:
        raise EngineError(
            f"{what} in a callback or a __del__ that runs on the thread which results come through: it would wait for "
            "itself; start a thread for it"
        )


_lock = threading.RLock()
_engine: Engine | None = None
_default: Callable[[], Engine] | None = None


def set_default(start: Callable[[], Engine]) -> None:
    """`start` makes the engine when one is needed and none was started."""
    global _default
    _default = start


def started() -> Engine | None:
    """The engine, if there is one."""
    return _engine


def engine() -> Engine:
    """The engine of this process; starts the default one at first use."""
    global _engine
    with _lock:
        if _engine is None:
            if _default is None:
                raise EngineError("no engine is running in this process; call dagc.init() first")
            _engine = _default()
        return _engine


def install(start: Callable[[], Engine]) -> Engine:
    """Start an engine as this process's own. Raises EngineError if there is one already."""
    global _engine
    with _lock:
        if _engine is not None:
            raise EngineError(f"{_engine!r} is running in this process already; call dagc.shutdown() before init()")
        _engine = start()
        return _engine


def clear(engine: Engine) -> None:
    """Forget this engine; another one that was installed meanwhile stays."""
    global _engine
    with _lock:
        if _engine is engine:
            _engine = None
