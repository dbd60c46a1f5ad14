"""Ctrl-C during a wait that happens in somebody else's C++.

Python runs signal handlers in the main thread, between two of its own instructions. A wait in a library that knows
nothing of it would keep Ctrl-C waiting, too. So the main thread lets a thread of ours wait, and waits for that with a
lock, which signals interrupt. Other threads never see a signal; they wait themselves, without the hop, which costs tens
of microseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Stand"]

#: Seconds that an interrupted call has to come to its end.
_SETTLE_S = 5.0


class _Call:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.over = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class Stand:
    """Stands in for the main thread in waits. Its thread is started with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], Any], interrupt: Callable[[BaseException], None]) -> Any:
        """`function()`, made by another thread if this is the main one.

        If a signal handler raises meanwhile, `interrupt(error)` must make the function end, and the error is raised.
        """
        if threading.current_thread() is not threading.main_thread():
            return function()
        if self._thread is None:
            self._thread = threading.Thread(target=_serve, args=(self._calls,), name=self._name, daemon=True)
            self._thread.start()
        call = _Call(function)
        self._calls.put(call)
        try:
            call.over.wait()
        except BaseException as error:
            interrupt(error)
            call.over.wait(_SETTLE_S)
            raise
        if call.error is not None:
            raise call.error
        return call.value

    def close(self) -> None:
        """End the thread. It must not be in a call."""
        if self._thread is not None:
            self._calls.put(None)
            if threading.current_thread() is not self._thread:
                self._thread.join(_SETTLE_S)
            self._thread = None


def _serve(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        try:
            call.value = call.function()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            call.error = error
        call.over.set()
        del call
