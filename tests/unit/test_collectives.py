"""Collectives as nodes: what can be bound, the plan, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import dagc
from channels.communicators import ReduceOp, ShmTransport
from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.errors import GraphError
from dagc.passes.lower import lower
from dagc.passes.simulate import simulate
from dagc.passes.transports import choose_groups
from dagc.program import Join
from tests.fakes import actor, actors, ops_of, placed, plan_of


def ranks(count: int) -> tuple[list[Any], list[Any]]:
    handles = actors(count)
    with InputNode() as x:
        return handles, [handle.forward.bind(x) for handle in handles]


def test_each_rank_joins_and_has_its_own_value() -> None:
    (_, b), parts = ranks(2)
    first, second = dagc.allreduce.bind(parts, op="max")
    output = MultiOutputNode([first, b.forward.bind(second)])
    assert str(build_graph(output)) == (
        "input             = argument of execute\n"
        "Stage_0.forward   = Stage_0.forward(input)\n"
        "Stage_1.forward   = Stage_1.forward(input)\n"
        "Stage_0.allreduce = rank 0 of allreduce(Stage_0.forward)\n"
        "Stage_1.allreduce = rank 1 of allreduce(Stage_1.forward)\n"
        "Stage_1.forward#1 = Stage_1.forward(Stage_1.allreduce)\n"
        "output            = [Stage_0.allreduce, Stage_1.forward#1]"
    )
    plan = plan_of(output)
    assert [str(group) for group in plan.groups] == ["allreduce  allreduce  Stage_0, Stage_1"]
    assert ops_of(plan)["Stage_0"] == [
        "recv input",
        "run Stage_0.forward",
        "join allreduce",
        "send Stage_0.allreduce",
    ]
    assert ops_of(plan)["Stage_1"][2:4] == ["join allreduce", "run Stage_1.forward#1"]
    assert simulate(plan.schedule, plan.channels, plan.groups) > 0


def test_the_step_says_what_is_asked_for() -> None:
    _, parts = ranks(2)
    output = MultiOutputNode(dagc.broadcast.bind(dagc.reducescatter.bind(parts, op="avg"), root=1))
    graph = build_graph(output)
    joins = [step for step in lower(plan_of(output), graph).programs["Stage_1"].steps if isinstance(step, Join)]
    assert [str(step) for step in joins] == [
        "%0 = join reducescatter: reducescatter(%1, avg); drop %1",
        "%1 = join broadcast: broadcast(%0, root 1); drop %0",
    ]


def test_the_same_ranks_share_a_communicator() -> None:
    (a, b), parts = ranks(2)
    summed = dagc.allreduce.bind(parts)
    again = dagc.allgather.bind([node.forward.bind(value) for node, value in zip((a, b), summed, strict=True)])
    turned = dagc.allreduce.bind([again[1], again[0]])
    own = dagc.allreduce.bind(turned, transport=ShmTransport())
    graph = build_graph(MultiOutputNode([*own, *turned]))
    lowered = lower(plan_of(MultiOutputNode([*own, *turned])), graph)
    assert list(lowered.communicators) == [
        "auto(Stage_0, Stage_1)",
        "auto(Stage_1, Stage_0)",
        f"{ShmTransport()!r}(Stage_1, Stage_0)",
    ]
    assert lowered.programs["Stage_1"].ranks["auto(Stage_1, Stage_0)"] == 0


def test_all_actors_come_to_their_collectives_in_one_order() -> None:
    """Bound crosswise, which would deadlock if each actor went its own way."""
    a, b = actors(2)
    with InputNode() as x:
        first = dagc.allreduce.bind([a.forward.bind(x), b.forward.bind(x)])
        second = dagc.allreduce.bind([a.update.bind(x), b.update.bind(x)])
        output = MultiOutputNode([*second, *first])
    for order in ("bind", "free"):
        plan = plan_of(output, order=order)
        assert plan.order == "bind", "an actor may not wait in the middle of a later execution"
        joins = {party: [op for op in ops if op.startswith("join")] for party, ops in ops_of(plan).items()}
        assert joins["Stage_0"] == joins["Stage_1"] == ["join allreduce", "join allreduce#1"]


def test_a_function_runs_beside_the_rank_whose_value_it_takes() -> None:
    @dagc.remote
    def double(x: Any) -> Any:
        return 2 * x

    _, parts = ranks(3)
    graph = build_graph(double.bind(dagc.allreduce.bind(parts)[2]))
    assert graph.calls[-1].actor == "Stage_2"


def test_a_collective_that_nobody_reads_is_not_made() -> None:
    handles = actors(2)
    with InputNode() as x:
        parts = [handle.forward.bind(x) for handle in handles]
        dagc.allreduce.bind(parts)
    graph = build_graph(MultiOutputNode(parts))
    assert not graph.groups
    assert not graph.output.leaves


def test_auto_is_shared_memory_within_a_machine_and_refused_beyond() -> None:
    _, parts = ranks(2)
    graph = build_graph(MultiOutputNode(dagc.allreduce.bind(parts)))
    chosen = choose_groups(graph, placed(graph))
    assert chosen.groups["allreduce"].transport == "shm"
    with pytest.raises(GraphError, match="allreduce is between Stage_0 on node n0 and Stage_1 on node n1"):
        choose_groups(graph, placed(graph, nodes={"Stage_1": "n1"}))


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        (lambda a, b: dagc.allreduce.bind([]), "expected a list of nodes"),
        (lambda a, b: dagc.allreduce.bind(a), "expected a list of nodes"),
        (lambda a, b: dagc.allreduce.bind([a, 1]), "element 1 is 1; expected a node"),
        (lambda a, b: dagc.allreduce.bind([a, InputNode()]), "element 1 is input, which no actor has"),
        (lambda a, b: dagc.allreduce.bind([a, b], op="mean"), "expected one of sum, product, min, max, avg"),
        (lambda a, b: dagc.allgather.bind([a, b], op="sum"), "allgather does not reduce"),
        (lambda a, b: dagc.allreduce.bind([a, b], root=0), "allreduce has no root"),
        (lambda a, b: dagc.broadcast.bind([a, b], root=2), "expected the index of one of the 2 nodes"),
        (lambda a, b: dagc.allreduce.bind([a, b], transport="ncl"), "expected a Transport, or one of auto, shm"),
        (lambda a, b: dagc.allreduce.bind(a, b), r"put the nodes into one list, allreduce\.bind\(\[a, b\]\)"),
        (lambda a, b: dagc.allreduce.bind([a, b], "max"), r"keywords, allreduce\.bind\(\[a, b\], op='max'\)"),
        (lambda a, b: dagc.broadcast.bind([a, b], 1), r"keywords, broadcast\.bind\(\[a, b\], root=1\)"),
        (lambda a, b: dagc.allgather.bind([a, b], "shm"), r"options are keywords, allgather\.bind"),
        (lambda a, b: dagc.allreduce([a, b]), r"write allreduce\.bind\("),
    ],
)
def test_bad_input_is_refused_when_it_is_bound(bind: Any, message: str) -> None:
    _, (a, b) = ranks(2)
    with pytest.raises(GraphError, match=message):
        bind(a, b)


def test_two_ranks_on_one_actor_are_refused_with_the_place() -> None:
    a, x = actor(), InputNode()
    values = dagc.allreduce.bind([a.forward.bind(x), a.update.bind(x)])
    with pytest.raises(GraphError, match="allreduce: Stage_0 has 2 of its ranks") as caught:
        build_graph(values[0])
    assert "combine what one actor has in a method" in str(caught.value)
    assert str(caught.value).endswith("<-- here")


def test_a_reduce_op_is_as_good_as_its_name() -> None:
    _, parts = ranks(2)
    graph = build_graph(dagc.allreduce.bind(parts, op=ReduceOp.MIN)[0])
    assert graph.groups["allreduce"].op == "min"
