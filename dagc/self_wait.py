"""A method that waits for a graph which needs its own actor: found when it happens, told instead of hanging.

Methods of an actor run one at a time, so the loop of the graph waits for the method to end, which waits for the graph.
It is no mistake to drive such a graph from elsewhere, nor to take a result when the actor has done its part in it; so
only the waiting itself can be refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from channels import ChannelStatistics
from dagc.errors import GraphError
from dagc.graph import Graph
from dagc.placement import Placement
from dagc.plan import OpKind, Plan
from dagc.progress import positions
from runtime import current
from runtime.ids import ActorId

__all__ = ["self_wait"]


def self_wait(
    graph: Graph, plan: Plan, placement: Placement, statistics: Callable[[], Mapping[str, ChannelStatistics]]
) -> Callable[[int], None] | None:
    """What to call before waiting for an execution: it raises GraphError if the wait would be for itself.

    None if no actor of the graph is in this process, which is the usual case.
    """
    own: dict[ActorId, str] = {
        handle._actor_id: name
        for name, handle in graph.actors.items()
        if placement[name].pid == os.getpid() and placement[name].max_concurrency == 1
    }
    if not own:
        return None

    def check(execution: int) -> None:
        actor = own.get(current.inside.get())  # type: ignore[arg-type] # None is the name of no actor
        if actor is None:
            return
        left = plan.schedule[actor][positions(plan, statistics(), execution)[actor] :]
        if any(op.kind is OpKind.RUN for op in left):
            raise GraphError(
                f"a method of {actor} waits for execution {execution} of graph {plan.name}, in which {actor} still has "
                f"to '{next(op for op in left if op.kind is OpKind.RUN)}'; its methods run one at a time, so this "
                "would never end. Drive the graph from another actor or thread, or give the actor max_concurrency=2"
            )

    return check
