"""with_tensor_transport in compiled graphs: values, errors, mismatches, pairing under load, deaths."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import dagc
from channels.communicators import TensorSpec
from dagc import InputNode, MultiOutputNode
from dagc.errors import GraphError
from tests.equality import same
from tests.own_transport import OwnTransport

torch = pytest.importorskip("torch")

WATCHDOG = 30.0
SPEC = TensorSpec((4, 8), torch.float32)  # type: ignore[arg-type]


class Maker:
    def __init__(self) -> None:
        self.buffer = torch.zeros(4, 8)

    def nested(self, n: int) -> Any:
        """Tensors of several dtypes and shapes at several depths, one of them twice, and things that are no tensors."""
        shared = torch.arange(n, dtype=torch.float32)
        return {
            "x": [shared, (torch.full((2, n), n, dtype=torch.float64), n)],
            "again": shared,
            "mask": torch.tensor([True, False]),
            "empty": torch.zeros(0, 3),
            "text": f"n={n}",
            "array": np.full(3, n),
            "scalar": torch.tensor(n),
            "transposed": torch.arange(6.0).reshape(2, 3).T,
        }

    def plain(self, n: int) -> Any:
        return torch.full((4, 8), float(n))

    def in_place(self, n: int) -> Any:
        """The same buffer in every execution, as whoever runs a CUDA graph returns it."""
        return self.buffer.fill_(n)

    def fails_at(self, n: int) -> Any:
        if n == 2:
            raise KeyError(f"n={n}")
        return torch.full((4, 8), float(n))

    def shaped(self, n: int) -> Any:
        """Not what SPEC promises in executions 2 to 5."""
        wrong = {2: torch.zeros(4, 9), 3: torch.zeros(4, 8, dtype=torch.float64), 4: np.zeros((4, 8)), 5: "text"}
        return wrong.get(n, torch.full((4, 8), float(n)))

    def lambda_of(self, n: int) -> Any:
        return {"f": (lambda: n), "x": torch.ones(n)}

    def unpicklable(self, n: int) -> Any:
        return {"lock": threading.Lock() if n == 1 else None, "x": torch.ones(n)}

    def history(self, n: int) -> Any:
        weight = torch.ones(n, requires_grad=True)
        return weight * 2 if n == 1 else weight

    def odd(self, n: int, kind: str, library: str) -> Any:
        """In execution 1 what has the right dtype and shape, and cannot be sent all the same."""
        if n != 1:
            full = torch.full((4, 8), float(n))
            return full.numpy() if library == "numpy" else full
        if kind == "history":
            return torch.ones(4, 8, requires_grad=True) * 2
        if kind == "swapped":
            return np.ones((4, 8), ">f4")
        return torch.zeros(4, 8).to_sparse() if kind == "sparse" else torch.zeros(4, 8, device="meta")

    def ones(self, n: int) -> Any:
        return torch.ones(n)

    def leaf(self, n: int) -> Any:
        made = torch.full((4, 8), float(n), requires_grad=n == 1)
        return torch.nn.Parameter(made.detach()) if n == 2 else made

    def part(self, n: int) -> Any:
        return torch.arange(n % 7 + 1) + n, np.full(n % 5 + 1, n), n

    def double(self, x: Any) -> Any:
        return x * 2


class Taker:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def same(self, value: Any) -> Any:
        return value

    def total(self, x: Any) -> float:
        return float(x.sum())

    def keep(self, x: Any) -> list[float]:
        """Every value so far, as it is now."""
        self.kept.append(x)
        return [float(value[0, 0]) for value in self.kept]

    def call(self, value: Any) -> Any:
        return value["f"](), float(value["x"].sum())

    def consistent(self, value: Any) -> int:
        tensor, array, n = value
        assert tensor.tolist() == [n + i for i in range(n % 7 + 1)]
        assert array.tolist() == [n] * (n % 5 + 1)
        return int(n)

    def die_at(self, x: Any) -> Any:
        if float(x.sum()) >= 32 * 3:
            os._exit(5)
        return float(x.sum())

    def uneven(self, n: int, rank: int) -> Any:
        """Takes one rank longer, then the other."""
        if n % 2 == rank:
            torch.ones(400, 400) @ torch.ones(400, 400)
        return torch.full((2,), float(n) / 4)

    def add(self, one: Any, other: Any) -> float:
        return float(one.sum()) + 2 * float(other.sum())

    def grad_in_place(self, x: Any) -> bool:
        found = bool(x.requires_grad)
        if not found:
            x.add_(torch.ones(1, requires_grad=True))
        return found

    def grad(self, x: Any) -> Any:
        return bool(x.requires_grad)


@pytest.fixture(scope="module", params=["threads", "embedded"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    dagc.init(engine=request.param)
    yield request.param
    dagc.shutdown()


@pytest.fixture(scope="module")
def maker(engine: str) -> Any:
    return dagc.remote(Maker).remote()


@pytest.fixture(scope="module")
def takers(engine: str) -> list[Any]:
    kind = dagc.remote(Taker)
    return [kind.remote() for _ in range(2)]


TRANSPORTS = pytest.mark.parametrize("transport", ["auto", "gloo", OwnTransport()], ids=str)
REMOTE = pytest.mark.parametrize("transport", ["gloo", OwnTransport()], ids=str)


def inputs(graph: Any, values: list[Any]) -> list[Any]:
    refs = [graph.execute(value) for value in values]
    return [dagc.get(ref, timeout=WATCHDOG) for ref in refs]


@TRANSPORTS
def test_tensors_at_any_depth(maker: Any, takers: list[Any], transport: Any) -> None:
    with InputNode() as n:
        out = takers[0].same.bind(maker.nested.bind(n).with_tensor_transport(transport))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        for found, n in zip(inputs(graph, [3, 1, 8, 0, 3000]), [3, 1, 8, 0, 3000], strict=True):
            assert same(found, Maker().nested(n))
            assert found["again"] is found["x"][0]
    assert same(dagc.run(out, 4), Maker().nested(4))


@TRANSPORTS
def test_a_value_for_actors_and_the_driver(maker: Any, takers: list[Any], transport: Any) -> None:
    with InputNode() as n:
        value = maker.plain.bind(n).with_tensor_transport(transport)
        twice = maker.double.bind(value)
        out = MultiOutputNode([value, *(taker.total.bind(value) for taker in takers), takers[1].total.bind(twice)])
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        for n, (whole, *totals) in enumerate(inputs(graph, list(range(20)))):
            assert torch.equal(whole, torch.full((4, 8), float(n)))
            assert totals == [32.0 * n, 32.0 * n, 64.0 * n]


@REMOTE
def test_a_failure_on_the_way_is_of_its_execution(maker: Any, takers: list[Any], transport: Any) -> None:
    for spec in (None, SPEC):
        with InputNode() as n:
            out = takers[0].total.bind(maker.fails_at.bind(n).with_tensor_transport(transport, spec=spec))
        with dagc.compile(out, timeout=WATCHDOG) as graph:
            refs = [graph.execute(n) for n in range(5)]
            for n, ref in enumerate(refs):
                if n == 2:
                    with pytest.raises(KeyError, match="n=2") as raised:
                        ref.get(timeout=WATCHDOG)
                    assert "Maker_0.fails_at" in str(raised.value.__notes__)
                else:
                    assert ref.get(timeout=WATCHDOG) == 32.0 * n


@TRANSPORTS
def test_a_spec_that_does_not_hold_is_an_error_of_its_execution(maker: Any, takers: list[Any], transport: Any) -> None:
    with InputNode() as n:
        out = takers[0].total.bind(maker.shaped.bind(n).with_tensor_transport(transport, spec=SPEC))
    expected = {2: r"float32\[4,9\]", 3: r"float64\[4,8\]", 4: "numpy array float64", 5: "is a str"}
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        refs = [graph.execute(n) for n in range(8)]
        for n, ref in enumerate(refs):
            if n in expected:
                with pytest.raises(dagc.MismatchError, match=rf"{expected[n]}.*promises a torch tensor float32\[4,8\]"):
                    ref.get(timeout=WATCHDOG)
            else:
                assert ref.get(timeout=WATCHDOG) == 32.0 * n


@TRANSPORTS
def test_what_is_kept_does_not_change(maker: Any, transport: Any) -> None:
    for spec in (None, SPEC):
        taker = dagc.remote(Taker).remote()
        with InputNode() as n:
            out = taker.keep.bind(maker.in_place.bind(n).with_tensor_transport(transport, spec=spec))
        with dagc.compile(out, timeout=WATCHDOG) as graph:
            assert inputs(graph, list(range(12)))[-1] == list(range(12))
        dagc.kill(taker)


@REMOTE
def test_what_cannot_be_sent_is_an_error_of_its_execution(maker: Any, takers: list[Any], transport: Any) -> None:
    with InputNode() as n:
        out = takers[0].call.bind(maker.lambda_of.bind(n).with_tensor_transport(transport))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        assert inputs(graph, [1, 2]) == [(1, 1.0), (2, 2.0)]
    with InputNode() as n:
        out = takers[0].same.bind(maker.unpicklable.bind(n).with_tensor_transport(transport))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        refs = [graph.execute(n) for n in range(3)]
        with pytest.raises(dagc.SerializationError, match="cannot be pickled"):
            refs[1].get(timeout=WATCHDOG)
        assert [torch.numel(refs[n].get(timeout=WATCHDOG)["x"]) for n in (0, 2)] == [0, 2]
    with InputNode() as n:
        out = takers[0].grad.bind(maker.history.bind(n).with_tensor_transport(transport))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        refs = [graph.execute(n) for n in (1, 2)]
        with pytest.raises(dagc.SerializationError, match="gradient history"):
            refs[0].get(timeout=WATCHDOG)
        assert refs[1].get(timeout=WATCHDOG) is True


@TRANSPORTS
def test_parts_of_a_message_stay_together(maker: Any, takers: list[Any], transport: Any) -> None:
    """Many executions with shapes that change each time, gets that give up and try again, refs that are dropped."""
    chosen = random.Random(7)
    with InputNode() as n:
        value = maker.part.bind(n).with_tensor_transport(transport)
        again = takers[0].same.bind(value).with_tensor_transport(transport)
        out = takers[1].consistent.bind(again)
    with dagc.compile(out, timeout=WATCHDOG, max_inflight=4) as graph:
        waiting: list[tuple[int, Any]] = []
        for n in range(200):
            waiting.append((n, graph.execute(n)))
            while waiting and (len(waiting) == 4 or chosen.random() < 0.4):
                number, ref = waiting.pop(chosen.randrange(len(waiting)))
                if chosen.random() < 0.2:
                    del ref
                    continue
                try:
                    found = ref.get(timeout=chosen.choice([0, 1e-4]))
                except dagc.GetTimeoutError:
                    found = ref.get(timeout=WATCHDOG)
                assert found == number


def test_the_input_and_its_parts(maker: Any, takers: list[Any]) -> None:
    with InputNode() as x:
        x[0].with_tensor_transport("auto", device="cpu", spec=SPEC)
        out = takers[0].total.bind(x[0]), maker.double.bind(x[1])
    with dagc.compile(MultiOutputNode(list(out)), timeout=WATCHDOG) as graph:
        assert "float32[4,8]@cpu" in str(graph.plan)
        assert dagc.get(graph.execute(torch.ones(4, 8), 2), timeout=WATCHDOG) == [32.0, 4]
        with pytest.raises(dagc.MismatchError, match=r"input\[0\] is a torch tensor float32\[3\]"):
            graph.execute(torch.ones(3), 2)
        assert dagc.get(graph.execute(torch.ones(4, 8), 3), timeout=WATCHDOG) == [32.0, 6]


@REMOTE
def test_a_death_in_the_middle(engine: str, transport: Any) -> None:
    if engine == "threads":
        pytest.skip("it would end this process")
    maker, taker = dagc.remote(Maker).remote(), dagc.remote(Taker).remote()
    with InputNode() as n:
        out = taker.die_at.bind(maker.plain.bind(n).with_tensor_transport(transport, spec=SPEC))
    with dagc.compile(out, timeout=WATCHDOG) as graph:
        # Taken before anybody dies: what lies in channels is lost with them.
        assert inputs(graph, [0, 1, 2]) == [0.0, 32.0, 64.0]
        begun: list[Any] = []
        with suppress(dagc.ActorDiedError):  # of execute itself, if the death is known by then
            begun.extend(graph.execute(n) for n in range(3, 6))
        assert begun
        for ref in begun:
            with pytest.raises(dagc.ActorDiedError, match="Taker"):
                ref.get(timeout=WATCHDOG)
    assert dagc.get(maker.double.remote(4), timeout=WATCHDOG) == 8  # its loop has ended, it has not
    dagc.kill(maker)


def test_what_makes_no_sense_is_refused(maker: Any, takers: list[Any]) -> None:
    with InputNode() as n:
        node = maker.plain.bind(n)
        with pytest.raises(GraphError, match=r"transport='ncc'.*auto, shm, nccl, gloo"):
            node.with_tensor_transport("ncc")
        with pytest.raises(GraphError, match=r"device='gpu'.*default, cpu, cuda"):
            node.with_tensor_transport(device="gpu")
        with pytest.raises(GraphError, match=r"spec=.*TensorSpec"):
            node.with_tensor_transport(spec=(4, 8))  # type: ignore[arg-type]
        with pytest.raises(GraphError, match="NCCL moves tensors from GPU to GPU"):
            node.with_tensor_transport("nccl", device="cpu")
        with pytest.raises(GraphError, match="say it of each of the nodes"):
            MultiOutputNode([node]).with_tensor_transport("shm")


def test_nccl_needs_a_gpu_at_each_end(engine: str, maker: Any, takers: list[Any]) -> None:
    if engine == "threads":
        pytest.skip("between threads nothing goes by a communicator")
    with InputNode() as n:
        out = takers[0].total.bind(maker.plain.bind(n).with_tensor_transport("nccl"))
    with pytest.raises(GraphError, match=r"Maker_0.plain goes from Maker_0 to Taker_0 by NCCL.*Maker_0 has none"):
        dagc.compile(out)


def test_a_tensor_for_a_gpu_that_is_not_there(engine: str, maker: Any, takers: list[Any]) -> None:
    with InputNode() as n:
        out = takers[0].total.bind(maker.plain.bind(n).with_tensor_transport(device="cuda"))
    if engine == "embedded":
        with pytest.raises(GraphError, match="device='cuda', but Taker_0 has no GPU"):
            dagc.compile(out)
        with InputNode() as n:  # to the driver, which tells when it receives
            out = maker.plain.bind(n).with_tensor_transport(device="cuda")
    with dagc.compile(out, timeout=WATCHDOG) as graph, pytest.raises(RuntimeError, match="finds none here"):
        graph.execute(1).get(timeout=WATCHDOG)


@REMOTE
def test_a_common_input_beside_a_collective(engine: str, maker: Any, takers: list[Any], transport: Any) -> None:
    """Ranks that meet in an allreduce, and all need what another actor sends to one after the other. A rank that took
    it before the allreduce, while another one does so only afterwards, would wait for ever."""
    if engine == "threads":
        pytest.skip("between threads nothing goes by a communicator")
    for spec in (None, SPEC):
        with InputNode() as n:
            common = maker.plain.bind(n).with_tensor_transport(transport, spec=spec)
            summed = dagc.allreduce.bind([taker.uneven.bind(n, rank) for rank, taker in enumerate(takers)])
            out = [taker.add.bind(one, common) for taker, one in zip(takers, summed, strict=True)]
        with dagc.compile(MultiOutputNode(out), timeout=WATCHDOG) as graph:
            assert inputs(graph, list(range(40))) == [[65.0 * n] * 2 for n in range(40)]


@REMOTE
def test_what_cannot_be_promised_is_an_error_of_its_execution(maker: Any, takers: list[Any], transport: Any) -> None:
    for spec, odd in ((SPEC, ("sparse", "meta", "history")), (TensorSpec((4, 8), "float32"), ("swapped",))):
        for kind in odd:
            with InputNode() as x:
                value = maker.odd.bind(x[0], kind, spec.library)
                out = takers[0].total.bind(value.with_tensor_transport(transport, spec=spec))
            with dagc.compile(out, timeout=WATCHDOG) as graph:
                refs = [graph.execute(n) for n in range(4)]
                with pytest.raises((dagc.MismatchError, dagc.SerializationError)):
                    refs[1].get(timeout=WATCHDOG)
                assert [refs[n].get(timeout=WATCHDOG) for n in (0, 2, 3)] == [0.0, 64.0, 96.0]


@REMOTE
def test_leaves_of_autograd_beside_a_spec(maker: Any, takers: list[Any], transport: Any) -> None:
    for spec in (None, SPEC):
        with InputNode() as n:
            out = takers[0].grad_in_place.bind(maker.leaf.bind(n).with_tensor_transport(transport, spec=spec))
        with dagc.compile(out, timeout=WATCHDOG) as graph:
            # What is done to one value in place leaves nothing to the next one in the same memory.
            assert inputs(graph, [0, 1, 0, 2, 0, 1]) == [False, True] * 3


@REMOTE
def test_tensors_above_max_message_bytes(maker: Any, takers: list[Any], transport: Any) -> None:
    options = {"timeout": WATCHDOG, "max_message_bytes": 1000}
    with InputNode() as n:
        out = takers[0].total.bind(maker.ones.bind(n).with_tensor_transport(transport))
    with dagc.compile(out, **options) as graph:
        refs = [graph.execute(n) for n in (2, 400, 3)]
        with pytest.raises(dagc.MessageTooLargeError, match="max_message_bytes=1000"):
            refs[1].get(timeout=WATCHDOG)
        assert [refs[n].get(timeout=WATCHDOG) for n in (0, 2)] == [2.0, 3.0]
    out.with_tensor_transport("shm", spec=TensorSpec((400,), "float32"))
    with pytest.raises(dagc.MessageTooLargeError, match=r"Taker_0.total promises.*1600 bytes"):
        dagc.compile(out, **options)
