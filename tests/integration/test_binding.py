"""All that can be bound: functions, leaves, order without data; on threads, on processes, and dynamically."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

import dagc
from dagc import InputNode, MultiOutputNode

WATCHDOG = 30.0


class Recorder:
    """An actor that keeps what it was asked, in order."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def note(self, x: Any) -> Any:
        self.seen.append(x)
        return x

    def note_and_add(self, x: int, more: int = 1) -> int:
        self.seen.append(("add", x))
        return x + more

    def fail_if_odd(self, x: int) -> int:
        self.seen.append(("check", x))
        if x % 2:
            raise KeyError(f"odd: {x}")
        return x

    def nothing(self, x: Any) -> None:
        self.seen.append(("nothing", x))

    def is_none(self, x: Any) -> bool:
        return x is None

    def told(self) -> list[Any]:
        return self.seen

    def forget(self) -> None:
        self.seen = []

    def pid(self, *_: Any) -> tuple[int, int]:
        return os.getpid(), threading.get_ident()


@dagc.remote
def double(x: int) -> int:
    return 2 * x


@dagc.remote
def where(*_: Any) -> int:
    return os.getpid()


@dagc.remote(num_cpus=0.5)
def where_alone(*_: Any) -> int:
    return os.getpid()


@dagc.remote(num_returns=2)
def halves(x: int) -> tuple[int, int]:
    return x // 2, x - x // 2


@dagc.remote
def fail(x: int) -> int:
    raise ValueError(f"never {x}")


@dagc.remote
async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@dagc.remote
def die(_: Any) -> None:
    os._exit(7)


@pytest.fixture(scope="module", params=["threads", "embedded"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    dagc.init(engine=request.param, num_gpus=1)
    yield request.param
    dagc.shutdown()


@pytest.fixture(scope="module")
def actors(engine: str) -> list[Any]:
    kind = dagc.remote(Recorder)
    return [kind.remote() for _ in range(3)]


@pytest.fixture
def recorders(actors: list[Any]) -> list[Any]:
    """Three actors that have seen nothing yet."""
    dagc.get([actor.forget.remote() for actor in actors])
    return actors


#: How a DAG is run: a function of the DAG and the inputs of the executions.
Runner = Callable[[Any, list[Any]], list[Any]]


def compiled(dag: Any, inputs: list[Any]) -> list[Any]:
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        return [dagc.get(ref) for ref in [graph.execute(x) for x in inputs]]


def freely(dag: Any, inputs: list[Any]) -> list[Any]:
    with dagc.compile(dag, timeout=WATCHDOG, order="free") as graph:
        return [dagc.get(ref) for ref in [graph.execute(x) for x in inputs]]


def traced(dag: Any, inputs: list[Any]) -> list[Any]:
    with dagc.compile(dag, timeout=WATCHDOG, trace=True) as graph:
        return [dagc.get(ref) for ref in [graph.execute(x) for x in inputs]]


def dynamic(dag: Any, inputs: list[Any]) -> list[Any]:
    return [dagc.run(dag, x) for x in inputs]


RUNNERS = pytest.mark.parametrize("run", [compiled, freely, traced, dynamic])


def told(actor: Any) -> list[Any]:
    found = dagc.get(actor.told.remote(), timeout=WATCHDOG)
    assert isinstance(found, list)
    return found


# ---- leaves ----


@RUNNERS
def test_a_leaf_is_made_in_every_execution_and_in_order(recorders: list[Any], run: Runner) -> None:
    a, log, _ = recorders
    with InputNode() as x:
        y = a.note_and_add.bind(x)
        log.note.bind(y)
    assert run(y, [1, 2, 3]) == [2, 3, 4]
    assert told(log) == [2, 3, 4]


@RUNNERS
def test_the_exception_of_a_leaf_is_that_of_its_execution(recorders: list[Any], run: Runner) -> None:
    a, log, _ = recorders
    with InputNode() as x:
        y = a.note_and_add.bind(x)
        log.fail_if_odd.bind(x)
    assert run(y, [0, 2]) == [1, 3]
    with pytest.raises(KeyError, match="odd: 1") as caught:
        run(y, [1])
    assert "fail_if_odd" in " ".join(getattr(caught.value, "__notes__", ["fail_if_odd"]))
    assert run(y, [4]) == [5]
    assert ("add", 1) in told(a), "what does not depend on the leaf was made"


def test_every_result_tells_of_a_leaf_that_failed(recorders: list[Any]) -> None:
    a, b, log = recorders
    with InputNode() as x:
        outputs = MultiOutputNode([a.note.bind(x), b.note.bind(x), x])
        log.fail_if_odd.bind(x)
    with dagc.compile(outputs, timeout=WATCHDOG) as graph:
        for ref in graph.execute(1):
            for _ in range(2):
                with pytest.raises(KeyError, match="odd: 1"):
                    ref.get()
        assert dagc.get(graph.execute(2)) == [2, 2, 2]


def test_a_result_waits_for_the_leaves_of_its_execution_within_its_timeout(recorders: list[Any]) -> None:
    a, _, _ = recorders
    gate = dagc.remote(Gate).options(max_concurrency=2).remote()
    with InputNode() as x:
        y = a.note.bind(x)
        gate.wait.bind(x)
    with dagc.compile(y, timeout=WATCHDOG) as graph:
        ref = graph.execute(1)
        with pytest.raises(dagc.GetTimeoutError, match="Gate_0"):
            ref.get(timeout=0.05)
        assert not ref.done
        dagc.get(gate.open.remote())
        assert ref.get() == 1
        assert ref.done


class Gate:
    """Two methods at a time: one waits for the other."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def wait(self, x: Any) -> Any:
        assert self.opened.wait(WATCHDOG)
        return x

    def open(self) -> None:
        self.opened.set()

    def wait_for_nothing(self) -> None:
        """Returns when the actor is there."""


def test_the_graphs_timeout_is_one_for_the_value_and_all_leaves(engine: str) -> None:
    """Three waits in a row that are each shorter than it, and together longer."""
    gates = [dagc.remote(Gate).options(max_concurrency=2).remote() for _ in range(2)]
    with InputNode() as x:
        for gate in gates:
            gate.wait.bind(x)
    with dagc.compile(x, timeout=0.2) as graph:
        started = time.monotonic()
        with pytest.raises(dagc.GetTimeoutError, match=r"within 0\.2 s"):
            graph.execute(1).get()
        waited = time.monotonic() - started
        dagc.get([gate.open.remote() for gate in gates])
        assert graph.execute(2).get(timeout=WATCHDOG) == 2
    assert waited >= 0.2


def test_leaves_are_awaited_too(recorders: list[Any]) -> None:
    a, log, _ = recorders
    with InputNode() as x:
        y = a.note.bind(x)
        log.fail_if_odd.bind(x)

    async def main() -> list[Any]:
        with dagc.compile(y, timeout=WATCHDOG) as graph:
            refs = [await graph.execute_async(i) for i in range(4)]
            return await asyncio.gather(*refs, return_exceptions=True)

    found = asyncio.run(main())
    assert [type(value) for value in found] == [int, KeyError, int, KeyError]


# ---- order without data ----


@RUNNERS
def test_after_holds_between_actors(recorders: list[Any], run: Runner) -> None:
    """b's call sees what a's call did to a third party, which neither passes on."""
    a, b, c = recorders
    with InputNode() as x:
        first = c.note.bind(a.note_and_add.bind(x))
        second = c.nothing.bind(b.note.bind(x).after(first))
    assert run(second, [1, 2]) == [None, None]
    assert [item for item in told(c) if item not in (("nothing", 1), ("nothing", 2))] == [2, 3]
    if run is not freely:
        assert told(c) == [2, ("nothing", 1), 3, ("nothing", 2)]


@RUNNERS
def test_a_call_after_one_that_failed_is_not_made(recorders: list[Any], run: Runner) -> None:
    a, b, _ = recorders
    with InputNode() as x:
        y = b.note.bind(x).after(a.fail_if_odd.bind(x))
    assert run(y, [2]) == [2]
    with pytest.raises(KeyError, match="odd: 3"):
        run(y, [3])
    assert told(b) == [2]


@RUNNERS
def test_none_is_a_value_that_calls_can_depend_on(recorders: list[Any], run: Runner) -> None:
    a, b, _ = recorders
    with InputNode() as x:
        y = b.is_none.bind(a.nothing.bind(x))
    assert run(y, [1, 2]) == [True, True]


# ---- functions ----


@RUNNERS
def test_functions_are_called_beside_methods(recorders: list[Any], run: Runner) -> None:
    a, b, _ = recorders
    with InputNode() as x:
        y = double.bind(b.note_and_add.bind(later.bind(a.note.bind(double.bind(x)))))
    assert run(y, [1, 2, 3]) == [2 * (2 * i + 2) for i in (1, 2, 3)]


@RUNNERS
def test_a_dag_of_functions_alone(engine: str, run: Runner) -> None:
    with InputNode() as x:
        left, right = halves.bind(x)
        y = MultiOutputNode([double.bind(left), right])
    assert run(y, [7, 8]) == [[6, 4], [8, 4]]


def test_functions_run_where_the_rule_says(recorders: list[Any], engine: str) -> None:
    a, _, _ = recorders
    with InputNode() as x:
        pid = a.pid.bind(x)
        dag = MultiOutputNode([pid, where.bind(pid), where_alone.bind(pid), where.bind(x), where.bind(x)])
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        (actor, _), beside, alone, first, second = dagc.get(graph.execute(1))
        assert beside == actor
        if engine == "embedded":
            assert len({actor, alone, first, second, os.getpid()}) == 5
            workers = [psutil.Process(pid) for pid in (alone, first, second)]
    if engine == "embedded":
        gone, alive = psutil.wait_procs(workers, WATCHDOG)
        assert not alive, "workers of a graph end with it"
        assert len(gone) == 3


@RUNNERS
def test_the_exception_of_a_function_is_its_own(recorders: list[Any], run: Runner) -> None:
    with InputNode() as x:
        y = fail.bind(recorders[0].note.bind(x))
    with pytest.raises(ValueError, match="never 3") as caught:
        run(y, [3])
    assert "fail" in str(caught.value.__cause__)


def test_what_a_worker_held_is_free_after_teardown(engine: str) -> None:
    """Compiled again at once, the next worker gets the GPU of the last."""
    with InputNode() as x:
        y = double.options(num_gpus=1).bind(x)
    for i in range(3):
        with dagc.compile(y, timeout=WATCHDOG) as graph:
            assert graph.execute(i).get() == 2 * i


def test_a_worker_that_dies_is_named(engine: str) -> None:
    if engine == "threads":
        pytest.skip("it would end this process")
    with InputNode() as x:
        y = die.bind(x)
    with dagc.compile(y, timeout=WATCHDOG) as graph, pytest.raises(dagc.ActorDiedError, match="die_0") as caught:
        graph.execute(1).get()
    assert "exited with code 7" in str(caught.value)


def test_a_function_that_needs_what_is_not_there_is_refused(engine: str) -> None:
    greedy = double.options(resources={"unobtainium": 1})
    with InputNode() as x:
        y = greedy.bind(x)
    with pytest.raises(dagc.GraphError, match="unobtainium"):
        dagc.compile(y)


def test_a_function_that_returns_another_number_of_values_is_named(engine: str) -> None:
    left, right = double.options(num_returns=2).bind(InputNode())
    with dagc.compile(MultiOutputNode([left, right]), timeout=WATCHDOG) as graph:
        for ref in graph.execute(1):
            with pytest.raises(dagc.GraphError, match=r"double .* as double_0\.double returned a int; num_returns=2"):
                ref.get()


def test_one_dag_is_compiled_many_times_with_different_options(recorders: list[Any]) -> None:
    a, b, _ = recorders
    with InputNode() as x:
        y = b.note_and_add.bind(double.bind(a.note_and_add.bind(x)))
    options = itertools.product((1, 8), (64, 4096), ("bind", "free"), (False, True))
    with ExitStack() as graphs:
        compiled = [
            graphs.enter_context(
                dagc.compile(y, max_inflight=inflight, buffer_bytes=size, order=order, trace=trace, timeout=WATCHDOG)
            )
            for inflight, size, order, trace in options
        ]
        assert [graph.execute(1).get() for graph in (*compiled, *reversed(compiled))] == [5] * 32


# ---- free order ----


class Half:
    """A stage that is first and third of a chain, and can say whether the second of its calls has begun before."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.order: list[tuple[str, int]] = []

    def first(self, x: int) -> int:
        self.order.append(("first", x))
        return x

    def last(self, x: int) -> int:
        self.order.append(("last", x))
        return x

    def told(self) -> list[tuple[str, int]]:
        return self.order


def test_a_free_actor_begins_the_next_execution_while_it_waits(engine: str) -> None:
    half, gate = dagc.remote(Half).remote(), dagc.remote(Gate).options(max_concurrency=2).remote()
    with InputNode() as x:
        y = half.last.bind(gate.wait.bind(half.first.bind(x)))
    with dagc.compile(y, max_inflight=4, order="free", timeout=WATCHDOG) as graph:
        # The gate is shut: nothing comes back, and yet all executions begin, also those that come when the actor waits
        # already. With the order of bind only one would.
        refs = []
        for i in range(4):
            refs.append(graph.execute(i))
            while len(dagc.get(half.told.remote())) <= i:
                pass
        dagc.get(gate.open.remote())
        assert dagc.get(refs) == [0, 1, 2, 3]
    order = dagc.get(half.told.remote())
    assert [x for kind, x in order if kind == "first"] == [0, 1, 2, 3]
    assert [x for kind, x in order if kind == "last"] == [0, 1, 2, 3]


def test_a_free_graph_that_is_closed_finishes_what_was_begun(engine: str) -> None:
    half, other = dagc.remote(Half).remote(), dagc.remote(Recorder).remote()
    with InputNode() as x:
        y = half.last.bind(other.note.bind(half.first.bind(x)))
    graph = dagc.compile(y, max_inflight=8, order="free", timeout=WATCHDOG)
    refs = [graph.execute(i) for i in range(8)]
    graph.teardown()
    assert dagc.get(refs) == list(range(8))


class Slowly:
    """Its constructor ends when it is told to."""

    def __init__(self, gate: Any) -> None:
        dagc.get(gate.wait.remote(None))

    def echo(self, x: Any) -> Any:
        return x


def test_actors_that_take_long_to_start_are_named_while_compile_waits(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagc.placement.PATIENCE_SECONDS", 0.05)
    gate = dagc.remote(Gate).options(max_concurrency=2).remote()
    slow = dagc.remote(Slowly).remote(gate)
    dagc.get(gate.wait_for_nothing.remote())
    with InputNode() as x:
        y = slow.echo.bind(x)

    def opened(*_: Any, **__: Any) -> None:
        gate.open.remote()

    with monkeypatch.context() as patch:
        warned: list[str] = []
        patch.setattr("warnings.warn", lambda text, *_, **__: (warned.append(str(text)), opened()))
        with dagc.compile(y, timeout=WATCHDOG) as graph:
            assert graph.execute(1).get() == 1
    assert "compile still waits for actors to start" in warned[0]
    assert "Slowly" in warned[0]
