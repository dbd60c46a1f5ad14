"""The control thread: one event loop for all of a process's control plane. No user code runs on it.

grpc.aio on one thread, not gRPC's synchronous API. Measured on 2 cores, one message there and back over an open stream
takes 333 us with it and 291-362 us without; but the synchronous API needs three threads a peer, and wakes each channel
nine times a second when nothing happens. This one thread sleeps.

Delivery is the thread that user code runs on: unpickling of results, callbacks of futures, watches.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from runtime import current
from runtime.event_loop import EventLoopThread

__all__ = ["ControlThread", "Delivery"]

_log = logging.getLogger("dagc")
_JOIN_S = 1.0


class ControlThread(EventLoopThread):
    """The control thread of this process."""

    def __init__(self) -> None:
        super().__init__("dagc-control")

    def _run(self) -> None:
        current.thread.own = True
        super()._run()


class Delivery:
    """A thread that calls what it is given, in order."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dagc-delivery", daemon=True)
        self._thread.start()

    def put(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function` after everything that was put before."""
        self._jobs.put((function, args))

    def close(self) -> None:
        """Call what was put, then end the thread. From that very thread it only asks for its end."""
        self._jobs.put(None)
        if threading.current_thread() is not self._thread:
            # Not for ever: a handler that shuts down may have interrupted what holds a lock that a job waits for.
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        current.thread.own = True
        while (job := self._jobs.get()) is not None:
            function, args = job
            try:
                function(*args)
            except BaseException:  # noqa: BLE001 - a user's callback may raise anything, also SystemExit
                _log.exception("a callback raised")
