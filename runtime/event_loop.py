"""An asyncio event loop in a thread of its own: for an actor's async methods, and for the control plane."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["EventLoopThread"]

T = TypeVar("T")


class EventLoopThread:
    """Runs an event loop until `close`. Its methods are for other threads."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        #: A loop refers to its tasks weakly: one that waits for what only it knows would be collected as garbage.
        self._started: set[Future[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function` on the loop's thread, in the order of the calls of `soon`. RuntimeError if it was closed."""
        self._loop.call_soon_threadsafe(function, *args)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine there, and do not wait."""
        started = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._started.add(started)
        started.add_done_callback(self._started.discard)

    def close(self, *, wait: bool = True) -> None:
        """Cancel what is running there and end the thread. Only once."""
        self.soon(self._end)
        if wait:
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
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
        self._loop.stop()
