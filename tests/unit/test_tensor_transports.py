"""Which way tensors go, from what users say and where actors are; no process, no GPU: the engine only plans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest

import dagc
from channels.communicators import AgreedTransport, ShmTransport, TensorSpec
from channels.transfer import TensorPath
from dagc.build import build_graph
from dagc.errors import GraphError
from dagc.passes.lower import lower
from dagc.passes.transports import choose_groups
from dagc.placement import locate
from dagc.plan import Plan
from runtime import current

torch = pytest.importorskip("torch")

SPEC = TensorSpec((2, 4), torch.float32)  # type: ignore[arg-type]


class Stage:
    def forward(self, x: Any) -> Any: ...

    def first(self) -> Any: ...


@pytest.fixture(autouse=True)
def planning() -> Iterator[None]:
    dagc.init(engine="plan")
    yield
    dagc.shutdown()


def stages(*gpus: float) -> list[Any]:
    kind = dagc.remote(Stage)
    return [kind.options(num_gpus=number).remote() for number in gpus]


def channels_of(dag: Any) -> dict[str, tuple[str, tuple[str, ...], int]]:
    plan = dagc.plan(dag)
    assert Plan.parse(str(plan)) == plan
    return {channel.name: (channel.transport, channel.readers, channel.slots) for channel in plan.channels}


def pipeline(actors: list[Any], *said: Any, **options: Any) -> Any:
    with dagc.InputNode() as x:
        value = x
        for actor in actors:
            value = actor.forward.bind(value)
            if actor is not actors[-1]:
                value.with_tensor_transport(*said, **options)
    return value


def test_auto_is_nccl_between_gpus_of_their_own() -> None:
    found = channels_of(pipeline(stages(1, 1, 0, 1), "auto"))
    assert found["Stage_0.forward"] == ("nccl", ("Stage_1",), 0)
    assert found["Stage_1.forward"] == ("shm", ("Stage_2",), 8)  # to an actor without a GPU
    assert found["Stage_2.forward"] == ("shm", ("Stage_3",), 8)
    assert found["input"][0] == found["Stage_3.forward"][0] == "shm"  # of the driver


def test_shares_of_one_gpu_go_through_shared_memory() -> None:
    found = channels_of(pipeline(stages(0.5, 0.5, 1), "auto"))
    assert found["Stage_0.forward"][0] == "shm"
    assert found["Stage_1.forward"][0] == "nccl"


def test_an_actor_may_have_several_gpus() -> None:
    assert channels_of(pipeline(stages(2, 2), "auto"))["Stage_0.forward"][0] == "nccl"


@pytest.mark.parametrize(("said", "expected"), [("shm", "shm"), ("gloo", "gloo"), ("nccl", "nccl")])
def test_what_is_said_is_done(said: str, expected: str) -> None:
    assert channels_of(pipeline(stages(1, 1), said))["Stage_0.forward"][0] == expected


def test_tensors_that_shall_be_on_the_cpu_need_no_nccl() -> None:
    assert channels_of(pipeline(stages(1, 1), "auto", device="cpu"))["Stage_0.forward"][0] == "shm"


@pytest.mark.parametrize(("gpus", "why"), [((0, 1), "Stage_0 has none"), ((0.5, 0.5), "Stage_0 and Stage_1 share GPU")])
def test_nccl_where_it_cannot_be_is_refused(gpus: Any, why: str) -> None:
    with pytest.raises(GraphError, match=f"Stage_0.forward goes from Stage_0 to Stage_1 by NCCL.*{why}"):
        dagc.plan(pipeline(stages(*gpus), "nccl"))
    actors = stages(*gpus)
    with dagc.InputNode() as x:
        out = dagc.allreduce.bind([actor.forward.bind(x) for actor in actors], transport="nccl")
    with pytest.raises(GraphError, match=f"allreduce goes by NCCL.*{why}"):
        dagc.plan(dagc.MultiOutputNode(list(out)))


def test_tensors_for_a_gpu_need_one_at_the_reader() -> None:
    with pytest.raises(
        GraphError,
        match=r"Stage_0.forward goes from Stage_0 to Stage_1 with device='cuda', but Stage_1 has no GPU; give",
    ):
        dagc.plan(pipeline(stages(1, 0), "auto", device="cuda"))
    assert channels_of(pipeline(stages(0, 1), "auto", device="cuda"))["Stage_0.forward"][0] == "shm"
    (alone,) = stages(0)
    with dagc.InputNode() as x:
        out = alone.forward.bind(x).with_tensor_transport(device="cuda")
    assert channels_of(out)["Stage_0.forward"][0] == "shm"  # whether the driver sees one, its torch knows


def test_a_value_that_goes_two_ways_has_two_channels() -> None:
    a, b, c = stages(1, 1, 0)
    with dagc.InputNode() as x:
        value = a.forward.bind(x).with_tensor_transport()
        out = [value, b.forward.bind(value), c.forward.bind(value)]
    plan = dagc.plan(dagc.MultiOutputNode(out))
    found = {channel.name: (channel.transport, channel.readers) for channel in plan.channels}
    assert found["Stage_0.forward"] == ("shm", ("Stage_2", "driver"))
    assert found["Stage_0.forward@nccl"] == ("nccl", ("Stage_1",))
    assert plan.by_name["Stage_0.forward@nccl"].value == "Stage_0.forward"
    assert [str(op) for op in plan.schedule["Stage_0"]] == [
        "recv input",
        "run Stage_0.forward",
        "send Stage_0.forward",
        "send Stage_0.forward@nccl",
    ]


def test_only_what_is_promised_is_received_before_it_is_there() -> None:
    a, b = stages(1, 1)
    for said, options in (("auto", {}), ("gloo", {"spec": SPEC})):
        with dagc.InputNode() as x:
            out = [b.forward.bind(a.forward.bind(x[i]).with_tensor_transport(said, **options)) for i in range(3)]
        assert "post" not in str(dagc.plan(dagc.MultiOutputNode(out)))
    with dagc.InputNode() as x:
        out = [b.forward.bind(a.forward.bind(x[i]).with_tensor_transport(spec=SPEC)) for i in range(3)]
    plan = dagc.plan(dagc.MultiOutputNode(out))
    assert [str(op) for op in plan.schedule["Stage_1"]][:5] == [
        "recv Stage_0.forward",
        "post Stage_0.forward#1",
        "run Stage_1.forward",
        "send Stage_1.forward",
        "recv Stage_0.forward#1",
    ]


def test_ranks_and_paths_of_programs() -> None:
    actors = stages(1, 1, 1)
    with dagc.InputNode() as x:
        value = actors[0].forward.bind(x).with_tensor_transport(spec=SPEC, device="cuda")
        parts = dagc.allreduce.bind([actor.forward.bind(value) for actor in actors[1:]])
        parts[0].with_tensor_transport()
        out = actors[2].forward.bind(parts[0])
    graph = build_graph(out)
    placement = locate(graph, current.engine())
    graph = choose_groups(graph, placement)
    lowered = lower(dagc.plan(out), graph)
    p2p = "nccl from actor to actor"
    assert lowered.communicators[p2p].members == ("Stage_0", "Stage_1", "Stage_2")
    assert lowered.communicators[p2p].transport == "nccl"
    # NCCL itself does not compare what ranks ask for.
    assert isinstance(lowered.communicators["nccl(Stage_1, Stage_2)"].transport, AgreedTransport)
    first, second, third = (lowered.programs[f"Stage_{i}"] for i in range(3))
    assert first.tensors == {"Stage_0.forward": TensorPath(p2p, (1, 2), "cuda", SPEC)}
    assert second.tensors == {
        "Stage_0.forward": TensorPath(p2p, (0,), "cuda", SPEC),
        "Stage_1.allreduce": TensorPath(p2p, (2,)),
    }
    assert third.ranks == {"nccl(Stage_1, Stage_2)": 1, p2p: 2}
    assert "Stage_0.forward: tensors float32[2,4] by nccl from actor to actor with 1, 2 to cuda" in str(first)


def test_what_is_said_last_holds_and_is_shown() -> None:
    a, b = stages(0, 0)
    with dagc.InputNode() as x:
        value = a.forward.bind(x).with_tensor_transport("gloo").with_tensor_transport("shm", spec=SPEC)
        out = b.forward.bind(value)
    assert "Stage_0.forward = Stage_0.forward(input) over shm float32[2,4]" in str(build_graph(out))
    assert "float32[2,4]" in str(dagc.plan(out).by_name["Stage_0.forward"])


def test_several_transports_of_one_user_are_several_groups() -> None:
    class Mine(ShmTransport):
        name: ClassVar[str] = "mine"

    a, b, c = stages(0, 0, 0)
    one, other = Mine(), replace(Mine(), stage_bytes=1 << 16)
    with dagc.InputNode() as x:
        out = c.forward.bind(b.forward.bind(a.forward.bind(x).with_tensor_transport(one)).with_tensor_transport(other))
    graph = build_graph(out)
    lowered = lower(dagc.plan(out), graph)
    assert [group.transport for group in lowered.communicators.values()] == [one, other]


def test_names_of_transports() -> None:
    class Odd(ShmTransport):
        name: ClassVar[str] = "my own"

    (a,) = stages(0)
    with pytest.raises(GraphError, match="whose name is a word"):
        a.first.bind().with_tensor_transport(Odd())
