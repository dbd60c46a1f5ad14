"""Collectives in compiled graphs, on threads, on processes and dynamically: values, errors, deaths."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import dagc
from channels.communicators import declines
from dagc import InputNode, MultiOutputNode

WATCHDOG = 30.0


class Rank:
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def part(self, x: Any) -> Any:
        """What this rank has: of `x` a part that is its own."""
        return np.asarray(x, np.float64) * (self.rank + 1) + self.rank

    def fail_as(self, rank: int) -> Any:
        if rank == self.rank:
            raise KeyError(f"rank {rank}")
        return np.ones(3)

    def fail_oddly_as(self, rank: int) -> Any:
        if rank == self.rank:
            error = ValueError(f"a lock of rank {rank}")
            error.lock = threading.Lock()  # type: ignore[attr-defined]
            raise error
        return np.ones(3)

    def shaped_as(self, rank: int) -> Any:
        return np.ones(3 if rank != self.rank else 4)

    def no_tensor_as(self, rank: int) -> Any:
        return np.ones(3) if rank != self.rank else "a string"

    def total(self, x: Any) -> float:
        return float(x.sum())

    def die_as(self, rank: int) -> Any:
        if rank == self.rank:
            os._exit(3)
        return np.ones(3)

    def fail_or_die_hearing_it(self, rank: int) -> Any:
        """As `fail_as`; the last rank dies when it has heard that the other one will say why."""

        def die(*_: Any) -> Any:
            os._exit(3)

        if self.rank == 2:
            declines.TensorSpec = die  # type: ignore[assignment, misc]
        return self.fail_as(rank)

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module", params=["threads", "embedded"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    dagc.init(engine=request.param)
    yield request.param
    dagc.shutdown()


@pytest.fixture(scope="module")
def workers(engine: str) -> list[Any]:
    kind = dagc.remote(Rank)
    return [kind.remote(rank) for rank in range(3)]


def compiled(dag: Any, inputs: list[Any]) -> list[Any]:
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        return [dagc.get(ref) for ref in [graph.execute(x) for x in inputs]]


def traced(dag: Any, inputs: list[Any]) -> list[Any]:
    with dagc.compile(dag, timeout=WATCHDOG, trace=True) as graph:
        return [dagc.get(ref) for ref in [graph.execute(x) for x in inputs]]


def dynamic(dag: Any, inputs: list[Any]) -> list[Any]:
    return [dagc.run(dag, x) for x in inputs]


RUNNERS = pytest.mark.parametrize("run", [compiled, traced, dynamic])
Runner = Callable[[Any, list[Any]], list[Any]]


@RUNNERS
@pytest.mark.parametrize(
    ("bind", "meaning"),
    [
        (lambda parts: dagc.allreduce.bind(parts), lambda a: [a.sum(0)] * 3),
        (lambda parts: dagc.allreduce.bind(parts, op="max"), lambda a: [a.max(0)] * 3),
        (lambda parts: dagc.allreduce.bind(parts, op="avg"), lambda a: [a.mean(0)] * 3),
        (lambda parts: dagc.allgather.bind(parts), lambda a: [a.reshape(-1)] * 3),
        (lambda parts: dagc.reducescatter.bind(parts), lambda a: list(a.sum(0).reshape(3, -1))),
        (lambda parts: dagc.broadcast.bind(parts, root=1), lambda a: [a[1]] * 3),
    ],
)
def test_values_are_those_of_numpy(workers: list[Any], run: Runner, bind: Any, meaning: Any) -> None:
    with InputNode() as x:
        dag = MultiOutputNode(bind([worker.part.bind(x) for worker in workers]))
    inputs = [np.arange(6.0) * i for i in range(1, 4)]
    for found, given in zip(run(dag, inputs), inputs, strict=True):
        expected = meaning(np.stack([given * (rank + 1) + rank for rank in range(3)]))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other)


def test_two_layers_of_a_tensor_parallel_model(workers: list[Any]) -> None:
    """A collective of what a collective left, with calls between, in many executions under way."""
    with InputNode() as x:
        values: Any = [x] * 3
        for _ in range(2):
            values = dagc.allreduce.bind([w.part.bind(v) for w, v in zip(workers, values, strict=True)])
        dag = MultiOutputNode([w.total.bind(v) for w, v in zip(workers, values, strict=True)])
    with dagc.compile(dag, max_inflight=8, timeout=WATCHDOG) as graph:
        found = list(graph.map([np.full(4, float(i)) for i in range(50)]))
    assert found == [[4 * (6 * (6 * i + 3) + 3)] * 3 for i in range(50)]


@RUNNERS
def test_an_exception_of_one_rank_is_one_of_all_and_the_graph_goes_on(workers: list[Any], run: Runner) -> None:
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([worker.fail_as.bind(x) for worker in workers]))
    if run is dynamic:
        with pytest.raises(KeyError, match="rank 1"):
            dagc.run(dag, 1)
        return
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for _ in range(3):
            for rank, ref in enumerate(graph.execute(1)):
                with pytest.raises(KeyError, match="rank 1") as caught:
                    ref.get()
                assert 'raise KeyError(f"rank {rank}")' in str(caught.value.__cause__)
                notes = " ".join(caught.value.__notes__)
                assert ".fail_as as Rank_1.fail_as, execution" in notes, f"rank {rank}: {notes}"
                assert "kept allreduce from running on any rank" in notes, f"rank {rank}: {notes}"
            assert [value.tolist() for value in dagc.get(graph.execute(7))] == [[3.0] * 3] * 3


def test_the_cause_is_told_where_one_rank_alone_is_asked(workers: list[Any]) -> None:
    """The usual tensor parallelism: what the others have is the same, and nobody reads it."""
    with InputNode() as x:
        first, *others = dagc.allreduce.bind([worker.fail_as.bind(x) for worker in workers])
        dag = workers[0].total.bind(first)
        for worker, value in zip(workers[1:], others, strict=True):
            worker.total.bind(value)
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for failing in (2, 1, 9, 0):
            if failing == 9:
                assert graph.execute(failing).get() == 9.0
                continue
            with pytest.raises(KeyError, match=f"rank {failing}") as caught:
                graph.execute(failing).get()
            assert f"Rank_{failing}.fail_as" in " ".join(caught.value.__notes__)


def test_a_failure_is_noted_at_the_first_collective_that_it_keeps_from_running(workers: list[Any]) -> None:
    with InputNode() as x:
        values: Any = [worker.fail_as.bind(x) for worker in workers]
        for _ in range(3):
            values = dagc.allreduce.bind(list(values))
        dag = MultiOutputNode(values)
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for ref in graph.execute(1):
            with pytest.raises(KeyError, match="rank 1") as caught:
                ref.get()
            assert sum("kept allreduce" in note for note in caught.value.__notes__) == 1
        assert [value.tolist() for value in dagc.get(graph.execute(7))] == [[27.0] * 3] * 3


def test_an_exception_that_cannot_be_pickled_is_told_as_far_as_it_can_be(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([worker.fail_oddly_as.bind(x) for worker in workers]))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for ref in graph.execute(1):
            with pytest.raises(ValueError, match="a lock of rank 1"):
                ref.get()
        assert [value.tolist() for value in dagc.get(graph.execute(7))] == [[3.0] * 3] * 3


def test_several_ranks_that_fail_at_once_do_not_hang(workers: list[Any]) -> None:
    with InputNode() as x:
        parts = [worker.fail_as.bind(x[i]) for i, worker in enumerate(workers)]
        dag = MultiOutputNode(dagc.allreduce.bind(parts))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for failing in ((0, 1, 9), (0, 1, 2), (9, 9, 2)):
            lowest = min(rank for rank in range(3) if failing[rank] == rank)
            for rank, ref in enumerate(graph.execute(*failing)):
                with pytest.raises(KeyError, match=f"rank {rank if failing[rank] == rank else lowest}"):
                    ref.get()
        assert [value.tolist() for value in dagc.get(graph.execute(9, 9, 9))] == [[3.0] * 3] * 3


def test_shapes_that_differ_are_named_on_every_rank(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([worker.shaped_as.bind(x) for worker in workers]))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for ref in graph.execute(2):
            with pytest.raises(dagc.MismatchError, match=r"rank 2: allreduce sum of float64 \(4,\)"):
                ref.get()
        assert len(dagc.get(graph.execute(9))) == 3


def test_what_is_no_tensor_is_named(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([worker.no_tensor_as.bind(x) for worker in workers]))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for ref in graph.execute(1):
            with pytest.raises(TypeError, match="expected a numpy array or a torch CPU tensor, found str") as caught:
                ref.get()
            assert "raised in allreduce by Rank" in " ".join(caught.value.__notes__)
        assert len(dagc.get(graph.execute(9))) == 3


def test_a_value_that_a_broadcast_replaces_is_not_written_to(workers: list[Any]) -> None:
    with InputNode() as x:
        parts = [worker.part.bind(x) for worker in workers]
        dag = MultiOutputNode([*dagc.broadcast.bind(parts), *parts])
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        found = [value.tolist() for value in dagc.get(graph.execute(np.ones(2)))]
    assert found == [[1.0, 1.0]] * 3 + [[1.0, 1.0], [3.0, 3.0], [5.0, 5.0]]


def test_torch_tensors_stay_tensors(workers: list[Any]) -> None:
    torch = pytest.importorskip("torch")

    @dagc.remote
    def tensor(x: Any) -> Any:
        return torch.from_numpy(np.array(x)).to(torch.bfloat16)

    with InputNode() as x:
        parts = [tensor.bind(worker.part.bind(x)) for worker in workers]
        dag = MultiOutputNode(dagc.allreduce.bind(parts))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for value in dagc.get(graph.execute(np.ones(3))):
            assert value.dtype is torch.bfloat16
            assert value.tolist() == [9.0] * 3


def test_a_gradient_history_is_refused_and_not_lost(workers: list[Any]) -> None:
    torch = pytest.importorskip("torch")

    def leaf(x: float) -> Any:
        return torch.ones(3, requires_grad=True)

    def with_history(x: float) -> Any:
        return torch.ones(3, requires_grad=True) * x

    with InputNode() as x:
        parts = [
            dagc.remote(function).bind(workers[i].total.bind(x)) for i, function in enumerate((leaf, with_history))
        ]
        dag = dagc.allreduce.bind(parts)[0]
    with (
        dagc.compile(dag, timeout=WATCHDOG) as graph,
        pytest.raises(dagc.SerializationError, match=r"gradient history .* send tensor\.detach\(\)") as raised,
    ):
        graph.execute(np.ones(2)).get()
    assert any("rank 1 declined" in note for note in raised.value.__notes__)


def test_the_death_of_a_rank_reaches_everybody(engine: str) -> None:
    if engine == "threads":
        pytest.skip("it would end this process")
    kind = dagc.remote(Rank)
    workers = [kind.remote(rank) for rank in range(3)]
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([worker.die_as.bind(x) for worker in workers]))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        assert len(dagc.get(graph.execute(9))) == 3
        for ref in graph.execute(1):
            with pytest.raises(dagc.ActorDiedError, match="Rank_1"):
                ref.get()
    # The others live on and may be in another graph.
    assert len({*dagc.get([workers[0].pid.remote(), workers[2].pid.remote()], timeout=WATCHDOG)}) == 2
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([workers[i].die_as.bind(x) for i in (0, 2)]))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        assert [value.tolist() for value in dagc.get(graph.execute(9))] == [[2.0] * 3] * 2


def test_a_death_while_another_rank_says_why_it_declined_reaches_everybody(engine: str) -> None:
    if engine == "threads":
        pytest.skip("it would end this process")
    kind = dagc.remote(Rank)
    workers = [kind.remote(rank) for rank in range(3)]
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([worker.fail_or_die_hearing_it.bind(x) for worker in workers]))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        for ref in graph.execute(1):
            with pytest.raises(dagc.ActorDiedError, match="Rank_2"):
                ref.get()


def test_the_plan_shows_the_groups(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([worker.part.bind(x) for worker in workers]))
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        assert "groups:\n  allreduce  allreduce  Rank_0, Rank_1, Rank_2\n" in graph.explain()
        assert dagc.Plan.parse(str(graph.plan)) == graph.plan
        assert len(dagc.get(graph.execute(np.ones(2)))) == 3


def test_graphs_with_collectives_come_and_go(workers: list[Any]) -> None:
    with InputNode() as x:
        dag = MultiOutputNode(dagc.allreduce.bind([worker.part.bind(x) for worker in workers]))
    for _ in range(20):
        with dagc.compile(dag, timeout=WATCHDOG) as one, dagc.compile(dag, timeout=WATCHDOG) as other:
            assert dagc.get(one.execute(np.ones(2)))[0].tolist() == dagc.get(other.execute(np.ones(2)))[0].tolist()
