"""make_plan: the compiler's middle, from a graph to a plan that is known to finish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagc.errors import MessageTooLargeError
from dagc.graph import Graph, verify
from dagc.passes.buffers import plan_buffers
from dagc.passes.channels import make_channels
from dagc.passes.edges import find_edges
from dagc.passes.fuse import fuse
from dagc.passes.order import order_calls
from dagc.passes.overlap import post_receives
from dagc.passes.schedule import order_ops
from dagc.passes.simulate import simulate
from dagc.passes.transports import choose_transports, is_received_early
from dagc.plan import Group, Plan

if TYPE_CHECKING:
    from dagc.options import CompileOptions
    from dagc.placement import Placement

__all__ = ["make_plan"]


def make_plan(graph: Graph, placement: Placement, options: CompileOptions) -> Plan:
    """The plan of a graph, given where its actors are.

    Raises GraphError if there is none, DeadlockError included, and MessageTooLargeError for a TensorSpec above
    max_message_bytes.
    """
    verify(graph)
    _check_promises(graph, options)
    calls = order_calls(graph, options.order)
    edges = find_edges(graph, calls)
    transports = choose_transports(edges, placement, graph.transports)
    channels = make_channels(transports, options, frozenset(graph.ends.values()), graph.transports)
    groups = tuple(Group(name, group.kind, group.members) for name, group in graph.groups.items())
    early = {channel.name for channel in channels if is_received_early(channel, graph)}
    schedule = post_receives(order_ops(graph, calls, channels), channels, groups, early)
    # A span in a trace is one call; and an actor that may begin the next execution is held back by no order of ops.
    schedule = schedule if options.trace else fuse(schedule, graph)
    channels = channels if options.order == "free" else plan_buffers(schedule, channels, options.max_inflight)
    # With a slot for every execution under way no execution can hold up another.
    enough = all(channel.slots >= options.max_inflight for channel in channels)
    simulate(schedule, channels, groups, ahead=1 if enough else options.max_inflight)
    # Calls are in the free order all the same; but an actor may not wait in the middle of a later execution.
    order = "bind" if groups or any(channel.slots == 0 for channel in channels) else options.order
    return Plan(options.name, channels, schedule, groups, options.max_inflight, order)


def _check_promises(graph: Graph, options: CompileOptions) -> None:
    for value, said in graph.transports.items():
        if said.spec is not None and said.spec.nbytes > options.max_message_bytes:
            raise MessageTooLargeError(
                f"{value} promises {said.spec}, which takes {said.spec.nbytes} bytes; "
                f"max_message_bytes={options.max_message_bytes}. Raise that option of compile"
            )
