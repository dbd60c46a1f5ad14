"""Executions that wait for a place beside others that are taken back, and event loops that come and go."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import dagc
from dagc import InputNode
from dagc.receive import Receiver
from dagc.refs import ResultRef
from dagc.wake import waker
from tests.interrupts import in_time

HANG = 30


# ---- a place for one more ----


class Refused:
    """It cannot be sent, and says so when `waited` is set."""

    def __init__(self, begun: threading.Event, waited: threading.Event) -> None:
        self._events = begun, waited

    def __reduce__(self) -> Any:
        begun, waited = self._events
        begun.set()
        assert waited.wait(HANG)
        raise TypeError("not to be sent")


class Gate:
    """A lock; the thread that `stop` names stays behind when it has released it for the first time."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.stop: threading.Thread | None = None
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if threading.current_thread() is self.stop and not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(HANG)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()


class Stage:
    def forward(self, x: Any) -> Any:
        return x


RemoteStage = dagc.remote(Stage)


@pytest.mark.parametrize("way", ["execute", "execute_async"])
def test_a_place_is_not_waited_for_that_an_execution_has_given_back(
    threads: None, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Who finds no place waits for one that was begun and sent, whatever others begin before it has begun to wait."""
    gates: list[Gate] = []
    asked: list[int] = []
    waited = threading.Event()
    wait, delivered = Receiver.wait, Receiver.delivered_async

    def asks(execution: int) -> None:
        if threading.current_thread() is gates[0].stop:
            asked.append(execution)
            waited.set()

    def spied_wait(self: Receiver, execution: int, *timeouts: Any) -> None:
        asks(execution)
        wait(self, execution, *timeouts)

    async def spied_delivered(self: Receiver, execution: int, since: float) -> None:
        asks(execution)
        await delivered(self, execution, since)

    monkeypatch.setattr(Receiver, "wait", spied_wait)
    monkeypatch.setattr(Receiver, "delivered_async", spied_delivered)
    with InputNode() as x:
        y = RemoteStage.remote().forward.bind(x)
    with dagc.compile(y, max_inflight=1, timeout=HANG) as graph:
        gate = Gate(graph._submit)
        gates.append(gate)
        monkeypatch.setattr(graph, "_submit", gate)
        second: list[ResultRef] = []

        async def executed() -> None:
            second.append(await graph.execute_async(2))

        def run() -> None:
            if way == "execute":
                second.append(graph.execute(2))
            else:
                asyncio.run(executed())

        first = graph.execute(1)
        gate.stop = threading.Thread(target=run)
        gate.stop.start()
        assert gate.reached.wait(HANG)
        assert first.get() == 1
        refused = Refused(gate.opened, waited)  # while it is being packed, its execution counts as begun
        with pytest.raises(dagc.SerializationError):
            graph.execute(refused)
        assert asked[0] == 1, "the second one is nobody's"
        gate.stop.join()
        assert second[0].get() == 2


# ---- event loops ----


def test_event_loops_that_begin_while_closed_ones_are_forgotten() -> None:
    class Interrupted(asyncio.SelectorEventLoop):
        """Another thread runs an event loop whenever `armed`, and somebody looks whether this one is closed."""

        armed = False

        def is_closed(self) -> bool:
            if self.armed:
                self.armed = False
                in_time(lambda: asyncio.run(wakes()))
            return super().is_closed()

    async def wakes() -> None:
        waker()

    loop = Interrupted()
    loop.run_until_complete(wakes())
    loop.armed = True
    asyncio.run(wakes())
    assert not loop.armed, "nobody has looked"
    loop.close()
    asyncio.run(wakes())
