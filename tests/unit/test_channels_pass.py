from __future__ import annotations

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.errors import GraphError
from dagc.options import CompileOptions
from dagc.planner import make_plan
from tests.fakes import actor, actors, placed, plan_of


def test_a_value_has_one_channel_however_many_read_it() -> None:
    a, b, c = actors(3)
    shared = a.forward.bind(InputNode())
    readers = [b.forward.bind(shared), b.forward.bind(shared), c.forward.bind(shared), a.forward.bind(shared), shared]
    plan = plan_of(MultiOutputNode(readers))
    assert [str(channel) for channel in plan.channels][:2] == [
        "input  driver  ->  Stage_0  shm  8 x 4096",
        "Stage_0.forward  Stage_0  ->  Stage_1, Stage_2, driver  shm  8 x 4096",
    ]


def test_values_that_nobody_else_needs_have_no_channel() -> None:
    a, b = actors(2)
    x = InputNode()
    first, second = a.split.bind(x[0])
    kept = a.forward.bind(first)
    plan = plan_of(MultiOutputNode([b.update.bind(second, kept), x[3]]))
    assert list(plan.by_name) == ["input[0]", "Stage_0.split[1]", "Stage_0.forward", "Stage_1.update"]


@pytest.mark.parametrize(("inflight", "slots"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16), (1000, 1024)])
def test_there_is_a_slot_for_every_execution_under_way(inflight: int, slots: int) -> None:
    plan = plan_of(actor().forward.bind(InputNode()), max_inflight=inflight, buffer_bytes=64)
    assert {(channel.slots, channel.buffer_bytes) for channel in plan.channels} == {(slots, 64)}


def test_parties_of_one_process_use_local_channels() -> None:
    a, b = actors(2)
    output = b.forward.bind(a.forward.bind(InputNode()))
    plan = plan_of(output, pids={"Stage_0": 1, "Stage_1": 1})
    assert [channel.transport for channel in plan.channels] == ["shm", "local", "shm"]
    plan = plan_of(output, pids={"driver": 1, "Stage_0": 1, "Stage_1": 1})
    assert [channel.transport for channel in plan.channels] == ["local", "local", "local"]


def test_readers_here_and_elsewhere_share_one_channel() -> None:
    a, b = actors(2)
    x = InputNode()
    plan = plan_of(MultiOutputNode([a.forward.bind(x), b.forward.bind(x)]), pids={"driver": 1, "Stage_0": 1})
    assert str(plan.channels[0]) == "input  driver  ->  Stage_0, Stage_1  shm  8 x 4096"


def test_a_graph_over_two_nodes_is_refused() -> None:
    graph = build_graph(actor().forward.bind(InputNode()))
    with pytest.raises(GraphError, match="input goes from driver on node n0 to Stage_0 on node n1; this version"):
        make_plan(graph, placed(graph, nodes={"Stage_0": "n1"}), CompileOptions())


def test_the_tick_is_one_channel() -> None:
    plan = plan_of(MultiOutputNode([stage.update.bind() for stage in actors(2)]))
    assert str(plan.channels[0]) == "tick  driver  ->  Stage_0, Stage_1  shm  8 x 64"
