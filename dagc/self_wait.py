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
    graph: Graph,
    plan: Plan,
    placement: Placement,
    statistics: Callable[[], Mapping[str, ChannelStatistics]],
    ended: Callable[[], bool],
) -> Callable[[int, str], None] | None:
    """What to call before waiting for an execution of an output channel: it raises GraphError if the wait would be for
    itself. `ended()`: the graph has, and nobody waits for anything.

    None if no actor of the graph is in this process, which is the usual case.
    """
    own: dict[ActorId, str] = {
        handle._actor_id: name
        for name, handle in graph.actors.items()
        if placement[name].pid == os.getpid() and placement[name].max_concurrency == 1
    }
    if not own:
        return None

    def check(execution: int, channel: str) -> None:
        actor = own.get(current.inside.get())  # type: ignore[arg-type] # None is the name of no actor
        if actor is None or ended():
            return
        needed = _needed(plan, channel).get(actor, 0)
        left = plan.schedule[actor][positions(plan, statistics(), execution)[actor] : needed]
        op = next((op for op in left if op.kind in (OpKind.RUN, OpKind.JOIN)), None)
        if op is not None:
            raise GraphError(
                f"a method of {actor} waits for {channel} of execution {execution} of graph {plan.name}, for which "
                f"{actor} still has to '{op}'; its methods run one at a time, so this would never end. Drive the graph "
                "from another actor or thread, or give the actor max_concurrency=2"
            )

    return check


def _needed(plan: Plan, channel: str) -> dict[str, int]:
    """Party -> how many of its ops must be done before the message of an execution is in the channel."""
    steps = [(party, i, op) for party, ops in plan.schedule.items() for i, op in enumerate(ops)]
    sends = {op.target: (party, i) for party, i, op in steps if op.kind is OpKind.SEND}
    joins = {(party, op.target): i for party, i, op in steps if op.kind is OpKind.JOIN}
    groups = {group.name: group.members for group in plan.groups}
    writer, last = sends[channel]
    needed: dict[str, int] = {}
    to_do = [(writer, last + 1)]
    while to_do:
        party, count = to_do.pop()
        done = needed.get(party, 0)
        if count <= done:
            continue
        needed[party] = count
        for op in plan.schedule[party][done:count]:
            if op.kind is OpKind.RECV:
                other, i = sends[op.target]
                to_do.append((other, i + 1))
            elif op.kind is OpKind.JOIN:
                to_do += [(member, joins[member, op.target] + 1) for member in groups[op.target]]
    return needed
