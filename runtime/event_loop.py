"""An asyncio event loop in a thread of its own: for an actor's async methods, and for the control plane."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from runtime.errors import EngineError

__all__ = ["EventLoopThread"]

T = TypeVar("T")


class EventLoopThread:
    """Runs an event loop until `close`. Its methods are for other threads."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        #: A loop refers to its tasks weakly: one that waits for what only it knows would be collected as garbage.
        self._started: set[Future[Any]] = set()
        #: Orders what is begun before the end, which cancels it, and what is too late. Reentrant for signal handlers.
        self._lock = threading.RLock()
        self._closed = self._stopped = False
        self._ending: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function` on the loop's thread, in the order of the calls of `soon`. EngineError if it was closed."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            raise EngineError("the engine was shut down") from None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it. EngineError if the loop ends first, or if this is its own thread."""
        if self.is_here():  # say in a user's __del__, which gc calls wherever it runs
            coroutine.close()
            raise EngineError("this thread is dagc's own, and would wait for itself; do it in a thread of yours")
        started = self._begin(coroutine)
        try:
            return started.result()
        except CancelledError:
            if not self._closed:
                raise
            raise EngineError("the engine was shut down") from None

    def is_here(self) -> bool:
        """Whether this is the loop's thread."""
        return threading.current_thread() is self._thread

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine there, and do not wait."""
        self._begin(coroutine)

    def _begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        # RuntimeError: a signal handler has closed it in the middle of this.
        with self._lock, contextlib.suppress(RuntimeError):
            if not self._closed:
                started = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
                self._started.add(started)
                started.add_done_callback(self._started.discard)
                return started
        coroutine.close()
        raise EngineError("the engine was shut down")

    def close(self, *, wait: bool = True) -> None:
        """Cancel what is running there and end the thread. Only once."""
        with self._lock:
            self._closed = True
            self.soon(self._end)
        if wait:
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._stopped:
                # asyncio raises these through the loop, from a task that the user's code has started. Whoever awaits
                # that task hears of them; the other tasks must go on.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    self._loop.run_forever()
        finally:
            self._loop.close()

    def _end(self) -> None:
        self._ending = self._loop.create_task(self._cancel_all())

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Their results are on the way to those who wait: a loop that stops drops its callbacks. Each is asked, since
        # Ctrl-C or a signal handler in the middle of `_begin` may leave one in the set.
        while not all(started.done() for started in tuple(self._started)):
            await asyncio.sleep(0)
        self._stopped = True
        self._loop.stop()
