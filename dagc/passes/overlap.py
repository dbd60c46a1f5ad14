"""post_receives: let parties begin to receive a message while they still compute.

At a rendezvous a sender is held up until the reader is there, and a reader comes to its recv only after the calls in
front of it. But a GPU can receive while it computes. So the reader posts the receive in front of these calls, and the
recv stays where it is, right before the first use:

    recv x1; run f1; send y1; recv x2; run f2   ->   recv x1; post x2; run f1; send y1; recv x2; run f2

A message in a slot arrives by itself, so buffered channels are left alone.

What is posted begins at its post in every execution, for nothing else was proven: posts that begin only if a message is
there already, some here and some there, can deadlock where all or none of them would not. So only what is known before
its message comes can be posted: what a TensorSpec promises, on a transport that receives on its own.

How far ahead: in front of the calls that come last before the recv, and over no other op on the same channel. So at
most one message a channel is on its way to a reader, and all that are, are for its next call: memory for one call's
messages, the double buffer of every pipeline. To post as early as the messages allow was rejected: it costs a buffer
for each of them, and on a communicator that works in order every send would wait for all that was posted before it.

When it is safe: simulate() accepts every post, for a recv that begins earlier only lets others go on. But it knows
nothing of streams. NCCL's receive blocks the GPU's stream, and what comes behind it on a communicator may wait for it.
So a post is kept only where the recv itself could stand: the schedule is run with each post waiting for its message.
Where that deadlocks, a message of the circle depends on what its reader does behind the post; it cannot come earlier,
and nothing would be gained by posting it. Its post is given up and the run goes on; it ends, for it ends without posts.
Now and then that is one post too many: which to give up is decided circle by circle. All this also keeps messages from
one party to another in the order of their sends, by which communicators match them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from dagc.passes.checks import check_ops
from dagc.passes.tokens import Simulation
from dagc.plan import Channel, Group, Op, OpKind, Schedule

__all__ = ["post_receives"]

#: A party and the index of one of its ops.
_Step = tuple[str, int]


def post_receives(
    schedule: Schedule, channels: Iterable[Channel], groups: Iterable[Group] = (), early: Container[str] | None = None
) -> Schedule:
    """The schedule with posts in front of calls; see the rules above. It comes back as it is if it has posts already,
    or if it deadlocks, which simulate() explains. `early`: the channels whose receive may be posted, if not all.

    The time is linear in the number of ops, and for each post that is given up in the length of the circle.

    Raises GraphError for a schedule that means nothing (passes/checks.py).
    """
    channels, groups = tuple(channels), tuple(groups)
    check_ops(schedule, channels, groups)
    rendezvous = {c.name for c in channels if c.slots == 0 and (early is None or c.name in early)}
    if not rendezvous or any(op.kind is OpKind.POST for ops in schedule.values() for op in ops):
        return schedule
    tried = {party: _with_posts(ops, rendezvous) for party, ops in schedule.items()}
    before = Simulation(schedule, channels, groups)
    before.run()
    if before.stuck:
        return schedule
    after = Simulation(tried, channels, groups, posts_wait=True)
    given_up = _run_to_the_end(after, dict(_arrivals(before, tried)))
    return {party: tuple(op for i, op in enumerate(ops) if (party, i) not in given_up) for party, ops in tried.items()}


def _with_posts(ops: Sequence[Op], rendezvous: Container[str]) -> tuple[Op, ...]:
    """With a post in front of neighbouring calls for each recv that comes before the next call."""
    found: list[Op] = []
    calls: list[Op] = []
    for are_calls, same in groupby(ops, key=lambda op: op.kind is OpKind.RUN):
        if are_calls:
            calls = list(same)
            continue
        others = list(same)
        if calls:
            found += _posts(others, rendezvous)
        found += [*calls, *others]
        calls = []
    return (*found, *calls)


def _posts(ops: Iterable[Op], rendezvous: Container[str]) -> Iterator[Op]:
    """For each recv that is the first of its channel among these. No send on it can come before: who is alone at a
    rendezvous with itself waits for ever."""
    posted = set()
    for op in ops:
        if op.kind is OpKind.RECV and op.target in rendezvous and op.target not in posted:
            posted.add(op.target)
            yield Op(OpKind.POST, op.target)


def _arrivals(before: Simulation, tried: Schedule) -> Iterator[tuple[_Step, int]]:
    """For each post, the round in which its message came before there were posts."""
    for party, ops in tried.items():
        received: dict[str, int] = {}
        for i, op in enumerate(ops):
            if op.kind is OpKind.POST:
                yield (party, i), before.channels[op.target].sends[received.get(op.target, 0)]
            elif op.kind is OpKind.RECV:
                received[op.target] = received.get(op.target, 0) + 1


def _run_to_the_end(run: Simulation, arrivals: Mapping[_Step, int]) -> set[_Step]:
    """Run a schedule in which posts wait; returns those that had to be given up for it to end.

    Along a circle of parties that wait for each other one goes back in time, the rounds being those without posts: each
    waits for something that came earlier. But for one thing: a party that waits at a post may be waited for because of
    an op between the post and its recv. So there must be such a post in the circle, and the one whose message came
    last is one. It is given up.
    """
    given_up: set[_Step] = set()
    run.run()
    for first in run.schedule:
        #: Parties, each waiting for the next, and where they wait. Who does not move still waits for the same one, so
        #: those that have moved are the last ones, and no step is looked at twice but for those of a circle.
        path: dict[str, int] = {}
        while run.head(first) is not None:
            party = run.missing(next(reversed(path)))[0] if path else first
            if party not in path:
                path[party] = run.at[party]
                continue
            circle: list[_Step] = []
            while party in path:
                circle.append(path.popitem())
            circle.reverse()
            last = max((step for step in circle if step in arrivals), key=arrivals.__getitem__)
            path.update(circle[: circle.index(last)])
            given_up.add(last)
            run.give_up_post(last[0])
            run.run()
            while path and run.at[next(reversed(path))] != path[next(reversed(path))]:
                path.popitem()
    return given_up
