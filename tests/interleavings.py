"""What schedules mean, once more and slowly: the reference that dagc/passes/simulate.py is compared with.

A state is how many ops each party has done, and everything else is counted from that. A send at a rendezvous and the
recvs of those who have not posted are one move of all of them, and so is a collective.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from dagc.plan import Channel, Group, Op, OpKind, Schedule

__all__ = ["Interleavings", "channel", "free_run", "schedule"]

#: How many ops each party has done.
State = tuple[int, ...]


def schedule(**parties: str) -> Schedule:
    return {party: ops_of(text) for party, text in parties.items()}


def ops_of(text: str) -> tuple[Op, ...]:
    return tuple(Op.parse(op) for op in text.split(";") if op.strip())


def channel(name: str, writer: str, readers: str, slots: int) -> Channel:
    return Channel(name, writer, tuple(readers.split()), "nccl" if slots == 0 else "shm", slots, 64)


class Interleavings:
    """All orders in which the parties of a schedule can move."""

    def __init__(self, ops: Schedule, channels: Sequence[Channel], groups: Sequence[Group] = ()) -> None:
        self.parties = list(ops)
        self.ops = [ops[party] for party in self.parties]
        self.channels = {c.name: c for c in channels}
        self.groups = {g.name: g for g in groups}
        self.start: State = (0,) * len(self.parties)
        self._index = {party: i for i, party in enumerate(self.parties)}
        #: Party -> state -> what it has done: messages sent and received, and those that it has begun to receive.
        self._done = [list(_counts(own)) for own in self.ops]

    def head(self, state: State, party: str) -> Op | None:
        i = self._index.get(party)
        return self.ops[i][state[i]] if i is not None and state[i] < len(self.ops[i]) else None

    def done(self, state: State, party: str, what: str, name: str) -> int:
        i = self._index.get(party)
        return 0 if i is None else self._done[i][state[i]][what, name]

    def finished(self, state: State) -> bool:
        return all(at == len(own) for at, own in zip(state, self.ops, strict=True))

    def move(self, state: State, party: str) -> tuple[str, ...]:
        """Those who move when this party does; nobody if it cannot."""
        op = self.head(state, party)
        if op is None:
            return ()
        if op.kind in (OpKind.RUN, OpKind.POST):
            return (party,)
        if op.kind is OpKind.JOIN:
            members = self.groups[op.target].members
            return members if all(self.head(state, member) == op for member in members) else ()
        c = self.channels[op.target]
        sent = self.done(state, c.writer, "sent", c.name)
        if op.kind is OpKind.RECV and self.done(state, party, "read", c.name) < sent:
            return (party,)
        if c.slots:
            slowest = min(self.done(state, reader, "read", c.name) for reader in c.readers)
            return (party,) if op.kind is OpKind.SEND and sent - slowest < c.slots else ()
        if self.head(state, c.writer) != Op(OpKind.SEND, c.name):
            return ()
        meeting = [r for r in c.readers if self.done(state, r, "begun", c.name) <= sent]
        if party != c.writer and party not in meeting:
            return ()
        return (c.writer, *meeting) if all(self._at_recv(state, r, c, sent) for r in meeting) else ()

    def after(self, state: State, movers: tuple[str, ...]) -> State:
        moved = list(state)
        for party in movers:
            moved[self._index[party]] += 1
        return tuple(moved)

    def ends(self) -> set[State]:
        """The states in which nobody can move, over all interleavings."""
        seen, found, stack = {self.start}, set(), [self.start]
        while stack:
            state = stack.pop()
            moves = {movers for party in self.parties if (movers := self.move(state, party))}
            if not moves:
                found.add(state)
            for movers in moves:
                after = self.after(state, movers)
                if after not in seen:
                    seen.add(after)
                    stack.append(after)
        return found

    def random_end(self, rng: random.Random) -> State:
        """The end of one interleaving."""
        state = self.start
        while moves := [movers for party in self.parties if (movers := self.move(state, party))]:
            state = self.after(state, rng.choice(moves))
        return state

    def rounds(self) -> int | None:
        """How many rounds it takes when all who can move do so at once, and posts take none; None for a deadlock."""
        state, count = self.start, 0
        while True:
            while posting := [p for p in self.parties if (op := self.head(state, p)) and op.kind is OpKind.POST]:
                state = self.after(state, tuple(posting))
            moving = dict.fromkeys(mover for party in self.parties for mover in self.move(state, party))
            if not moving:
                return count if self.finished(state) else None
            moving.update(dict.fromkeys(self._met(state, moving)))
            state = self.after(state, tuple(moving))
            count += 1

    def _met(self, state: State, moving: dict[str, None]) -> Iterator[str]:
        """Those at the recv of a message that they have posted and that is sent in this round."""
        for writer in moving:
            op = self.head(state, writer)
            if op is not None and op.kind is OpKind.SEND and self.channels[op.target].slots == 0:
                sent = self.done(state, writer, "sent", op.target)
                for reader in self.channels[op.target].readers:
                    if self._at_recv(state, reader, self.channels[op.target], sent):
                        yield reader

    def _at_recv(self, state: State, reader: str, c: Channel, message: int) -> bool:
        at = self.head(state, reader) == Op(OpKind.RECV, c.name)
        return at and self.done(state, reader, "read", c.name) == message


def _counts(own: Sequence[Op]) -> Iterator[Counter[tuple[str, str]]]:
    counts: Counter[tuple[str, str]] = Counter()
    yield counts.copy()
    for kind, name in own:
        if kind is OpKind.SEND:
            counts["sent", name] += 1
        elif kind is OpKind.POST:
            counts["begun", name] += 1
        elif kind is OpKind.RECV:
            counts["begun", name] = max(counts["begun", name], counts["read", name] + 1)
            counts["read", name] += 1
        yield counts.copy()


def free_run(
    ops: Schedule, channels: Sequence[Channel], groups: Sequence[Group], executions: int, rng: random.Random
) -> bool:
    """Whether one interleaving of several executions finishes in which a party at a recv may make ops of the next
    execution that stand before it, where these can be made at once. One op on a channel or group in each execution."""
    at = {party: [0] * executions for party in ops}
    done: Counter[tuple[str, Op]] = Counter()
    by_name = {c.name: c for c in channels}
    members = {g.name: g.members for g in groups}

    def heads(party: str) -> dict[Op, int]:
        """The ops that it may make, and of which execution they are."""
        own = ops[party]
        now = next((n for n in range(executions) if at[party][n] < len(own)), None)
        if now is None:
            return {}
        found = {own[at[party][now]]: now}
        if own[at[party][now]].kind is OpKind.RECV and now + 1 < executions and at[party][now + 1] < at[party][now]:
            found.setdefault(own[at[party][now + 1]], now + 1)
        return found

    def movers(party: str, op: Op) -> list[tuple[str, Op]]:
        if op.kind is OpKind.RUN:
            return [(party, op)]
        if op.kind is OpKind.JOIN:
            meeting = [(member, op) for member in members[op.target]]
        else:
            c = by_name[op.target]
            send, recv = Op(OpKind.SEND, c.name), Op(OpKind.RECV, c.name)
            sent = done[c.writer, send]
            if c.slots:
                free = sent - min(done[reader, recv] for reader in c.readers) < c.slots
                able = free if op == send else done[party, recv] < sent
                return [(party, op)] if able else []
            meeting = [(c.writer, send), *((reader, recv) for reader in c.readers)]
        return meeting if all(wanted in heads(other) for other, wanted in meeting) else []

    while moves := [found for party in ops for op in heads(party) if (found := movers(party, op))]:
        for party, op in rng.choice(moves):
            at[party][heads(party)[op]] += 1
            done[party, op] += 1
    return all(count == len(ops[party]) for party in ops for count in at[party])
