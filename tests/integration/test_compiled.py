"""Compiled graphs end to end, on threads and on processes: the same program, the same values."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest

import dagc
from dagc import InputNode, MultiOutputNode


class Point(NamedTuple):
    x: Any
    y: Any


class Worker:
    """Methods of every shape that a graph may call."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.seen: list[Any] = []
        self.kept: list[Any] = []

    def add(self, x: Any, more: Any = 0) -> Any:
        return x + more + self.offset

    def echo(self, x: Any) -> Any:
        return x

    def total(self, items: Any) -> Any:
        return sum(items.values()) if isinstance(items, dict) else sum(items)

    def describe(self, *args: Any, **kwargs: Any) -> str:
        return f"{args} {sorted(kwargs.items())}"

    @dagc.method(num_returns=2)
    def split(self, x: int) -> tuple[int, int]:
        return x // 10, x % 10

    @dagc.method(num_returns=2)
    def split_wrongly(self, x: int) -> Any:
        return [x] * 3 if x else x

    def fail_if_odd(self, x: int) -> int:
        if x % 2:
            raise KeyError(f"odd: {x}")
        return x

    def note(self, x: Any) -> Any:
        self.seen.append(x)
        return len(self.seen)

    def keep(self, x: Any) -> Any:
        self.kept.append(x)
        return float(x.sum())

    def kept_sums(self) -> list[float]:
        return [float(x.sum()) for x in self.kept]

    def give_exception(self, x: Any) -> Exception:
        return ValueError(x)

    def is_array_writable(self, x: Any) -> bool:
        return bool(x.flags.writeable)

    def identity(self, x: Any) -> int:
        return id(x)

    async def later(self, x: int) -> int:
        return x + 1

    def lazily(self, x: int) -> Iterator[int]:
        yield x

    def unpicklable(self, x: Any) -> Any:
        return threading.Lock() if x else x

    def make(self, count: int) -> Any:
        return np.full(count, 7.0)

    def constant(self) -> int:
        return 42


RemoteWorker = dagc.remote(Worker)


@pytest.fixture(scope="module", params=["threads", "embedded"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    dagc.init(engine=request.param)
    yield request.param
    dagc.shutdown()


@pytest.fixture(scope="module")
def workers(engine: str) -> list[Any]:
    return [RemoteWorker.remote(offset) for offset in (0, 10, 100)]


def chain(workers: list[Any]) -> Any:
    with InputNode() as x:
        for worker in workers:
            x = worker.add.bind(x)
    return x


def test_a_chain_gives_the_value_of_its_calls(workers: list[Any]) -> None:
    with dagc.compile(chain(workers)) as graph:
        assert graph.execute(1).get(timeout=20) == 111
        assert [graph.execute(i).get() for i in range(100)] == [110 + i for i in range(100)]


def test_run_gives_what_the_compiled_graph_gives(workers: list[Any]) -> None:
    a, b, c = workers
    with InputNode() as x:
        high, low = a.split.bind(x)
        dag = MultiOutputNode([b.total.bind([high, low, {"k": low}["k"]]), c.add.bind(low, more=high), x, low])
    with dagc.compile(dag) as graph:
        assert dagc.get(graph.execute(57)) == dagc.run(dag, 57) == [5 + 7 + 7, 112, 57, 7]


def test_results_may_be_got_in_any_order_and_again(workers: list[Any]) -> None:
    with dagc.compile(chain(workers)) as graph:
        refs = [graph.execute(i) for i in range(8)]
        assert refs[5].get() == 115
        assert refs[5].get() == 115
        assert dagc.get(list(reversed(refs))) == [110 + i for i in reversed(range(8))]


def test_execute_receives_results_itself_when_the_window_is_full(workers: list[Any]) -> None:
    with dagc.compile(chain(workers), max_inflight=2) as graph:
        refs = [graph.execute(i) for i in range(50)]
        assert graph.statistics().in_flight <= 2
        assert dagc.get(refs) == [110 + i for i in range(50)]


def test_dropped_refs_cost_nothing(workers: list[Any]) -> None:
    with dagc.compile(chain(workers), max_inflight=3) as graph:
        for i in range(100):
            graph.execute(i)
        assert graph.execute(7).get() == 117


def test_map_streams_in_order(workers: list[Any]) -> None:
    with dagc.compile(chain(workers), max_inflight=4) as graph:
        assert list(graph.map(range(200))) == [110 + i for i in range(200)]
        half = graph.map(range(10))
        assert next(half) == 110
        half.close()
        assert graph.execute(1).get() == 111


def test_input_parts_positions_and_keywords(workers: list[Any]) -> None:
    a, b, _ = workers
    with InputNode() as x:
        dag = MultiOutputNode([a.add.bind(x[0], more=x.more), b.add.bind(x["more"]), a.describe.bind(x[1], k=x[0])])
    with dagc.compile(dag) as graph:
        assert dagc.get(graph.execute(1, 2, more=3)) == [4, 13, "(2,) [('k', 1)]"]
        for args, kwargs in (
            ((1,), {"more": 3}),
            ((1, 2), {}),
            ((1, 2), {"more": 3, "odd": 1}),
            ((1, 2, 3), {"more": 1}),
        ):
            with pytest.raises(dagc.WrongArgumentsError, match="its input is execute"):
                graph.execute(*args, **kwargs)
        assert dagc.get(graph.execute(0, 0, more=1))[:2] == [1, 11]


def test_containers_are_rebuilt_with_values(workers: list[Any]) -> None:
    a, b, c = workers
    with InputNode() as x:
        one = a.add.bind(x)
        two = b.add.bind(x)
        dag = MultiOutputNode(
            [
                c.total.bind({"a": one, "b": two}),
                c.total.bind((one, two, 5)),
                c.describe.bind(Point(one, [two, {"k": 1}])),
            ]
        )
    with dagc.compile(dag) as graph:
        assert dagc.get(graph.execute(1)) == [12, 17, "(Point(x=1, y=[11, {'k': 1}]),) []"]


def test_one_channel_carries_a_value_to_all_its_readers(workers: list[Any]) -> None:
    a, b, c = workers
    with InputNode() as x:
        y = a.add.bind(x)
        dag = MultiOutputNode([b.add.bind(y), c.add.bind(y), b.add.bind(y, more=y), y, y])
    with dagc.compile(dag) as graph:
        assert [channel.name for channel in graph.plan.channels].count("Worker_0.add") == 1
        assert dagc.get(graph.execute(1)) == [11, 101, 12, 1, 1]


def test_values_pass_by_reference_within_an_actor(workers: list[Any]) -> None:
    (a, *_) = workers
    with InputNode() as x:
        made = a.make.bind(x)
        dag = MultiOutputNode([a.identity.bind(made), a.identity.bind(made), a.is_array_writable.bind(made)])
    with dagc.compile(dag) as graph:
        first, second, writable = dagc.get(graph.execute(1000))
        assert first == second
        assert writable


def test_calls_without_input_run_once_an_execution(workers: list[Any]) -> None:
    a, b, _ = workers
    with dagc.compile(b.add.bind(a.constant.bind())) as graph:
        assert [graph.execute().get() for _ in range(3)] == [52, 52, 52]
    assert dagc.run(b.add.bind(a.constant.bind())) == 52


def test_async_methods(workers: list[Any]) -> None:
    a, b, _ = workers
    with InputNode() as x:
        dag = b.later.bind(a.later.bind(x))
    with dagc.compile(dag) as graph:
        assert graph.execute(1).get() == 3


def test_an_exception_keeps_its_type_and_the_graph_goes_on(workers: list[Any]) -> None:
    a, b, c = workers
    with InputNode() as x:
        dag = c.add.bind(b.fail_if_odd.bind(a.add.bind(x)))
    with dagc.compile(dag) as graph:
        refs = [graph.execute(i) for i in range(6)]
        for i, ref in enumerate(refs):
            if i % 2 == 0:
                assert ref.get() == 100 + i
                continue
            for _ in range(2):
                with pytest.raises(KeyError, match=f"odd: {i}") as raised:
                    ref.get()
            assert "fail_if_odd" in str(raised.value.__cause__)
            (note,) = raised.value.__notes__
            assert "Worker_1.fail_if_odd" in note
            assert f"execution {i + 1}" in note


def test_a_returned_exception_is_a_value(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = workers[0].give_exception.bind(x)
    with dagc.compile(dag) as graph:
        value = graph.execute("mine").get()
        assert isinstance(value, ValueError)
        assert value.args == ("mine",)


def test_an_unpicklable_result_fails_its_execution_only(workers: list[Any]) -> None:
    a, b, _ = workers
    with InputNode() as x:
        dag = b.echo.bind(a.unpicklable.bind(x))
    with dagc.compile(dag) as graph:
        with pytest.raises(dagc.SerializationError, match="lock"):
            graph.execute(1).get()
        assert graph.execute(0).get() == 0


def test_an_argument_that_cannot_be_sent_is_refused(workers: list[Any]) -> None:
    a, b, _ = workers
    with InputNode() as x:
        dag = MultiOutputNode([a.echo.bind(x[0]), b.echo.bind(x[1])])
    with dagc.compile(dag, max_message_bytes=100_000) as graph:
        for bad in ((threading.Lock(), 1), (1, threading.Lock())):
            with pytest.raises(dagc.SerializationError, match="cannot be pickled"):
                graph.execute(*bad)
        for big in ((np.zeros(100_000), 1), (1, np.zeros(100_000))):
            with pytest.raises(dagc.MessageTooLargeError, match="max_message_bytes=100000"):
                graph.execute(*big)
        assert dagc.get(graph.execute(1, 2)) == [1, 2]


def test_a_result_over_the_limit_fails_its_execution_only(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = workers[0].make.bind(x)
    with dagc.compile(dag, max_message_bytes=100_000) as graph:
        with pytest.raises(dagc.MessageTooLargeError, match=r"Worker_0\.make"):
            graph.execute(100_000).get()
        assert graph.execute(10).get().sum() == 70


def test_an_exception_over_the_limit_is_raised_all_the_same(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = workers[0].fail_if_odd.bind(x)
    with dagc.compile(dag, max_message_bytes=128) as graph:
        with pytest.raises(KeyError, match="odd: 1"):
            graph.execute(1).get()
        assert graph.execute(2).get() == 2


def test_a_wrong_number_of_returns_fails_its_execution_only(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = MultiOutputNode(list(workers[0].split_wrongly.bind(x)))
    with dagc.compile(dag) as graph:
        for value, found in ((1, "3 values"), (0, "a int")):
            for ref in graph.execute(value):
                with pytest.raises(dagc.GraphError, match=f"returned {found}; num_returns=2"):
                    ref.get()


def test_a_generator_is_refused_at_compile(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = workers[0].lazily.bind(x)
    with pytest.raises(dagc.GraphError, match=r"Worker_0\.lazily: .* is of a generator"):
        dagc.compile(dag)
    test_a_chain_gives_the_value_of_its_calls(workers)


def test_kept_arrays_never_change(workers: list[Any], engine: str) -> None:
    with InputNode() as x:
        dag = workers[2].keep.bind(x)
    with dagc.compile(dag, max_inflight=2) as graph:
        arrays = [np.full(size, i, dtype=np.float64) for i in range(20) for size in (10, 20_000)]
        sums = [graph.execute(array).get() for array in arrays]
        assert sums == [array.sum() for array in arrays]
        assert dagc.get(workers[2].kept_sums.remote()) == sums


def test_arrays_arrive_read_only_and_results_outlive_the_graph(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = MultiOutputNode([workers[0].is_array_writable.bind(x), workers[0].echo.bind(x)])
    with dagc.compile(dag) as graph:
        writable, back = dagc.get(graph.execute(np.arange(100_000)))
        assert not writable
    assert not back.flags.writeable
    assert back.sum() == np.arange(100_000).sum()


def test_an_array_made_in_shared_memory_is_handed_over(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = workers[0].keep.bind(x)
    with dagc.compile(dag) as graph:
        array = graph.empty((300, 1000), "float32")
        array[:] = 1
        assert graph.execute(array).get() == 300_000
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 2


def test_several_graphs_share_actors(workers: list[Any]) -> None:
    a, b, c = workers
    with InputNode() as x:
        one, two, three = b.add.bind(a.add.bind(x)), a.add.bind(b.add.bind(x)), c.note.bind(x)
    with dagc.compile(one) as first, dagc.compile(two) as second, dagc.compile(three) as third:
        for i in range(50):
            refs = [first.execute(i), second.execute(i), third.execute(i)]
            assert dagc.get(refs)[:2] == [i + 10, i + 10]
        assert dagc.get(a.add.remote(1)) == 1
    with dagc.compile(one) as again:
        assert again.execute(1).get() == 11


def test_the_same_dag_compiles_often_and_is_not_changed(workers: list[Any]) -> None:
    dag = chain(workers)
    with dagc.compile(dag, name="a", max_inflight=1) as first, dagc.compile(dag, name="b") as second:
        assert first.execute(1).get() == second.execute(1).get() == 111
        assert (first.plan.name, second.plan.name) == ("a", "b")


def test_several_threads_execute_and_get(workers: list[Any]) -> None:
    with dagc.compile(chain(workers), max_inflight=4) as graph, ThreadPoolExecutor(6) as pool:

        def work(base: int) -> list[int]:
            refs = [graph.execute(base + i) for i in range(40)]
            return [ref.get() for ref in refs]

        for base, found in zip(range(0, 600, 100), pool.map(work, range(0, 600, 100)), strict=True):
            assert found == [110 + base + i for i in range(40)]


def test_a_timeout_names_what_is_waited_for_and_loses_nothing(engine: str) -> None:
    gate = RemoteGate.remote()
    with InputNode() as x:
        dag = gate.work.bind(x)
    with dagc.compile(dag, name="slow", max_inflight=1, timeout=0.05) as graph:
        ref = graph.execute(1)
        dagc.get(gate.until_begun.remote())
        with pytest.raises(
            dagc.GetTimeoutError, match=r"no Gate_0\.work within 0\.05 s.*at work: Gate_0 in run Gate_0\.work"
        ):
            ref.get()
        with pytest.raises(dagc.GetTimeoutError, match=r"within 0 s"):
            ref.get(timeout=0)
        with pytest.raises(dagc.GetTimeoutError):
            graph.execute(2)
        gate.open.remote()
        assert ref.get(timeout=20) == 1
        assert graph.execute(2).get(timeout=20) == 2
    dagc.kill(gate)


def test_after_teardown(workers: list[Any]) -> None:
    graph = dagc.compile(chain(workers), name="ended")
    done, pending = graph.execute(1), graph.execute(2)
    assert done.get() == 111
    graph.teardown()
    graph.teardown()
    assert done.get() == 111
    assert pending.get() == 112  # what was under way was finished
    with pytest.raises(dagc.GraphClosedError, match="graph ended was torn down"):
        graph.execute(3)
    assert dagc.get(workers[0].add.remote(5)) == 5


def test_teardown_of_a_busy_graph_warns_and_frees_who_waits(engine: str) -> None:
    gate = RemoteGate.remote()
    with InputNode() as x:
        dag = gate.work.bind(x)
    graph = dagc.compile(dag, name="stuck")
    ref = graph.execute(1)
    dagc.get(gate.until_begun.remote())
    with pytest.warns(RuntimeWarning, match=r"Gate_0 did not finish within 0\.05 s.*run Gate_0\.work"):
        graph.teardown(timeout=0.05)
    with pytest.raises(dagc.GraphClosedError, match="torn down"):
        ref.get(timeout=20)
    dagc.get(gate.open.remote())
    dagc.kill(gate)


def test_teardown_frees_who_waits_for_a_place(engine: str) -> None:
    gate = RemoteGate.remote()
    with InputNode() as x:
        dag = gate.work.bind(x)
    graph = dagc.compile(dag, name="full", max_inflight=1)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(graph.execute(1).get), pool.submit(graph.execute, 2)]
        with pytest.warns(RuntimeWarning, match="Gate_0 did not finish"):
            graph.teardown(timeout=0.1)
        for waiter in waiting:
            with pytest.raises(dagc.GraphClosedError, match="torn down"):
                waiter.result(30)
    dagc.get(gate.open.remote())
    dagc.kill(gate)


def test_teardown_while_threads_execute_and_get(workers: list[Any]) -> None:
    def work(graph: dagc.CompiledGraph) -> int:
        done = 0
        try:
            while True:
                assert graph.execute(done).get() == done + 110
                done += 1
        except dagc.GraphClosedError:
            return done

    for _ in range(20):
        graph = dagc.compile(chain(workers), max_inflight=2)
        with ThreadPoolExecutor(3) as pool:
            working = [pool.submit(work, graph) for _ in range(3)]
            while graph.statistics().finished < 30:
                pass
            graph.teardown()
            assert sum(worker.result(30) for worker in working) >= 29


def test_explain_and_statistics(workers: list[Any]) -> None:
    with dagc.compile(chain(workers), name="counted") as graph:
        for _ in graph.map(range(10)):
            pass
        text = graph.explain()
        assert "plan counted: 8 in flight, bind order, 4 parties, 4 channels" in text
        assert dagc.compiled.Plan.parse(str(graph.plan)) == graph.plan
        found = graph.statistics()
        assert (found.name, found.executions, found.finished, found.in_flight) == ("counted", 10, 10, 0)
        assert [channel.messages for channel in found.channels] == [10] * 4


def test_bad_options_and_dags_start_nothing(workers: list[Any]) -> None:
    with pytest.raises(dagc.GraphError, match="did you mean max_inflight"):
        dagc.compile(chain(workers), max_inflght=3)
    with pytest.raises(dagc.GraphError, match="expected a node of a DAG"):
        dagc.compile(None)
    with pytest.raises(dagc.NoSuchMethodError, match="its methods are"):
        workers[0].nothing.bind(1)
    with pytest.raises(dagc.WrongArgumentsError, match="its signature is"):
        workers[0].add.bind()


class Gate:
    """A method that returns when another call says so."""

    def __init__(self) -> None:
        self._open, self._begun = threading.Event(), threading.Event()

    def work(self, x: int) -> int:
        self._begun.set()
        assert self._open.wait(60)
        return x

    def until_begun(self) -> None:
        assert self._begun.wait(60)

    def open(self) -> None:
        self._open.set()


RemoteGate = dagc.remote(max_concurrency=2)(Gate)


def test_map_draws_a_bar_on_standard_error(workers: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich", reason="the bar is drawn by rich")
    with dagc.compile(chain(workers), name="barred") as graph:
        assert list(graph.map(range(3), progress=True)) == [110, 111, 112]
    drawn = capsys.readouterr()
    assert "barred" in drawn.err
    assert drawn.out == ""
