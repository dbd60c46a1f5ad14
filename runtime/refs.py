"""ObjectRef: a value that is there already or on its way."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

__all__ = ["ObjectRef", "new_result"]

_log = logging.getLogger("dagc")


class _Result(Future[Any]):
    """Calls every callback, also behind one that raises SystemExit: a Future lets that through and drops the others."""

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        def call(future: Future[Any]) -> None:
            try:
                fn(future)
            except Exception:
                raise  # a Future logs it
            except BaseException:
                if threading.current_thread() is threading.main_thread():  # Ctrl-C, or the end of the script
                    raise
                _log.exception("a callback raised")

        super().add_done_callback(call)


def new_result() -> Future[Any]:
    """A future for a result on its way. Nobody can cancel it: it is running from the start, because whoever stops
    waiting must not take the result from everybody else who holds the ref."""
    future = _Result()
    future.set_running_or_notify_cancel()
    return future


class ObjectRef:
    """The result of a call that may still be running, or a value that was put. Hashable; compares by identity.

    `dagc.get(ref)` or `await ref` gives the value, or raises what the method raised. Passed as an argument of a call it
    is replaced by its value.
    """

    __slots__ = ("__weakref__", "_future", "_label")

    def __init__(self, future: Future[Any], label: str) -> None:
        """`future` must be running or done, as `new_result` makes it."""
        self._future = future
        self._label = label

    def future(self) -> Future[Any]:
        """The same result as a concurrent.futures.Future. It cannot be cancelled."""
        return self._future

    def __await__(self) -> Generator[Any, None, Any]:
        waiter = asyncio.wrap_future(self._future)
        try:
            yield from asyncio.wait([waiter]).__await__()
        finally:
            waiter.cancel()  # does nothing once it is done, and never reaches the result itself
        error = self._future.exception()
        if error is not None:
            waiter.exception()  # or asyncio would log that nobody did
            # The same exception is raised by every await: without this, each would add its frames to it.
            raise error.with_traceback(None)
        return self._future.result()

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled; pass it as an argument of its own, or pass dagc.get(ref)")

    def __repr__(self) -> str:
        state = "ready" if self._future.done() else "pending"
        return f"ObjectRef({self._label}, {state})"
