"""order_ops: what each party does in one execution, in which order.

The rule:
- Actors make their calls in one order of all calls (passes/order.py). A value is received right before the first call
  that uses it, and sent right after the call that makes it.
- The driver sends everything, then receives everything.
- A rendezvous is received at the moment of its sending in that order, whatever else the reader waits for; and the ranks
  of a collective stand side by side in it, so that all actors come to theirs in the same order.

Why it cannot deadlock: make the calls one at a time in their order, the driver's sends before the first and its
receives after the last. Each receive finds its message, because a value is made before it is used; each send finds a
free slot, because a channel carries one message an execution and holds at least one, or its readers, because they come
to a rendezvous in the same order. So one order of moves finishes, and then all do (passes/simulate.py).

Receiving late keeps a slow input from holding up calls that do not need it; sending early lets others start. Receiving
everything first, as a rule, was rejected: it can deadlock two actors that feed each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from dagc.graph import DRIVER, Call, Collective, Graph
from dagc.passes.edges import TICK
from dagc.plan import Channel, Op, OpKind, Schedule

__all__ = ["order_ops"]


def order_ops(graph: Graph, calls: Sequence[Call | Collective], channels: Iterable[Channel]) -> Schedule:
    """The ops of the driver and of every actor; see the rule above. `calls`: those of the graph, in the order in which
    they are made."""
    carriers: dict[str, list[Channel]] = {}
    #: (value, reader) -> the channel that brings it there.
    bringing: dict[tuple[str, str], str] = {}
    for channel in channels:
        carriers.setdefault(channel.value, []).append(channel)
        bringing.update(((channel.value, reader), channel.name) for reader in channel.readers)
    schedule: dict[str, list[Op]] = {party: [] for party in (DRIVER, *graph.makers)}
    received: dict[str, set[str]] = {party: set() for party in schedule}

    def receive(party: str, value: str) -> None:
        if value not in received[party]:
            received[party].add(value)
            schedule[party].append(Op(OpKind.RECV, bringing[value, party]))

    def send(value: str) -> None:
        # What is buffered goes first: no reader of it waits for those that meet.
        for channel in sorted(carriers[value], key=lambda channel: channel.slots == 0):
            schedule[channel.writer].append(Op(OpKind.SEND, channel.name))
            if channel.slots == 0:
                for reader in channel.readers:
                    receive(reader, value)

    for value, (first, *_) in carriers.items():
        if first.writer == DRIVER:
            send(value)
    for actor in (reader for channel in carriers.get(TICK, ()) for reader in channel.readers):
        receive(actor, TICK)
    for _, together in groupby(calls, key=lambda call: call.group if isinstance(call, Collective) else call.name):
        ranks = list(together)
        for call in ranks:
            for use in call.uses:
                if graph.parties[use] != call.actor:
                    receive(call.actor, use)
            op = Op(OpKind.JOIN, call.group) if isinstance(call, Collective) else Op(OpKind.RUN, call.name)
            schedule[call.actor].append(op)
        # Not before all ranks have joined: a rank that receives what another one has got must have joined itself.
        for value in (value for call in ranks for value in graph.values_of(call)):
            if value in carriers:
                send(value)
    for use in graph.output.uses:
        if graph.parties[use] != DRIVER:
            receive(DRIVER, use)
    return {party: tuple(ops) for party, ops in schedule.items()}
