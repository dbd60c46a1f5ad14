"""make_plan: the compiler's middle, from a graph to a plan that is known to finish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagc.graph import Graph, verify
from dagc.passes.channels import make_channels
from dagc.passes.edges import find_edges
from dagc.passes.schedule import order_ops
from dagc.passes.simulate import simulate
from dagc.passes.transports import choose_transports
from dagc.plan import Plan

if TYPE_CHECKING:
    from dagc.options import CompileOptions
    from dagc.placement import Placement

__all__ = ["make_plan"]


def make_plan(graph: Graph, placement: Placement, options: CompileOptions) -> Plan:
    """The plan of a graph, given where its actors are. Raises GraphError if there is none, DeadlockError included."""
    verify(graph)
    edges = find_edges(graph)
    transports = choose_transports(edges, placement)
    channels = make_channels(transports, options)
    schedule = order_ops(graph, channels)
    simulate(schedule, channels)
    return Plan(options.name, channels, schedule, max_inflight=options.max_inflight)
