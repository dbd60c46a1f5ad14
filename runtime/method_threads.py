"""MethodThreads: where the methods of an actor run that has several at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime.current import inside

if TYPE_CHECKING:
    from runtime.ids import ActorId

__all__ = ["MethodThreads"]

_Job = tuple[Callable[..., None], tuple[Any, ...]]


class MethodThreads:
    """Threads that are kept for the next method. Whoever submits limits how many run at the same time.

    Not a ThreadPoolExecutor: at its end the interpreter waits for the threads of one, and a method may never return.
    """

    def __init__(self, name: str, actor_id: ActorId) -> None:
        self._name = name
        self._actor_id = actor_id
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Call `function` in a thread. Raises RuntimeError if it takes another one, and the system has none."""
        job = function, args
        if self._idle.acquire(blocking=False):
            self._jobs.put(job)
        else:
            threading.Thread(target=self._run, args=(job,), name=self._name, daemon=True).start()

    def stop(self) -> None:
        """End the threads once they are idle."""
        self._jobs.put(None)

    def _run(self, job: _Job | None) -> None:
        inside.set(self._actor_id)
        while job is not None:
            function, args = job
            function(*args)
            del job, function, args  # what they hold is not to live until the next one comes
            self._idle.release()
            job = self._jobs.get()
        self._jobs.put(None)  # for the next thread
