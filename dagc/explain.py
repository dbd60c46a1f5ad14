"""explain: a graph and its plan as text, with what strikes about them."""

from __future__ import annotations

from collections.abc import Iterator

from dagc.graph import Graph
from dagc.passes.order import best, replay
from dagc.plan import Plan

__all__ = ["explain"]


def explain(graph: Graph, plan: Plan) -> str:
    """The graph, notes on it, and the plan. `Plan.parse` takes what follows the first empty line after the graph."""
    notes = "".join(f"note: {note}\n" for note in _notes(graph, plan))
    return f"graph {plan.name}:\n{graph}\n\n{notes}{chr(10) if notes else ''}{plan}"


def _notes(graph: Graph, plan: Plan) -> Iterator[str]:
    if graph.output.leaves:
        calls = ", ".join(leaf.removesuffix(".done") for leaf in graph.output.leaves)
        yield f"nobody reads what these return: {calls}; they are made all the same, and an execution ends with them"
    for name, function in graph.workers.items():
        yield f"{name} is a worker for the function {function.__name__} alone; it is started and ended with the graph"
    if plan.order == "bind" and not graph.groups and len(graph.calls) > len(graph.makers):
        bound, free = replay(graph), best(graph)
        if free.rounds < bound.rounds:
            yield (
                f"if every call took one round, the order of bind would take {bound.rounds} rounds, and the best order "
                f"{free.rounds}: if no call depends on what another did to its actor, compile with order='free'"
            )
