"""check_ops, check_order: what must be true of a schedule whatever the order in which the parties move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dagc.errors import GraphError
from dagc.plan import Channel, Group, Op, OpKind, Schedule

__all__ = ["check_ops", "check_order"]


def check_ops(schedule: Schedule, channels: Sequence[Channel], groups: Sequence[Group]) -> None:
    """Raises GraphError if two channels or groups have the same name, if a party stands twice in one, if an op is on a
    channel or a group that is not there or that its party has no part in, and if a post is not for a recv that follows.
    """
    _check_names("channel", (channel.name for channel in channels))
    _check_names("group", (group.name for group in groups))
    for channel in channels:
        _check_once(f"channel {channel.name} has the readers", channel.readers)
    for group in groups:
        _check_once(f"group {group.name} has the members", group.members)
    by_name = {channel.name: channel for channel in channels}
    #: Channel -> readers; looking them up in the tuple would be quadratic in a wide fan-out.
    readers = {channel.name: frozenset(channel.readers) for channel in channels}
    members = {group.name: dict.fromkeys(group.members) for group in groups}
    for party, ops in schedule.items():
        posted: Counter[str] = Counter()
        for op in ops:
            if op.kind is OpKind.RUN:
                continue
            if op.kind is OpKind.JOIN:
                _check_join(party, op, members)
                continue
            if op.target not in by_name:
                raise GraphError(f"{party} has the op '{op}', but the plan has no channel {op.target}")
            channel = by_name[op.target]
            if party != channel.writer if op.kind is OpKind.SEND else party not in readers[op.target]:
                ends = (channel.writer,) if op.kind is OpKind.SEND else channel.readers
                raise GraphError(f"{party} has the op '{op}'; expected only of {', '.join(ends)}")
            if op.kind is OpKind.POST:
                if channel.slots:
                    raise GraphError(
                        f"{party} has the op '{op}', but that channel has {channel.slots} slots; expected only of a "
                        "rendezvous, which has none: a message in a slot arrives by itself"
                    )
                posted[op.target] += 1
            elif op.kind is OpKind.RECV and posted[op.target]:
                posted[op.target] -= 1
        for name, left in posted.items():
            if left:
                raise GraphError(
                    f"{party} has {_times(ops, OpKind.POST, name)} and {_times(ops, OpKind.RECV, name)}, and {left} of "
                    f"the posts without a recv that follows; expected 'recv {name}' once after each 'post {name}'"
                )


def check_order(schedule: Schedule, channels: Iterable[Channel]) -> None:
    """Raises GraphError if a party begins to receive rendezvous messages of another in another order than that in
    which they are sent: a communicator matches what goes from one rank to another by its order alone.

    Without posts that would be a deadlock; so it is for a schedule that finishes.
    """
    if not any(op.kind is OpKind.POST for ops in schedule.values() for op in ops):
        return
    by_name = {channel.name: channel for channel in channels if channel.slots == 0}
    sent: dict[tuple[str, str], list[str]] = {}
    begun: dict[tuple[str, str], list[str]] = {}
    for party, ops in schedule.items():
        posted: Counter[str] = Counter()
        for op in ops:
            if op.kind in (OpKind.RUN, OpKind.JOIN) or op.target not in by_name:
                continue
            channel = by_name[op.target]
            if op.kind is OpKind.SEND:
                for reader in channel.readers:
                    sent.setdefault((party, reader), []).append(op.target)
            elif op.kind is OpKind.RECV and posted[op.target]:
                posted[op.target] -= 1
            else:
                posted[op.target] += op.kind is OpKind.POST
                begun.setdefault((channel.writer, party), []).append(op.target)
    for (writer, reader), names in sent.items():
        for first, found in zip(names, begun[writer, reader], strict=True):
            if first != found:
                raise GraphError(
                    f"{reader} begins to receive {found} of {writer} when {writer} sends {first}; expected its posts "
                    "and recvs in the order of the sends, for messages from one party to another are matched by order"
                )


def _check_join(party: str, op: Op, members: Mapping[str, Mapping[str, None]]) -> None:
    if op.target not in members:
        known = f"; its groups are {', '.join(members)}" if members else ", it has none"
        raise GraphError(f"{party} has the op '{op}', but the plan has no group {op.target}{known}")
    if party not in members[op.target]:
        raise GraphError(f"{party} has the op '{op}'; expected only of the members {', '.join(members[op.target])}")


def _check_names(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise GraphError(f"the plan has {count} {what}s {name}; expected one of each name")


def _check_once(what: str, parties: Sequence[str]) -> None:
    if len(set(parties)) < len(parties):
        raise GraphError(f"{what} {', '.join(parties)}; expected each party once")


def _times(ops: Iterable[Op], kind: OpKind, name: str) -> str:
    return f"{sum(op == (kind, name) for op in ops)} x '{Op(kind, name)}'"
