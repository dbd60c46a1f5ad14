"""What a result keeps alive, and what may be said as a timeout."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import dagc
from dagc import InputNode, MultiOutputNode
from dagc.errors import WrongArgumentsError

HANG = 30


class Stage:
    def __init__(self) -> None:
        self.opened = threading.Event()

    def forward(self, x: Any) -> Any:
        return x

    def wait(self, x: Any) -> Any:
        assert self.opened.wait(HANG)
        return x

    def open(self) -> None:
        self.opened.set()


RemoteStage = dagc.remote(Stage)


@pytest.fixture(scope="module", params=["embedded", "threads"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    dagc.init(engine=request.param)
    yield request.param
    dagc.shutdown()


def dag_of(method: str = "forward", leaf: bool = False) -> Any:
    stage = RemoteStage.options(max_concurrency=2).remote()
    with InputNode() as x:
        y = getattr(stage, method).bind(x)
        if leaf:
            stage.forward.bind(x)
    return y


@pytest.fixture(autouse=True)
def _dropped() -> Iterator[None]:
    """Graphs are dropped here without a teardown, which is told."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "graph .* was dropped without a teardown", ResourceWarning)
        yield
        gc.collect()


@pytest.mark.parametrize("leaf", [False, True])
def test_a_result_on_its_way_keeps_its_graph(leaf: bool) -> None:
    dag = dag_of(leaf=leaf)

    async def awaited() -> Any:
        return await dagc.compile(dag).execute(3)

    assert dagc.compile(dag).execute(1).get(HANG) == 1
    assert dagc.get([dagc.compile(dag).execute(i) for i in range(3)], HANG) == [0, 1, 2]
    assert asyncio.run(awaited()) == 3


def test_several_results_keep_it_until_the_last_one_is_there() -> None:
    with InputNode() as x:
        dag = MultiOutputNode([RemoteStage.remote().forward.bind(x) for _ in range(3)])
    graph = dagc.compile(dag)
    alive = weakref.ref(graph)
    refs = graph.execute(7)
    del graph
    for ref in refs:
        assert alive() is not None
        assert ref.get(HANG) == 7
    assert alive() is None
    assert [ref.get(HANG) for ref in refs] == [7, 7, 7], "what is there is there"


def test_a_graph_that_was_dropped_with_its_results_goes() -> None:
    graph = dagc.compile(dag_of("wait"))
    alive = weakref.ref(graph)
    graph.execute(1)
    del graph
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("timeout", [-1, -1.0, -5, float("nan"), "x", [], True])
def test_what_is_no_number_of_seconds_is_refused(timeout: Any) -> None:
    said = re.escape(f"timeout={timeout!r}; expected a number of seconds, 0 or more")
    with dagc.compile(dag_of()) as graph:
        ref = graph.execute(1)
        for wait in (lambda: ref.get(timeout), lambda: dagc.get(ref, timeout), lambda: dagc.get([ref], timeout)):
            with pytest.raises(WrongArgumentsError, match=said):
                wait()
        with pytest.raises(WrongArgumentsError, match=said):
            graph.teardown(timeout)
        assert ref.get(HANG) == 1
    called = RemoteStage.remote().forward.remote(2)
    for wait in (lambda: dagc.get(called, timeout), lambda: dagc.wait([called], timeout=timeout)):
        with pytest.raises(WrongArgumentsError, match=said):
            wait()
    assert dagc.get(called) == 2


def test_a_teardown_for_ever_is_refused() -> None:
    with (
        dagc.compile(dag_of()) as graph,
        pytest.raises(WrongArgumentsError, match=r"timeout=None; expected a number of seconds, 0 or more$"),
    ):
        graph.teardown(None)  # type: ignore[arg-type]


def test_the_timeout_that_was_said_is_told() -> None:
    """Of several refs that share it, not what was left of it for the one that was late."""
    stage = RemoteStage.options(max_concurrency=3).remote()
    with InputNode() as x:
        y = stage.wait.bind(stage.forward.bind(x))
    with dagc.compile(y, timeout=HANG) as graph:
        done = stage.forward.remote(0)
        dagc.get(done, HANG)  # what is left of the time after it is less than was said
        refs = [done, graph.execute(1)]
        with pytest.raises(dagc.GetTimeoutError, match=r"no Stage_0\.wait within 0\.25 s"):
            dagc.get(refs, timeout=0.25)
        late = [stage.forward.remote(0), stage.wait.remote(1)]
        with pytest.raises(dagc.GetTimeoutError, match=r"was not there within 0\.25 s"):
            dagc.get(late, timeout=0.25)
        dagc.get(stage.open.remote())
        assert dagc.get([*refs, *late], HANG) == [0, 1, 0, 1]


def test_map_of_keyword_arguments_and_inputs_of_another_kind() -> None:
    stage = RemoteStage.remote()
    with InputNode() as given:
        named = MultiOutputNode([stage.forward.bind(given.left), stage.forward.bind(given.right)])
    with InputNode() as given:
        both = MultiOutputNode([stage.forward.bind(given[0]), stage.forward.bind(given[1])])
    with InputNode() as given:
        mixed = MultiOutputNode([stage.forward.bind(given[0]), stage.forward.bind(given.right)])
    with dagc.compile(named, name="named") as graph:
        assert list(graph.map([{"left": i, "right": -i} for i in range(4)])) == [[i, -i] for i in range(4)]
        with pytest.raises(
            WrongArgumentsError, match="map of graph named: an input is 5; expected a dict of left, right"
        ):
            list(graph.map([5]))
    with dagc.compile(both, name="both") as graph:
        assert list(graph.map([(1, 2), [3, 4]])) == [[1, 2], [3, 4]]
        with pytest.raises(WrongArgumentsError, match="map of graph both: an input is 5; expected a tuple of 2"):
            list(graph.map([5]))
    with dagc.compile(mixed, name="mixed") as graph, pytest.raises(WrongArgumentsError, match="call execute for each"):
        list(graph.map([(1, 2)]))
