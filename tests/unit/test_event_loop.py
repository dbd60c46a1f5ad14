"""EventLoopThread: what is begun on it, by whom, and what becomes of that when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from inspect import CORO_CLOSED, getcoroutinestate
from typing import Any

import pytest

from runtime.errors import EngineError
from runtime.event_loop import EventLoopThread

#: A watchdog: whoever needs this many seconds hangs.
HANG = 30.0


@pytest.fixture
def loop() -> Iterator[EventLoopThread]:
    """The test may close it."""
    made = EventLoopThread("test")
    yield made
    with suppress(EngineError):  # it was closed, and its thread is about to end
        made.close(wait=False)
    made._thread.join(HANG)


def in_a_thread(function: Callable[[], Any]) -> Future[Any]:
    """What comes of it: the thread that waits here may wait for ever."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - what it raises is looked at
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def on(loop: EventLoopThread, function: Callable[[], Any]) -> Any:
    """Call it on the loop's own thread."""
    result: Future[Any] = Future()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - what it raises is looked at
            result.set_exception(error)

    loop.soon(call)
    return result.result(HANG)


async def one() -> int:
    return 1


class Waiting:
    """A coroutine that waits, and those who hear of it: that it has begun, and that it was cancelled."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()
        #: Once cancelled, it ends only then.
        self.may_end = threading.Event()
        self.may_end.set()

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()
            while not self.may_end.is_set():
                await asyncio.sleep(0)


# ---- its own thread ----


def test_it_is_refused_to_wait_on_the_own_thread(loop: EventLoopThread) -> None:
    coroutine = one()
    with pytest.raises(EngineError, match=r"dagc's own.*wait for itself"):
        on(loop, lambda: loop.run(coroutine))
    assert getcoroutinestate(coroutine) == CORO_CLOSED, "nobody awaits it any more"
    assert loop.run(one()) == 1


def test_the_own_thread_may_start_what_it_does_not_wait_for(loop: EventLoopThread) -> None:
    waiting = Waiting()
    on(loop, lambda: loop.start(waiting()))
    assert waiting.begun.wait(HANG)
    assert on(loop, loop.is_here)
    assert not loop.is_here()


# ---- the end ----


def test_whoever_waits_at_the_end_is_told(loop: EventLoopThread) -> None:
    waiting = Waiting()
    waits = in_a_thread(lambda: loop.run(waiting()))
    assert waiting.begun.wait(HANG)
    loop.close()
    with pytest.raises(EngineError, match="shut down"):
        waits.result(HANG)
    assert waiting.cancelled.is_set()


def test_what_cancels_itself_is_no_end(loop: EventLoopThread) -> None:
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        loop.run(cancels_itself())
    assert loop.run(one()) == 1


@pytest.mark.parametrize("begin", [EventLoopThread.run, EventLoopThread.start])
def test_nothing_is_begun_after_the_end(loop: EventLoopThread, begin: Callable[..., None]) -> None:
    loop.close()
    coroutine = one()
    with pytest.raises(EngineError, match="shut down"):
        begin(loop, coroutine)
    assert getcoroutinestate(coroutine) == CORO_CLOSED, "nobody awaits it any more"


def test_nothing_is_begun_while_it_ends(loop: EventLoopThread) -> None:
    """It has cancelled what it knew of, and would not cancel this."""
    waiting = Waiting()
    waiting.may_end.clear()
    loop.start(waiting())
    assert waiting.begun.wait(HANG)
    loop.close(wait=False)
    assert waiting.cancelled.wait(HANG)
    coroutine = one()
    try:
        with pytest.raises(EngineError, match="shut down"):
            in_a_thread(lambda: loop.run(coroutine)).result(HANG)
    finally:
        waiting.may_end.set()
    assert getcoroutinestate(coroutine) == CORO_CLOSED, "nobody awaits it any more"


def test_a_result_arrives_that_is_there_in_the_very_moment_of_the_end(loop: EventLoopThread) -> None:
    """Its coroutine is done, so there is nothing to cancel; but it is on the way still, by a callback of the loop."""

    async def last() -> str:
        running = asyncio.get_running_loop()
        next_turn = running.create_future()

        def end() -> None:
            next_turn.set_result(None)
            loop.close(wait=False)

        running.call_soon(end)
        await next_turn
        await asyncio.sleep(0)  # to the turn of the loop in which the end begins, ahead of it
        return "arrived"

    assert in_a_thread(lambda: loop.run(last())).result(HANG) == "arrived"


@pytest.mark.parametrize("begin", [EventLoopThread.run, EventLoopThread.start])
def test_a_signal_handler_ends_it_while_something_is_begun(
    loop: EventLoopThread, monkeypatch: pytest.MonkeyPatch, begin: Callable[..., None]
) -> None:
    real = asyncio.run_coroutine_threadsafe

    def interrupted(coroutine: Any, running: Any) -> Any:
        loop.close()
        return real(coroutine, running)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    coroutine = one()
    with pytest.raises(EngineError, match="shut down"):
        in_a_thread(lambda: begin(loop, coroutine)).result(HANG)
    assert getcoroutinestate(coroutine) == CORO_CLOSED, "nobody awaits it any more"


class _Interrupted(set[Any]):
    """A set that Ctrl-C comes to just after something was added."""

    def add(self, element: Any) -> None:
        super().add(element)
        raise KeyboardInterrupt


def test_what_was_interrupted_while_it_was_begun_does_not_hold_up_the_end(loop: EventLoopThread) -> None:
    loop._started = _Interrupted()
    waiting = Waiting()
    with pytest.raises(KeyboardInterrupt):
        in_a_thread(lambda: loop.run(waiting())).result(HANG)
    loop.close(wait=False)
    loop._thread.join(HANG)
    assert not loop._thread.is_alive()


# ---- what ends a process elsewhere ----


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_task_that_would_end_the_loop_ends_itself(loop: EventLoopThread, end: type[BaseException]) -> None:
    """asyncio raises these through the loop, besides giving them to whoever awaits the task."""

    async def ends() -> None:
        raise end(3)

    async def awaits() -> None:
        await asyncio.create_task(ends())

    async def looks() -> str:
        task = asyncio.create_task(ends())
        await asyncio.wait([task])
        return repr(task.exception())

    other = Waiting()
    loop.start(other())
    for coroutine in (ends(), awaits()):
        with pytest.raises(end):
            in_a_thread(lambda made=coroutine: loop.run(made)).result(HANG)  # type: ignore[misc]
    assert in_a_thread(lambda: loop.run(looks())).result(HANG) == f"{end.__name__}(3)"
    assert not other.cancelled.is_set()
    loop.close()
    assert other.cancelled.is_set()
