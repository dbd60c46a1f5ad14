"""The engine that only plans: actors that are never started."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import runtime
from channels.errors import SerializationError
from runtime import current
from runtime.engine import ActorInfo
from runtime.errors import ActorDiedError, EngineError, GraphError, WrongArgumentsError
from runtime.ids import ActorId
from runtime.planning import PlanningEngine

#: A watchdog: whoever needs this long hangs.
LIMIT = 30.0


@runtime.remote
class Stage:
    def __init__(self, rank: int, weights: Any = None) -> None:
        raise AssertionError("it is never called")

    def forward(self, x: Any) -> Any:
        return x


@runtime.remote
def square(x: int) -> int:
    return x * x


@pytest.fixture
def engine() -> Iterator[PlanningEngine]:
    yield from _session()


def _session(**options: Any) -> Iterator[PlanningEngine]:
    runtime.init(engine="plan", **options)
    engine = current.engine()
    assert isinstance(engine, PlanningEngine)
    yield engine
    runtime.shutdown()


def test_actors_have_places_of_their_own(engine: PlanningEngine) -> None:
    stages = [Stage.remote(rank) for rank in range(3)]
    infos = engine.describe(stages)
    assert [info.pid for info in infos] == [100, 101, 102]
    assert infos[1] == ActorInfo(stages[1]._actor_id, repr(stages[1]), engine.here(), 101)
    assert engine.here() == "here"
    assert engine.transport == "shm"
    assert engine.describe([], timeout=0) == []


def test_no_actor_has_the_pid_of_this_process(engine: PlanningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 101)
    assert [info.pid for info in engine.describe([Stage.remote(i) for i in range(3)])] == [100, 102, 103]


def test_large_graphs_fit(engine: PlanningEngine) -> None:
    stages = [Stage.options(num_cpus=16, num_gpus=2, resources={"ib": 4}).remote(i) for i in range(64 * 8)]
    infos = engine.describe(stages)
    assert [info.gpus for info in infos] == [(2 * i, 2 * i + 1) for i in range(64 * 8)]
    assert len({info.pid for info in infos}) == 64 * 8


def test_gpus_are_handed_out_in_order(engine: PlanningEngine) -> None:
    shares = [Stage.options(num_gpus=amount).remote(0) for amount in (0.5, 1, 0.5, 0.25, 2, 0)]
    assert [info.gpus for info in engine.describe(shares)] == [(0,), (1,), (0,), (2,), (3, 4), ()]
    runtime.kill(shares[1])
    (again,) = engine.describe([Stage.options(num_gpus=1).remote(0)])
    assert again.gpus == (1,)


def test_limits_that_were_asked_for() -> None:
    for engine in _session(num_cpus=2, num_gpus=1, resources={"disk": 1}):
        Stage.options(num_cpus=2, num_gpus=1, resources={"disk": 1}).remote(0)
        for options in ({"num_cpus": 3}, {"num_gpus": 1}, {"resources": {"disk": 0.5}}, {"resources": {"tape": 1}}):
            with pytest.raises(GraphError, match="asks for"):
                Stage.options(**options).remote(0)
        assert repr(engine) == "PlanningEngine(1 actors)"


def test_constructors_are_checked(engine: PlanningEngine) -> None:
    Stage.options(name="first").remote(0)
    with pytest.raises(GraphError, match=r"the name 'first' is taken by actor first\("):
        Stage.options(name="first").remote(0)
    with pytest.raises(WrongArgumentsError, match=r"Stage.remote: missing a required argument: 'rank'"):
        Stage.remote()
    with pytest.raises(SerializationError):
        Stage.remote(0, threading.Lock())
    with pytest.raises(GraphError, match="value of a DAG"):
        Stage.remote(0, square.bind(1))


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda _, stage: stage.forward.remote(1), "Stage.forward"),
        (lambda _, stage: square.remote(1), "square"),
        (lambda engine, stage: engine.call(stage, len), "len beside Stage("),
        (lambda engine, stage: engine.start_loop(stage, Stage), "a compiled graph on Stage("),
    ],
)
def test_nothing_can_be_run(engine: PlanningEngine, ask: Callable[..., Any], what: str) -> None:
    with pytest.raises(EngineError) as raised:
        ask(engine, Stage.remote(0))
    assert f"cannot run {what}" in str(raised.value)
    assert "this session only plans, as dagc.init(engine='plan') says; " in str(raised.value)
    assert "; to run, call dagc.shutdown(), then dagc.init()" in str(raised.value)
    assert ("write dagc.plan(dag) instead" in str(raised.value)) == ("graph" in what)


def test_deaths(engine: PlanningEngine) -> None:
    stage, other = Stage.options(name="victim").remote(0), Stage.remote(1)
    heard: list[tuple[ActorId, str]] = []
    told = threading.Semaphore(0)

    def on_death(actor: ActorId, death: ActorDiedError) -> None:
        heard.append((actor, death.reason))
        told.release()

    watch = engine.watch([stage, other], on_death)
    runtime.kill(stage)
    runtime.kill(stage)
    assert heard == [(stage._actor_id, "killed by dagc.kill")]
    watch.cancel()
    runtime.kill(other)
    assert len(heard) == 1
    assert told.acquire(timeout=LIMIT)
    late = engine.watch([other], on_death)
    assert told.acquire(timeout=LIMIT)
    late.cancel()
    deaths = [info.death for info in engine.describe([stage, other])]
    assert [death and death.actor for death in deaths] == [repr(stage), repr(other)]
    Stage.options(name="victim").remote(0)  # the name is free again


def test_shut_down(engine: PlanningEngine) -> None:
    stage = Stage.remote(0)
    engine.shutdown()
    for ask in (
        lambda: Stage.remote(0),
        lambda: engine.describe([stage]),
        lambda: engine.kill(stage),
        lambda: stage.forward.remote(1),
    ):
        with pytest.raises(EngineError, match="was shut down"):
            ask()


def test_handle_of_another_session(engine: PlanningEngine) -> None:
    stranger = PlanningEngine.start().create_actor(Stage.__wrapped__, (0,), {}, Stage._options)
    with pytest.raises(GraphError, match="is of another session"):
        engine.describe([stranger])
