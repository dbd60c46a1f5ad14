"""The machine under simulate and post_receives: it runs a schedule on tokens, and knows who is stuck and for whom.

Every op begins when its party has ended the one before, and ends when it need not wait any more:

    run    at once
    send   into slots: when one is free; at a rendezvous: when every reader has begun its recv, or a post before it
    recv   when its send has ended
    post   at once
    join   when every member has begun its join

So a recv at a rendezvous is a post and the wait for it in one. A run, send, recv or join takes at least one round, and
those that meet end in the same one; a post takes none, since nobody waits until it is over.

The time is linear in the number of ops: a party runs until it has to wait, and is looked at again when the one thing it
waits for has happened. Trying every party in every round would take parties x rounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from dagc.plan import Channel, Group, Op, OpKind, Schedule

__all__ = ["Buffered", "Collective", "Place", "Rendezvous", "Simulation"]


class _Rolls:
    """Roll calls, numbered from 0: how many of those that are expected have come, and when the last did."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._come: list[int] = []
        #: The round of the last that came, by number.
        self.last: list[int] = []

    def come(self, number: int, now: int) -> bool:
        """One more; True if it was the last. Whoever comes to `number` has been at `number - 1`."""
        if number == len(self._come):
            self._come.append(0)
            self.last.append(0)
        self._come[number] += 1
        self.last[number] = max(self.last[number], now)
        return self._come[number] == self._expected

    def leave(self, number: int) -> None:
        self._come[number] -= 1

    def complete(self, number: int) -> bool:
        return number < len(self._come) and self._come[number] == self._expected


class Place(ABC):
    """A channel or a group while it is simulated: where ops of several parties wait for each other."""

    def __init__(self, ready: list[str]) -> None:
        self._ready = ready
        #: Who waits at an op here. They are moved to `ready` when they should be looked at again.
        self.waiting: set[str] = set()

    @abstractmethod
    def begin(self, party: str, kind: OpKind, now: int) -> None:
        """The party comes to an op here, in round `now`; called once for each."""

    @abstractmethod
    def end(self, party: str, kind: OpKind, now: int) -> int | None:
        """End the op if it can be, in the round that is returned; None if the party has to wait."""

    @abstractmethod
    def missing(self, party: str, kind: OpKind) -> tuple[str, ...]:
        """Those that a waiting party waits for, at least one; of a rendezvous with itself, itself first."""

    def wake(self, party: str) -> None:
        if party in self.waiting:
            self.waiting.discard(party)
            self._ready.append(party)

    def wake_all(self) -> None:
        self._ready += self.waiting
        self.waiting.clear()


class Buffered(Place):
    """A channel with slots. Readers read in order, so its slots are freed in order."""

    def __init__(self, channel: Channel, ready: list[str]) -> None:
        super().__init__(ready)
        self.channel = channel
        #: The rounds in which the sends ended.
        self.sends: list[int] = []
        #: How many messages each reader has taken.
        self.reads = dict.fromkeys(channel.readers, 0)
        self._freed = 0
        self._taken = _Rolls(len(self.reads))

    def begin(self, _party: str, _kind: OpKind, _now: int) -> None:
        """Nobody waits for it: a message comes by itself, and a slot is free when its message was taken."""

    def end(self, party: str, kind: OpKind, now: int) -> int | None:
        if kind is OpKind.SEND:
            over = len(self.sends) - self.channel.slots
            if over >= self._freed:
                return None
            ended = max(now, self._taken.last[over] if over >= 0 else 0) + 1
            self.sends.append(ended)
            self.wake_all()
            return ended
        message = self.reads[party]
        if message >= len(self.sends):
            return None
        ended = max(now, self.sends[message]) + 1
        self.reads[party] += 1
        if self._taken.come(message, ended):
            self._freed += 1
            self.wake(self.channel.writer)
        return ended

    def missing(self, _party: str, kind: OpKind) -> tuple[str, ...]:
        if kind is OpKind.RECV:
            return (self.channel.writer,)
        return tuple(reader for reader, count in self.reads.items() if count == self._freed)


class Rendezvous(Place):
    """A channel without slots: a send and its recvs end together, but for a recv that was posted and comes later."""

    def __init__(self, channel: Channel, ready: list[str], *, posts_wait: bool) -> None:
        super().__init__(ready)
        self.channel = channel
        self.sends: list[int] = []
        self.reads = dict.fromkeys(channel.readers, 0)
        #: How many messages each reader has begun to receive.
        self._begun = dict.fromkeys(channel.readers, 0)
        self._there = _Rolls(len(self.reads))
        self._posts_wait = posts_wait

    def begin(self, party: str, kind: OpKind, now: int) -> None:
        if kind is OpKind.POST or (kind is OpKind.RECV and self._begun[party] == self.reads[party]):
            self._begun[party] += 1
            if self._there.come(self._begun[party] - 1, now):
                self.wake(self.channel.writer)

    def end(self, party: str, kind: OpKind, now: int) -> int | None:
        message = len(self.sends)
        if kind is OpKind.SEND:
            if not self._there.complete(message):
                return None
            ended = max(now, self._there.last[message]) + 1
            self.sends.append(ended)
            self.wake_all()
            return ended
        if kind is OpKind.POST:
            return None if self._posts_wait and self._begun[party] > message else now
        if self.reads[party] >= message:
            return None
        self.reads[party] += 1
        return max(now + 1, self.sends[self.reads[party] - 1])

    def missing(self, _party: str, kind: OpKind) -> tuple[str, ...]:
        writer = self.channel.writer
        if kind is not OpKind.SEND:
            return (writer,)
        absent = [reader for reader, count in self._begun.items() if count <= len(self.sends)]
        return tuple(sorted(absent, key=lambda reader: reader != writer))

    def withdraw(self, party: str) -> None:
        """Undo the begin of the post at which the party waits."""
        self._begun[party] -= 1
        self._there.leave(self._begun[party])


class Collective(Place):
    """A group: its members meet, all at once."""

    def __init__(self, group: Group, ready: list[str]) -> None:
        super().__init__(ready)
        self._joins = dict.fromkeys(group.members, 0)
        self._there = _Rolls(len(self._joins))

    def begin(self, party: str, _kind: OpKind, now: int) -> None:
        self._joins[party] += 1
        if self._there.come(self._joins[party] - 1, now):
            self.wake_all()

    def end(self, party: str, _kind: OpKind, _now: int) -> int | None:
        meeting = self._joins[party] - 1
        return self._there.last[meeting] + 1 if self._there.complete(meeting) else None

    def missing(self, party: str, _kind: OpKind) -> tuple[str, ...]:
        return tuple(member for member, count in self._joins.items() if count < self._joins[party])


class Simulation:
    """The positions of all parties. `run` moves them until all have ended or nobody can move.

    The schedule must have passed `check_ops`. `posts_wait`: a post waits for its message, as the recv would.
    """

    def __init__(
        self, schedule: Schedule, channels: Iterable[Channel], groups: Iterable[Group], *, posts_wait: bool = False
    ) -> None:
        self.schedule = schedule
        self._ready = list(schedule)
        self.channels: dict[str, Buffered | Rendezvous] = {
            channel.name: Buffered(channel, self._ready)
            if channel.slots
            else Rendezvous(channel, self._ready, posts_wait=posts_wait)
            for channel in channels
        }
        self._groups = {group.name: Collective(group, self._ready) for group in groups}
        #: Party -> index of its next op, and the round in which it ended the one before.
        self.at = dict.fromkeys(schedule, 0)
        self._clock = dict.fromkeys(schedule, 0)
        #: Those that have begun their next op, and wait.
        self._waiting: set[str] = set()

    @property
    def rounds(self) -> int:
        """How many rounds it took so far."""
        return max(self._clock.values(), default=0)

    @property
    def stuck(self) -> tuple[str, ...]:
        """After `run`: the parties that have not ended."""
        return tuple(party for party, ops in self.schedule.items() if self.at[party] < len(ops))

    def head(self, party: str) -> Op | None:
        """The party's next op. A channel may name a party that has no ops at all."""
        ops, at = self.schedule.get(party, ()), self.at.get(party, 0)
        return ops[at] if at < len(ops) else None

    def place(self, op: Op) -> Place:
        return self._groups[op.target] if op.kind is OpKind.JOIN else self.channels[op.target]

    def missing(self, party: str) -> tuple[str, ...]:
        """Those that a stuck party waits for; at least one, if need be itself."""
        op = self.head(party)
        assert op is not None, "only a stuck party waits"
        return self.place(op).missing(party, op.kind)

    def run(self) -> None:
        while self._ready:
            party = self._ready.pop()
            self._go(party, self.schedule[party])

    def give_up_post(self, party: str) -> None:
        """Let a party that waits at a post go on as if the post were not there."""
        op = self.head(party)
        assert op is not None, "it waits"
        place = self.place(op)
        assert isinstance(place, Rendezvous), "only a rendezvous is posted, which check_ops sees to"
        place.withdraw(party)
        place.waiting.discard(party)
        self._waiting.discard(party)
        self.at[party] += 1
        self._ready.append(party)

    def _go(self, party: str, ops: Sequence[Op]) -> None:
        """Move one party as far as it can."""
        at, now = self.at[party], self._clock[party]
        begun = party in self._waiting
        self._waiting.discard(party)
        while at < len(ops):
            op = ops[at]
            if op.kind is OpKind.RUN:
                now += 1
            else:
                place = self.place(op)
                if not begun:
                    place.begin(party, op.kind, now)
                ended = place.end(party, op.kind, now)
                if ended is None:
                    place.waiting.add(party)
                    self._waiting.add(party)
                    break
                now, begun = ended, False
            at += 1
        self.at[party], self._clock[party] = at, now
