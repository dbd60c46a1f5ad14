"""In which order calls are made."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.explain import explain
from dagc.graph import Call, Graph
from dagc.passes.order import best, order_calls, replay
from tests.fakes import actors, plan_of


def backwards(micro_batches: int, stages: int) -> Any:
    """Micro-batches forward and back through stages, each bound to its end before the next."""
    handles, outputs = actors(stages), []
    with InputNode() as x:
        for i in range(micro_batches):
            node: Any = x[i]
            for handle in handles:
                node = handle.forward.bind(node)
            for handle in reversed(handles):
                node = handle.update.bind(node)
            outputs.append(node)
    return MultiOutputNode(outputs)


def made_by(calls: tuple[Call, ...], actor: str) -> list[str]:
    return [call.name.split(".")[1] for call in calls if call.actor == actor]


def test_bind_is_the_order_of_bind() -> None:
    graph = build_graph(backwards(3, 2))
    assert order_calls(graph, "bind") == graph.calls


def test_forward_and_backward_alternate_on_the_last_stage() -> None:
    """One-forward-one-backward: as quick as all forwards first, with fewer values held."""
    graph = build_graph(backwards(4, 3))
    found = best(graph)
    assert made_by(found.calls, "Stage_2") == [
        f"{kind}{number}" for number in ("", "#1", "#2", "#3") for kind in ("forward", "update")
    ]
    assert found.rounds == 2 * (4 + 3 - 1)
    assert found.held <= 4


def test_the_order_of_bind_takes_every_micro_batch_alone() -> None:
    assert replay(build_graph(backwards(4, 3))).rounds == 4 * 2 * 3


def test_what_cannot_be_better_stays_as_it_was_bound() -> None:
    a, b = actors(2)
    x = InputNode()
    graph = build_graph(MultiOutputNode([b.forward.bind(a.forward.bind(x[i])) for i in range(5)]))
    assert [c for c in order_calls(graph, "free") if c.actor == "Stage_0"] == [
        c for c in graph.calls if c.actor == "Stage_0"
    ]


def test_explain_says_when_another_order_is_better() -> None:
    output = backwards(4, 3)
    graph = build_graph(output)
    assert "compile with order='free'" in explain(graph, plan_of(output))
    assert "compile with order='free'" not in explain(graph, plan_of(output, order="free"))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    handles = actors(draw(st.integers(1, 4)))
    nodes: list[Any] = [InputNode()]
    for _ in range(draw(st.integers(1, 15))):
        arguments = draw(st.lists(st.sampled_from(nodes), max_size=3))
        node = draw(st.sampled_from(handles)).update.bind(*arguments)
        others = [other for other in nodes[1:] if draw(st.booleans())][:2]
        nodes.append(node.after(*others))
    return build_graph(MultiOutputNode(nodes[1:]))


@given(graphs())
@settings(derandomize=True, max_examples=200, deadline=None)
def test_every_order_makes_each_call_once_after_those_that_it_needs(graph: Graph) -> None:
    bound, free = replay(graph), best(graph)
    assert (free.rounds, free.held) <= (bound.rounds, bound.held)
    for calls in (bound.calls, free.calls):
        assert sorted(call.name for call in calls) == sorted(call.name for call in graph.calls)
        made: set[str] = {node.name for node in graph.inputs}
        for call in calls:
            assert made.issuperset(call.uses)
            made.update(graph.values_of(call))
    for actor in graph.actors:
        assert made_by(bound.calls, actor) == made_by(graph.calls, actor)
