"""choose_transports: how each edge goes from its writer to its reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from dagc.errors import GraphError

if TYPE_CHECKING:
    from dagc.passes.edges import Edge
    from dagc.placement import Placement

__all__ = ["choose_transports"]


def choose_transports(edges: Iterable[Edge], placement: Placement) -> Mapping[Edge, str]:
    """Per edge: "local" between parties of one process, "shm" between processes of one node.

    Raises GraphError for an edge between two nodes.
    """
    return {edge: _choose(edge, placement) for edge in edges}


def _choose(edge: Edge, placement: Placement) -> str:
    source, target = placement[edge.writer], placement[edge.reader]
    if source.node != target.node:
        raise GraphError(
            f"{edge.value} goes from {edge.writer} on node {source.node} to {edge.reader} on node {target.node}; this "
            "version compiles graphs of one node: start all their actors, and compile, on the same one"
        )
    return "local" if source.pid == target.pid else "shm"
