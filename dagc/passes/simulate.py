"""simulate: prove that a schedule finishes, by running it on tokens instead of values (passes/tokens.py).

The order in which parties move cannot change the verdict. Which ops an op waits for is known beforehand: the one before
it of its own party, and the begin or the end of certain ops on its channel or of its group, by number. Nobody chooses,
and nothing that has begun or ended is undone. So what is possible stays possible, every order of moves does the same
ops in the end (the diamond property), and a schedule deadlocks exactly if ops wait for each other in a circle. That is
Kahn's argument for channels without bounds (1974), that of marked graphs for slots (Commoner, Holt, Even and Pnueli
1971), and that of MPI without wildcards for a rendezvous (Siegel and Avrunin 2005). A post is a recv that begins
earlier, and a collective a rendezvous of many, so it holds for them unchanged.

When one execution is enough: if every party ends one before it begins the next. An execution receives what it sends and
all members join as often (checked here), so an op waits for ops of its own execution or of earlier ones only. Then a
circle lies within one execution; and what an op waits for within its execution is the same in all of them. This covers
executions that overlap, with every party as far ahead as it can get.

When it is not: the driver does not end one before it begins the next. With `ahead` executions under way it makes the
sends of execution n + ahead - 1 before the recvs of n, so an early op waits for a late one. Then `ahead` executions are
enough. If they end, the first one has ended without any op of a later one but the sends of the driver's first `ahead`;
what is left is what there was at the beginning, one number further on, and ops that are done already hold up nobody.
Fewer are not enough: there may be room for all but one. But one is enough again if each channel that the driver writes
has slots for the messages of `ahead` executions, as those of passes/channels.py have: its sends then wait for nothing
but executions whose results it has taken. This is for a driver that takes results in the order of its ops. A user may
get a later output first; if the channels that the driver reads have as many slots, that changes nothing.

A party that may begin the next execution while it waits (Plan.order "free") makes some ops earlier than here. Where it
does so only if it need not wait, and keeps the order of its ops on each channel, these are moves that are possible
anyway, and the verdict holds. It does not hold for one that waits in the next execution while the one before could go
on: two such parties can wait for each other.

What it does not model: CUDA streams, several communicators on one device, and a rendezvous that serves its readers one
after the other (here it waits for all of them, which is stricter).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dagc.errors import DeadlockError, GraphError
from dagc.graph import DRIVER
from dagc.passes.checks import check_ops, check_order
from dagc.passes.stuck import explain, explain_ahead
from dagc.passes.tokens import Buffered, Simulation
from dagc.plan import Channel, Group, OpKind, Schedule

__all__ = ["simulate"]


def simulate(schedule: Schedule, channels: Iterable[Channel], groups: Iterable[Group] = (), *, ahead: int = 1) -> int:
    """Return how many rounds one execution takes when every party that can move takes one step a round.

    `ahead`: executions that the driver begins before it takes the first result. It must send first, then receive.

    Raises DeadlockError if an execution does not end, leaves messages in a channel, or `ahead` of them do not end, with
    who waits for whom and what to change; GraphError for a schedule that means nothing (passes/checks.py).
    """
    if ahead < 1:
        raise GraphError(f"ahead={ahead}; expected at least one execution")
    channels, groups = tuple(channels), tuple(groups)
    check_ops(schedule, channels, groups)
    one = Simulation(schedule, channels, groups)
    one.run()
    if one.stuck:
        raise DeadlockError(explain(one))
    _check_empty(one)
    check_order(schedule, channels)
    if ahead > 1:
        _check_ahead(schedule, channels, groups, ahead)
    return one.rounds


def _check_empty(ended: Simulation) -> None:
    for channel in ended.channels.values():
        if isinstance(channel, Buffered):
            for reader, count in channel.reads.items():
                if count != len(channel.sends):
                    raise DeadlockError(
                        f"channel {channel.channel.name} fills up: in each execution {channel.channel.writer} sends "
                        f"{len(channel.sends)} messages and {reader} receives {count}; expected as many"
                    )


def _check_ahead(schedule: Schedule, channels: Sequence[Channel], groups: Sequence[Group], ahead: int) -> None:
    ops = schedule.get(DRIVER, ())
    sends = next((i for i, op in enumerate(ops) if op.kind is not OpKind.SEND), len(ops))
    other = next((op for op in ops[sends:] if op.kind is not OpKind.RECV), None)
    if other is not None:
        raise GraphError(
            f"with {ahead} executions under way the {DRIVER} has the op '{other}' out of place; "
            "expected all its sends, then all its recvs"
        )
    by_name = {channel.name: channel for channel in channels}
    needed = {name: ahead * count for name, count in Counter(op.target for op in ops[:sends]).items()}
    short = {name: slots for name, slots in needed.items() if by_name[name].slots < slots}
    if not short or sends == len(ops):
        return
    many = {party: ahead * own for party, own in schedule.items()}
    many[DRIVER] = ahead * ops[:sends] + ahead * ops[sends:]
    run = Simulation(many, channels, groups)
    run.run()
    if run.stuck:
        raise DeadlockError(explain_ahead(run, schedule, ahead, sends, short))
