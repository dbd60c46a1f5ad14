"""Compiled graphs over NCCL, as tests that need a fixture `engine`: a session of NUM_GPUS GPUs.

tests/integration/test_nccl_graphs.py runs them on a fake of the driver, tests/gpu/test_graphs.py on real GPUs.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
import torch

import dagc
from dagc import InputNode, MultiOutputNode, TensorSpec

#: Set in the environment where GPUs are real.
REAL = "DAGC_TESTS_ON_REAL_GPUS"
#: Those of three actors, of which the first has two, and of one that is killed.
NUM_GPUS = 5
WATCHDOG = 30.0
SPEC = TensorSpec((4, 8), "float32", "torch")


class Gpu:
    """An actor with a GPU. Without real ones the fake is installed in its own process."""

    def __init__(self, rank: int = 0) -> None:
        if REAL not in os.environ:
            importlib.import_module("tests.fakes_nccl").install()
        self.rank = rank
        self.buffer = torch.zeros(4, 8, device="cuda")

    def make(self, n: int) -> Any:
        return torch.full((4, 8), float(n), device="cuda")

    def in_place(self, n: int) -> Any:
        """The same memory in every execution, as whoever runs a CUDA graph returns it."""
        return self.buffer.fill_(n)

    def mixed(self, n: int) -> Any:
        gpu, cpu = torch.full((n % 5 + 1,), float(n), device="cuda"), torch.full((n % 3,), n)
        return {"gpu": [gpu, (gpu, cpu)], "n": n, "mask": torch.tensor([True, False]), "uint8": gpu.to(torch.uint8)}

    def look(self, value: Any) -> Any:
        gpu, (again, cpu) = value["gpu"]
        return (
            (gpu.is_cuda, again is gpu, cpu.is_cuda, value["uint8"].is_cuda),
            (gpu.tolist(), cpu.tolist(), value["n"], value["mask"].tolist(), value["uint8"].tolist()),
        )

    def on_second(self, n: int) -> Any:
        return torch.full((4, 8), float(n), device="cuda:1")

    def place(self, x: Any) -> tuple[int, int]:
        """Where it is: device and address."""
        return x.device.index, x.data_ptr()

    def total(self, x: Any) -> float:
        assert x.is_cuda
        return float(x.cpu().sum())

    def where(self, x: Any) -> tuple[bool, float]:
        return x.is_cuda, float(x.cpu().sum())

    def part(self, n: int) -> Any:
        return torch.full((3,), float(n + self.rank), device="cuda")

    def fails_at(self, n: int) -> Any:
        if n == 2 and self.rank == 0:
            raise KeyError(f"n={n}")
        return torch.full((4, 8), float(n + self.rank), device="cuda")

    def shaped(self, n: int) -> Any:
        """Another shape in execution 2, on rank 0; no tensor in execution 3, on rank 0."""
        if self.rank == 0 and n in (2, 3):
            return torch.zeros(5, device="cuda") if n == 2 else "text"
        return torch.full((4, 8), float(n), device="cuda")

    def die_at(self, x: Any) -> float:
        if float(x.cpu().sum()) >= 32 * 3:
            os._exit(5)
        return float(x.cpu().sum())

    def add(self, one: Any, other: Any) -> float:
        return float((one + other).cpu().sum())

    def array(self, n: int) -> Any:
        return np.full(2, n, np.float32)

    def sum_of(self, x: Any) -> float:
        return float(x.sum())

    def double(self, x: Any) -> Any:
        return x * 2

    def violations(self) -> list[str]:
        return [] if REAL in os.environ else list(importlib.import_module("tests.fakes_nccl").violations)


class Host:
    """An actor without a GPU."""

    def where(self, x: Any) -> tuple[bool, float]:
        return x.is_cuda, float(x.sum())

    def ones(self, n: int) -> Any:
        return torch.full((4, 8), float(n))


@pytest.fixture(scope="module")
def gpus(engine: None) -> Iterator[list[Any]]:
    made = [dagc.remote(num_gpus=2 if rank == 0 else 1)(Gpu).remote(rank) for rank in range(3)]
    yield made
    assert [dagc.get(one.violations.remote(), timeout=WATCHDOG) for one in made] == [[], [], []]


@pytest.fixture(scope="module")
def host(engine: None) -> Any:
    return dagc.remote(Host).remote()


def inputs(graph: Any, values: Any) -> list[Any]:
    return [dagc.get(ref, timeout=WATCHDOG) for ref in [graph.execute(value) for value in values]]


def test_tensors_of_any_structure_between_gpus(gpus: list[Any]) -> None:
    with InputNode() as n:
        out = gpus[1].look.bind(gpus[0].mixed.bind(n).with_tensor_transport())
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        assert graph.plan.by_name["Gpu_0.mixed"].transport == "nccl"
        for n, (where, what) in enumerate(inputs(graph, range(20))):
            # A dtype that NCCL's contract does not know goes through the host, and comes back to the GPU.
            assert where == (True, True, False, True)
            assert what == ([float(n)] * (n % 5 + 1), [n] * (n % 3), n, [True, False], [n] * (n % 5 + 1))


@pytest.mark.parametrize("spec", [None, SPEC])
@pytest.mark.parametrize("method", ["make", "in_place"])
def test_a_pipeline_of_many_executions(gpus: list[Any], spec: Any, method: str) -> None:
    with InputNode() as n:
        first = getattr(gpus[0], method).bind(n).with_tensor_transport(spec=spec)
        second = gpus[1].double.bind(first).with_tensor_transport(spec=spec)
        out = MultiOutputNode([gpus[2].total.bind(second), gpus[2].total.bind(first)])
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        assert inputs(graph, range(40)) == [[64.0 * n, 32.0 * n] for n in range(40)]


def test_micro_batches_are_received_while_others_are_worked_at(gpus: list[Any]) -> None:
    with InputNode() as x:
        made = []
        for i in range(4):
            value = gpus[0].make.bind(x[i]).with_tensor_transport(spec=SPEC if i % 2 else None)
            made.append(gpus[1].total.bind(value))
    with dagc.compile(MultiOutputNode(made), timeout=WATCHDOG) as graph:
        assert "post Gpu_0.make#1" in str(graph.plan)
        refs = [graph.execute(n, n + 1, n + 2, n + 3) for n in range(20)]
        for n, several in enumerate(refs):
            assert dagc.get(several, timeout=WATCHDOG) == [32.0 * (n + i) for i in range(4)]


@pytest.mark.parametrize("spec", [None, SPEC])
def test_an_exception_is_of_its_execution(gpus: list[Any], spec: Any) -> None:
    with InputNode() as n:
        out = gpus[1].total.bind(gpus[0].fails_at.bind(n).with_tensor_transport("nccl", spec=spec))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        for n, ref in enumerate([graph.execute(n) for n in range(5)]):
            if n == 2:
                with pytest.raises(KeyError, match="n=2"):
                    ref.get(timeout=WATCHDOG)
            else:
                assert ref.get(timeout=WATCHDOG) == 32.0 * n


def test_a_spec_that_does_not_hold_is_an_error_of_its_execution(gpus: list[Any]) -> None:
    with InputNode() as n:
        out = gpus[1].total.bind(gpus[0].shaped.bind(n).with_tensor_transport("nccl", spec=SPEC))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        for n, ref in enumerate([graph.execute(n) for n in range(6)]):
            if n in (2, 3):
                with pytest.raises(dagc.MismatchError, match="promises a torch tensor float32"):
                    ref.get(timeout=WATCHDOG)
            else:
                assert ref.get(timeout=WATCHDOG) == 32.0 * n


def test_what_a_spec_promises_is_received_into_memory_that_is_there(gpus: list[Any]) -> None:
    with InputNode() as n:
        out = gpus[1].place.bind(gpus[0].make.bind(n).with_tensor_transport(spec=SPEC))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        assert len(set(inputs(graph, range(50)))) <= 3


def test_a_tensor_of_another_gpu_of_its_actor(gpus: list[Any]) -> None:
    for spec in (None, SPEC):
        with InputNode() as n:
            value = gpus[0].on_second.bind(n).with_tensor_transport(spec=spec)
            out = [gpus[1].total.bind(value), gpus[2].place.bind(value)]
        with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
            assert [(total, device) for total, (device, _) in inputs(graph, range(4))] == [
                (32.0 * n, 0) for n in range(4)
            ]


def test_devices(gpus: list[Any], host: Any) -> None:
    """Where a tensor is at its reader: an actor with a GPU, one without, and the driver, which has one here."""
    for device, on_gpu, on_host in (("default", True, False), ("cpu", False, False), ("cuda", True, None)):
        with InputNode() as n:
            value = gpus[0].make.bind(n).with_tensor_transport(device=device)
            out = [gpus[1].where.bind(value), value]
            if on_host is not None:
                out.append(host.where.bind(value))
        with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
            for n, (there, here, *elsewhere) in enumerate(inputs(graph, range(1, 4)), start=1):
                assert there == (on_gpu, 32.0 * n)
                assert (here.is_cuda, float(here.cpu().sum())) == (on_gpu, 32.0 * n)
                assert elsewhere == ([(on_host, 32.0 * n)] if on_host is not None else [])


def test_from_the_cpu_to_a_gpu(gpus: list[Any], host: Any) -> None:
    with InputNode() as x:
        x[0].with_tensor_transport(device="cuda", spec=SPEC)
        made = host.ones.bind(x[1]).with_tensor_transport(device="cuda")
        out = [gpus[0].where.bind(x[0]), gpus[1].where.bind(made)]
    with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
        assert dagc.get(graph.execute(torch.ones(4, 8), 2), timeout=WATCHDOG) == [(True, 32.0), (True, 64.0)]
    with InputNode() as n:
        out = host.where.bind(gpus[0].make.bind(n).with_tensor_transport(device="cuda"))
    with pytest.raises(dagc.GraphError, match=r"device='cuda', but \w+ has no GPU"):
        dagc.compile(out)


# ---- collectives ----


def test_collectives_on_gpus(gpus: list[Any]) -> None:
    with InputNode() as n:
        parts = [gpu.part.bind(n) for gpu in gpus]
        total = dagc.allreduce.bind(parts)
        largest = dagc.allreduce.bind(list(total), op="max")
        gathered = dagc.allgather.bind(parts)
        scattered = dagc.reducescatter.bind(list(gathered))
        first = dagc.broadcast.bind(parts, root=1)
        rows = (total, largest, gathered, scattered, first)
        out = [gpu.total.bind(row[rank]) for rank, gpu in enumerate(gpus) for row in rows]
    with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
        assert "nccl(Gpu_0, Gpu_1, Gpu_2)" in str(graph._driver) or len(graph.plan.groups) == 5
        for n, found in enumerate(inputs(graph, range(8))):
            summed = 3.0 * (n + n + 1 + n + 2)
            for rank in range(3):
                total_, largest_, gathered_, scattered_, first_ = found[5 * rank : 5 * rank + 5]
                assert (total_, largest_, gathered_) == (summed, summed, summed)
                assert scattered_ == 3 * 3.0 * (n + rank)
                assert first_ == 3.0 * (n + 1)


def test_what_goes_wrong_on_one_rank_is_told_to_all(gpus: list[Any]) -> None:
    with InputNode() as n:
        failing = dagc.allreduce.bind([gpu.fails_at.bind(n) for gpu in gpus])
        out = [gpu.total.bind(value) for gpu, value in zip(gpus, failing, strict=True)]
    with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
        for n, refs in enumerate([graph.execute(n) for n in range(5)]):
            if n == 2:
                for ref in refs:
                    with pytest.raises(KeyError, match="n=2"):
                        ref.get(timeout=WATCHDOG)
            else:
                assert dagc.get(refs, timeout=WATCHDOG) == [32.0 * (3 * n + 3)] * 3
    with InputNode() as n:
        shaped = dagc.allreduce.bind([gpu.shaped.bind(n) for gpu in gpus])
        out = [gpu.total.bind(value) for gpu, value in zip(gpus, shaped, strict=True)]
    with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
        for n, refs in enumerate([graph.execute(n) for n in range(5)]):
            if n in (2, 3):
                kind, text = (dagc.MismatchError, "rank 0: allreduce sum of float32") if n == 2 else (TypeError, "str")
                for ref in refs:
                    with pytest.raises(kind, match=text):
                        ref.get(timeout=WATCHDOG)
            else:
                assert dagc.get(refs, timeout=WATCHDOG) == [96.0 * n] * 3


def test_collectives_beside_messages(gpus: list[Any]) -> None:
    """Tensor-parallel ranks that feed the next stage, with several executions under way."""
    with InputNode() as n:
        sums = dagc.allreduce.bind([gpu.make.bind(n) for gpu in gpus[:2]])
        fed = [gpus[2].total.bind(value.with_tensor_transport(spec=SPEC)) for value in sums]
        back = gpus[0].total.bind(gpus[2].make.bind(n).with_tensor_transport())
    with dagc.compile(MultiOutputNode([*fed, back]), timeout=WATCHDOG) as graph:
        assert inputs(graph, range(30)) == [[64.0 * n, 64.0 * n, 32.0 * n] for n in range(30)]


def test_collectives_of_two_graphs_at_once(gpus: list[Any]) -> None:
    """Their ranks come to them in orders of their own; a device that waited in one could not go on with the other."""

    def bound() -> Any:
        with InputNode() as n:
            sums = dagc.allreduce.bind([gpu.make.bind(n) for gpu in gpus[:2]])
            return MultiOutputNode([gpu.total.bind(one) for gpu, one in zip(gpus, sums, strict=False)])

    with dagc.compile(bound(), timeout=WATCHDOG) as one, dagc.compile(bound(), timeout=WATCHDOG) as other:
        for start in range(0, 80, 8):
            refs = [ref for n in range(start, start + 8) for graph in (one, other) for ref in graph.execute(n)]
            expected = [64.0 * n for n in range(start, start + 8) for _ in range(4)]
            assert dagc.get(refs, timeout=WATCHDOG) == expected


def test_a_common_input_beside_a_collective(gpus: list[Any]) -> None:
    for spec in (None, SPEC):
        with InputNode() as n:
            common = gpus[2].make.bind(n).with_tensor_transport(spec=spec)
            sums = dagc.allreduce.bind([gpu.make.bind(n) for gpu in gpus[:2]])
            out = [gpu.add.bind(one, common) for gpu, one in zip(gpus, sums, strict=False)]
        with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
            assert inputs(graph, range(40)) == [[96.0 * n] * 2 for n in range(40)]


def test_a_spec_of_numpy_keeps_to_shared_memory(gpus: list[Any]) -> None:
    with InputNode() as n:
        value = gpus[0].array.bind(n).with_tensor_transport(spec=TensorSpec((2,), "float32"))
        out = gpus[1].sum_of.bind(value)
        with pytest.raises(dagc.errors.GraphError, match="NCCL moves torch tensors"):
            value.with_tensor_transport("nccl", spec=TensorSpec((2,), "float32"))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        assert inputs(graph, range(3)) == [0.0, 2.0, 4.0]


# ---- ends ----


def test_a_death_in_the_middle(gpus: list[Any]) -> None:
    victim = dagc.remote(num_gpus=1)(Gpu).remote()
    with InputNode() as n:
        value = gpus[0].make.bind(n).with_tensor_transport(spec=SPEC)
        out = [gpus[1].total.bind(value), victim.die_at.bind(value)]
    with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
        # Taken before anybody dies: what lies in channels is lost with them.
        assert [dagc.get(graph.execute(n), timeout=WATCHDOG) for n in range(3)] == [[32.0 * n] * 2 for n in range(3)]
        begun: list[Any] = []
        with suppress(dagc.ActorDiedError):  # of execute itself, if the death is known by then
            begun.extend(graph.execute(n) for n in range(3, 6))
        assert begun
        for _, last in begun:
            with pytest.raises(dagc.ActorDiedError):
                last.get(timeout=WATCHDOG)
    with InputNode() as n:  # the survivors are as good as before
        out_ = gpus[1].total.bind(gpus[0].make.bind(n).with_tensor_transport(spec=SPEC))
    with dagc.compile(out_, timeout=WATCHDOG) as graph:
        assert inputs(graph, range(3)) == [0.0, 32.0, 64.0]


def test_many_graphs_one_after_the_other_and_at_once(gpus: list[Any]) -> None:
    def bound(source: int = 0, target: int = 1) -> Any:
        with InputNode() as n:
            return gpus[target].total.bind(gpus[source].make.bind(n).with_tensor_transport())

    for _ in range(3):
        with dagc.compile(bound(), timeout=WATCHDOG) as graph:
            assert inputs(graph, range(3)) == [0.0, 32.0, 64.0]
    # Nobody has planned the order of these; devices that waited for what is not there yet would wait in a circle.
    with ExitStack() as stack:
        options = {"timeout": WATCHDOG, "max_inflight": 4}
        ends = [(0, 1), (0, 1), (1, 0), (1, 2), (2, 0)]
        graphs = [stack.enter_context(dagc.compile(bound(*pair), **options)) for pair in ends]
        for start in range(0, 40, 4):
            refs = [graph.execute(n) for n in range(start, start + 4) for graph in graphs]
            expected = [32.0 * n for n in range(start, start + 4) for _ in graphs]
            assert dagc.get(refs, timeout=WATCHDOG) == expected
