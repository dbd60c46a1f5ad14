"""order_ops: what each party does in one execution, in which order.

The rule:
- Actors make their calls in the order of the graph. A value is received right before the first call that uses it, and
  sent right after the call that makes it.
- The driver sends everything, then receives everything.

Why it cannot deadlock: run the calls one at a time in the order of the graph, the driver's sends before the first and
its receives after the last. Each receive finds its message, because the graph defines a value before it uses it; each
send finds a free slot, because a channel carries one message an execution and holds at least one. So one order of
moves finishes, and then all do (passes/simulate.py). With rendezvous channels the second half is not true, and only
simulate() can tell.

Receiving late keeps a slow input from holding up calls that do not need it; sending early lets others start. Receiving
everything first, as a rule, was rejected: it can deadlock two actors that feed each other.
"""

from __future__ import annotations

from collections.abc import Iterable

from dagc.graph import DRIVER, Graph
from dagc.passes.edges import TICK
from dagc.plan import Channel, Op, OpKind, Schedule

__all__ = ["order_ops"]


def order_ops(graph: Graph, channels: Iterable[Channel]) -> Schedule:
    """The ops of the driver and of every actor; see the rule above."""
    by_name = {channel.name: channel for channel in channels}
    schedule: dict[str, list[Op]] = {party: [] for party in (DRIVER, *graph.actors)}
    schedule[DRIVER] += [Op(OpKind.SEND, channel.name) for channel in by_name.values() if channel.writer == DRIVER]
    received: dict[str, set[str]] = {actor: set() for actor in graph.actors}
    if TICK in by_name:
        for actor in by_name[TICK].readers:
            schedule[actor].append(Op(OpKind.RECV, TICK))
    for call in graph.calls:
        ops, has = schedule[call.actor], received[call.actor]
        for use in call.uses:
            if graph.parties[use] != call.actor and use not in has:
                has.add(use)
                ops.append(Op(OpKind.RECV, use))
        ops.append(Op(OpKind.RUN, call.name))
        ops += [Op(OpKind.SEND, value) for value in graph.values_of(call) if value in by_name]
    schedule[DRIVER] += [Op(OpKind.RECV, use) for use in graph.output.uses if graph.parties[use] != DRIVER]
    return {party: tuple(ops) for party, ops in schedule.items()}
