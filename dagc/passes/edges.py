"""Edges: which values go from one party to another. What stays with its actor is passed by reference and has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dagc.graph import DRIVER, Call, Collective, Graph

__all__ = ["TICK", "Edge", "find_edges"]

#: A value of the driver's that is None: it starts an execution on actors that would otherwise wait for nothing.
TICK = "tick"


class Edge(NamedTuple):
    """A value, who has it and who needs it."""

    value: str
    writer: str
    reader: str


def find_edges(graph: Graph, calls: Sequence[Call | Collective]) -> tuple[Edge, ...]:
    """Each edge once, grouped by value: the tick, then the values in the order of the graph.

    `calls`: those of the graph, in the order in which they are made. An actor loops over its ops as fast as they let
    it. It is the first receive of an execution that holds it back until that execution has begun; so an actor whose
    first call receives nothing is sent a tick. Later calls need none.
    """
    readers: dict[str, dict[str, None]] = {name: {} for name in (TICK, *graph.parties)}
    started: set[str] = set()
    for call in calls:
        foreign = [use for use in call.uses if graph.parties[use] != call.actor]
        for use in foreign:
            readers[use][call.actor] = None
        if call.actor not in started and not foreign:
            readers[TICK][call.actor] = None
        started.add(call.actor)
    for use in graph.output.uses:
        if graph.parties[use] != DRIVER:  # an input that is an output too never leaves the driver
            readers[use][DRIVER] = None
    return tuple(
        Edge(value, graph.parties.get(value, DRIVER), reader) for value, found in readers.items() for reader in found
    )
