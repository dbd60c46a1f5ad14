"""plan_buffers: how many messages each channel has to hold so that no writer ever waits for a reader.

As many as there may be executions under way, at most: the window lets execution n + max_inflight begin only when all
of execution n has come back, and so has been received everywhere. Less where readers hold their writer back: if a
writer needs an answer of its reader before it sends again, one slot is enough. Sends and receives of consecutive
executions are ordered by the order of each party's ops (its last op of one execution before its first of the next), by
every message (its send before its receives), and by nothing else. The least number of executions that lies between the
receive of a message and a send that must come after it is a shortest path over these, and that many slots are enough
(a static bound as of synchronous dataflow, Lee and Messerschmitt 1987).

Only channels on a cycle of actors can be held back. Cycles with very many ops are left as they are: the search is
quadratic in them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from dagc.graph import DRIVER
from dagc.passes.channels import slots_for
from dagc.plan import Channel, Op, OpKind, Schedule

__all__ = ["plan_buffers"]

#: Ops times channels of a cycle above which it is left alone.
_MOST_WORK = 200_000


def plan_buffers(schedule: Schedule, channels: Sequence[Channel], max_inflight: int) -> tuple[Channel, ...]:
    """The channels, with fewer slots where fewer are enough. For actors that end one execution before the next."""
    slots: dict[str, int] = {}
    for component in _components(channels):
        inside = [channel for channel in channels if channel.writer in component and channel.slots > 1]
        held = [channel for channel in inside if component.issuperset(channel.readers)]
        ops = {party: schedule[party] for party in schedule if party in component}
        if len(held) * sum(map(len, ops.values())) <= _MOST_WORK:
            slots.update(_bounds(ops, inside, held, max_inflight))
    return tuple(c._replace(slots=min(c.slots, slots_for(slots.get(c.name, c.slots)))) for c in channels)


#: A place in the schedule: a party and the index of one of its ops.
_Place = tuple[str, int]


def _bounds(
    ops: Mapping[str, tuple[Op, ...]], inside: Iterable[Channel], held: Iterable[Channel], most: int
) -> dict[str, int]:
    sends: dict[str, _Place] = {}
    recvs: dict[str, list[_Place]] = {}
    for party, listed in ops.items():
        for i, op in enumerate(listed):
            if op.kind is OpKind.SEND:
                sends[op.target] = party, i
            elif op.kind is OpKind.RECV:
                recvs.setdefault(op.target, []).append((party, i))
    sent_by = {place: sends[c.name] for c in inside if c.name in sends for place in recvs.get(c.name, ())}
    return {channel.name: _lag(ops, sent_by, recvs[channel.name], sends[channel.name], most) for channel in held}


def _lag(
    ops: Mapping[str, tuple[Op, ...]],
    sent_by: Mapping[_Place, _Place],
    starts: Sequence[_Place],
    goal: _Place,
    most: int,
) -> int:
    """The least number of executions between what is done at each of `starts` and what must come after it at `goal`:
    the largest of these. `most` if it is more, or never. Dijkstra's algorithm, once and backwards for all starts."""
    lags = {goal: 0}
    heap: list[tuple[int, _Place]] = [(0, goal)]
    left = set(starts)
    while heap and left:
        lag, place = heapq.heappop(heap)
        if lag > lags[place] or lag >= most:
            continue
        left.discard(place)
        party, i = place
        before = [((party, i - 1 if i else len(ops[party]) - 1), lag + (not i))]
        if place in sent_by:
            before.append((sent_by[place], lag))
        for other, found in before:
            if found < lags.get(other, most):
                lags[other] = found
                heapq.heappush(heap, (found, other))
    return max(lags.get(start, most) for start in starts)


def _components(channels: Iterable[Channel]) -> list[set[str]]:
    """The sets of actors that reach each other (Tarjan 1972), those of one actor left out."""
    edges: dict[str, dict[str, None]] = {}
    for channel in channels:
        if channel.writer != DRIVER:
            targets = edges.setdefault(channel.writer, {})
            targets.update((reader, None) for reader in channel.readers if reader != DRIVER)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    on_stack: dict[str, None] = {}
    found: list[set[str]] = []
    for root in edges:
        if root in number:
            continue
        number[root] = lowest[root] = len(number)
        on_stack[root] = None
        path = [(root, iter(edges[root]))]
        while path:
            party, others = path[-1]
            other = next(others, None)
            if other is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[party])
                if lowest[party] == number[party]:
                    members: set[str] = set()
                    while party not in members:
                        members.add(on_stack.popitem()[0])
                    if len(members) > 1:
                        found.append(members)
            elif other not in number:
                number[other] = lowest[other] = len(number)
                on_stack[other] = None
                path.append((other, iter(edges.get(other, ()))))
            elif other in on_stack:
                lowest[party] = min(lowest[party], number[other])
    return found
