"""choose_transports: how each edge goes from its writer to its reader; choose_groups: and how collectives go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from dagc.errors import GraphError
from dagc.graph import Graph, Group

if TYPE_CHECKING:
    from dagc.passes.edges import Edge
    from dagc.placement import Placement

__all__ = ["choose_groups", "choose_transports"]


def choose_transports(edges: Iterable[Edge], placement: Placement) -> Mapping[Edge, str]:
    """Per edge: "local" between parties of one process, "shm" between processes of one node.

    Raises GraphError for an edge between two nodes.
    """
    return {edge: _choose(edge, placement) for edge in edges}


def choose_groups(graph: Graph, placement: Placement) -> Graph:
    """The graph with a transport for each collective that left it to us: "shm" within a machine.

    Raises GraphError for a collective of shared memory between two nodes.
    """
    groups = {name: _choose_group(name, group, placement) for name, group in graph.groups.items()}
    return replace(graph, groups=groups) if groups else graph


def _choose_group(name: str, group: Group, placement: Placement) -> Group:
    if group.transport not in ("auto", "shm"):
        return group
    first, *others = group.members
    for other in others:
        if placement[other].node != placement[first].node:
            raise GraphError(
                f"{name} is between {first} on node {placement[first].node} and {other} on node "
                f"{placement[other].node}; shared memory does not reach so far: start its actors on one node, or pass "
                "a transport of your own"
            )
    return replace(group, transport="shm")


def _choose(edge: Edge, placement: Placement) -> str:
    source, target = placement[edge.writer], placement[edge.reader]
    if source.node != target.node:
        raise GraphError(
            f"{edge.value} goes from {edge.writer} on node {source.node} to {edge.reader} on node {target.node}; this "
            "version compiles graphs of one node: start all their actors, and compile, on the same one"
        )
    return "local" if source.pid == target.pid else "shm"
