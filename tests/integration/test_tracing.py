"""Graphs that are timed: what the trace says of what ran, and what it may cost."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dagc
from dagc import InputNode, MultiOutputNode
from runtime import current

WATCHDOG = 30.0


class Stage:
    def forward(self, x: int) -> int:
        return x + 1

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def spin(self, seconds: float) -> float:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return seconds

    def die(self, _: Any) -> None:
        os._exit(1)


@pytest.fixture(scope="module", params=["threads", "embedded"])
def stages(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    dagc.init(engine=request.param)
    kind = dagc.remote(Stage)
    yield [kind.remote() for _ in range(3)]
    dagc.shutdown()


def chain(stages: list[Any]) -> Any:
    with InputNode() as x:
        for stage in stages:
            x = stage.forward.bind(x)
    return x


@pytest.mark.parametrize("order", ["bind", "free"])
def test_every_op_of_every_execution_has_a_span(stages: list[Any], order: str) -> None:
    a, b, _ = stages
    with InputNode() as x:
        y = a.forward.bind(b.forward.bind(a.forward.bind(x)))
    with dagc.compile(y, trace=True, order=order, timeout=WATCHDOG) as graph:
        assert list(graph.map(range(50))) == list(range(3, 53))
        trace = graph.trace()
    assert list(trace.parties) == ["driver", "Stage_0", "Stage_1"]
    spans = list(trace.spans())
    assert len(spans) == 50 * sum(map(len, trace.plan.schedule.values()))
    at = {(span.party, str(span.op), span.execution): span for span in spans}
    for n in range(1, 51):
        sent, ran, came = (
            at["driver", "send input", n],
            at["Stage_1", "run Stage_1.forward", n],
            at["driver", "recv Stage_0.forward#1", n],
        )
        # One clock for all processes: what causes comes before what it causes.
        assert sent.begin_ns <= ran.begin_ns <= ran.end_ns <= came.end_ns
        first, second = at["Stage_0", "run Stage_0.forward", n], at["Stage_0", "run Stage_0.forward#1", n]
        assert first.end_ns <= ran.begin_ns
        assert ran.end_ns <= second.begin_ns


def test_asking_while_it_runs_disturbs_nothing(stages: list[Any]) -> None:
    stop = threading.Event()
    counts: list[int] = []
    with dagc.compile(chain(stages), trace=True, timeout=WATCHDOG) as graph:

        def ask() -> None:
            while not stop.is_set():
                counts.append(len(graph.trace().parties["Stage_2"].executions))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for _ in range(20):
                assert list(graph.map(range(50)))[-1] == 52
        finally:
            stop.set()
            asking.join(WATCHDOG)
    assert counts == sorted(counts)
    assert not asking.is_alive()


def test_a_trace_can_be_had_after_teardown(stages: list[Any]) -> None:
    graph = dagc.compile(chain(stages), trace=True, timeout=WATCHDOG)
    list(graph.map(range(10)))
    graph.teardown()
    assert graph.trace().figures().executions > 0


def test_cpu_time_and_time_asleep_are_told_apart(stages: list[Any]) -> None:
    a, b, _ = stages
    with InputNode() as x:
        y = MultiOutputNode([a.sleep.bind(x), b.spin.bind(x)])
    with dagc.compile(y, trace=True, timeout=WATCHDOG) as graph:
        for _ in range(10):
            dagc.get(graph.execute(0.02))
        costs = graph.trace().costs()
    asleep, awake = costs.runs["Stage_0.sleep"], costs.runs["Stage_1.spin"]
    assert asleep.off >= 0.019
    assert asleep.cpu < 0.01
    assert awake.cpu >= 0.019


def test_the_file_is_one_that_perfetto_opens(stages: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with dagc.compile(chain(stages), trace=True, timeout=WATCHDOG) as graph:
        list(graph.map(range(10)))
        graph.trace(path)
    events = json.loads(path.read_text())
    events = events["traceEvents"] if isinstance(events, dict) else events
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == 10 * 11
    assert {"name", "ts", "dur", "pid", "tid"} <= set(complete[0])
    assert {event["name"] for event in complete if event["tid"] != complete[0]["tid"]} >= {"run Stage_1.forward"} or {
        "Stage_1.forward"
    } <= {event["name"] for event in complete}


def test_asyncio_and_several_threads_are_timed_too(stages: list[Any]) -> None:
    async def main(graph: Any) -> None:
        refs = [await graph.execute_async(i) for i in range(20)]
        assert [await ref for ref in refs] == list(range(3, 23))

    with dagc.compile(chain(stages), trace=True, timeout=WATCHDOG) as graph:
        asyncio.run(main(graph))
        assert len(graph.trace().parties["driver"].executions) == 20


def test_without_a_trace_the_refusal_says_what_to_write(stages: list[Any], tmp_path: Path) -> None:
    with dagc.compile(chain(stages), timeout=WATCHDOG) as graph:
        for ask in (graph.trace, graph.predict, lambda: graph.report(tmp_path / "r.html")):
            with pytest.raises(dagc.GraphError, match="trace=True"):
                ask()  # type: ignore[operator]


def test_before_the_first_execution_there_is_nothing_to_learn_from(stages: list[Any]) -> None:
    with dagc.compile(chain(stages), trace=True, timeout=WATCHDOG) as graph:
        assert [len(party.executions) for party in graph.trace().parties.values()] == [0, 0, 0, 0]
        with pytest.raises(dagc.GraphError, match="execut"):
            graph.predict()


def test_predict_needs_no_trace_if_the_costs_are_given(stages: list[Any]) -> None:
    with dagc.compile(chain(stages), timeout=WATCHDOG) as graph:
        predicted = graph.predict({f"Stage_{i}.forward": 0.01 for i in range(3)}, cores=8)
    assert predicted.alone == pytest.approx(0.03, rel=0.05)
    assert predicted.figures.throughput == pytest.approx(100, rel=0.05)


def test_ranges_need_the_package(stages: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagc.timing.ranges.nvtx", None)
    with pytest.raises(dagc.GraphError, match="pip install nvtx"):
        dagc.compile(chain(stages), trace="nvtx")


def test_ranges_change_no_value(stages: list[Any]) -> None:
    with dagc.compile(chain(stages), trace="nvtx", timeout=WATCHDOG) as graph:
        assert list(graph.map(range(5))) == [3, 4, 5, 6, 7]
        assert len(graph.trace().parties["Stage_0"].executions) == 5


def test_failures_are_timed_like_values(stages: list[Any]) -> None:
    with dagc.compile(chain(stages), trace=True, timeout=WATCHDOG) as graph:
        refs = [graph.execute(x) for x in (1, "no number", 3)]
        assert refs[0].get() == 4
        with pytest.raises(TypeError):
            refs[1].get()
        assert refs[2].get() == 6
        assert np.array_equal(graph.trace().parties["Stage_0"].executions, [1, 2, 3])


def test_after_a_death_asking_for_the_trace_says_who_died(stages: list[Any]) -> None:
    if current.engine().transport == "local":
        pytest.skip("it would end this process")
    first, second = (dagc.remote(Stage).remote() for _ in range(2))
    with InputNode() as x:
        y = second.die.bind(first.forward.bind(x))
    with dagc.compile(y, trace=True, timeout=WATCHDOG) as graph:
        with pytest.raises(dagc.ActorDiedError, match="Stage_1"):
            graph.execute(1).get()
        with pytest.raises(dagc.ActorDiedError):
            graph.trace()
