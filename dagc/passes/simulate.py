"""simulate: prove that a schedule finishes, by running it on tokens instead of values.

One execution is enough. A step that a party can take stays possible whatever the others do, because each channel has
one writer and each reader reads it in order; so the order in which parties move cannot change the verdict (the
diamond property; Kahn process networks, 1974). An execution that ends with every channel empty leaves the state it
began with, so every later one ends too, also those that overlap.

The time is linear in the number of ops: a party runs until it has to wait, and is looked at again when the one thing it
waits for has happened. Trying every party in every round, as the first sketch did, takes parties x rounds.

What it does not model: CUDA streams, and several communicators on one device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dagc.errors import DeadlockError, GraphError
from dagc.plan import Channel, Op, OpKind, Schedule, grid

__all__ = ["simulate"]

#: Parties that the grid of an error shows; more are hard to read.
_SHOWN = 6


def simulate(schedule: Schedule, channels: Iterable[Channel]) -> int:
    """Run one execution and return how many rounds it takes when every party that can move takes one step a round.

    Raises DeadlockError if it does not end, or leaves messages in a channel, with who waits for whom and what to
    change; GraphError if an op is on a channel that its party has no end of.
    """
    run = _Simulation(schedule, {channel.name: _State(channel) for channel in channels})
    run.check_ends()
    run.run()
    if any(run.at[party] < len(ops) for party, ops in schedule.items()):
        raise DeadlockError(_explain(run))
    for state in run.states.values():
        left = [reader for reader, times in state.reads.items() if len(times) != len(state.sends)]
        if left:
            raise DeadlockError(
                f"channel {state.channel.name} fills up: in each execution {state.channel.writer} sends "
                f"{len(state.sends)} messages and {left[0]} receives {len(state.reads[left[0]])}; expected as many"
            )
    return max(run.clock.values(), default=0)


@dataclass
class _State:
    """A channel during the simulation: the round in which each send and each recv was done."""

    channel: Channel
    sends: list[int] = field(default_factory=list)
    reads: dict[str, list[int]] = field(init=False)
    #: How many readers have taken message i, and in which round the last of them did.
    taken: list[int] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    #: Who waits at an op on this channel.
    waiting: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.reads = {reader: [] for reader in self.channel.readers}

    def read(self, reader: str, now: int) -> bool:
        """Note a recv; True if it was the last of its message, whose slot is free now."""
        times = self.reads[reader]
        message = len(times)
        times.append(now)
        self.taken[message] += 1
        if self.taken[message] < len(self.reads):
            return False
        # Readers read in order, so messages are freed in order.
        self.freed.append(max(times[message] for times in self.reads.values()))
        return True


class _Simulation:
    """The positions of all parties, and the worklist of those that may be able to move."""

    def __init__(self, schedule: Schedule, states: dict[str, _State]) -> None:
        self.schedule = schedule
        self.states = states
        #: Party -> index of its next op, and the round in which it did the one before.
        self.at = dict.fromkeys(schedule, 0)
        self.clock = dict.fromkeys(schedule, 0)
        self.ready = list(schedule)

    def check_ends(self) -> None:
        for party, ops in self.schedule.items():
            for op in ops:
                if op.kind is OpKind.RUN:
                    continue
                state = self.states.get(op.target)
                if state is None:
                    raise GraphError(f"{party} has the op '{op}', but the plan has no channel {op.target}")
                ends = (state.channel.writer,) if op.kind is OpKind.SEND else state.reads
                if party not in ends:
                    raise GraphError(f"{party} has the op '{op}'; expected only of {', '.join(ends)}")

    def head(self, party: str) -> Op | None:
        # A channel may name a party that has no ops at all.
        ops = self.schedule.get(party, ())
        at = self.at.get(party, 0)
        return ops[at] if at < len(ops) else None

    def run(self) -> None:
        while self.ready:
            party = self.ready.pop()
            while (op := self.head(party)) is not None:
                if op.kind is OpKind.RUN:
                    self.advance(party, 0)
                elif not self.move(party, op.kind, self.states[op.target]):
                    self.states[op.target].waiting.add(party)
                    break

    def move(self, party: str, kind: OpKind, state: _State) -> bool:
        """Do the party's op on a channel, if it can be done now."""
        if state.channel.slots == 0:
            return self.meet(party, state)
        if kind is OpKind.SEND:
            over = len(state.sends) - state.channel.slots
            if over >= len(state.freed):
                return False
            state.sends.append(self.advance(party, state.freed[over] if over >= 0 else 0))
            state.taken.append(0)
            self.wake(state)
            return True
        message = len(state.reads[party])
        if message >= len(state.sends):
            return False
        if state.read(party, self.advance(party, state.sends[message])):
            self.wake(state)
        return True

    def meet(self, party: str, state: _State) -> bool:
        """A rendezvous: nobody moves before everybody is there; then all move, in the same round."""
        parties = (state.channel.writer, *state.channel.readers)
        if len(state.waiting) + (party not in state.waiting) < len(parties):
            return False
        now = max(self.clock[each] for each in parties)
        for each in parties:
            self.advance(each, now)
        state.sends.append(now + 1)
        for times in state.reads.values():
            times.append(now + 1)
        state.waiting.discard(party)
        self.wake(state)
        return True

    def advance(self, party: str, enabled: int) -> int:
        """Take one step, in the round after both the party and what it waited for were ready. Returns the round."""
        self.at[party] += 1
        self.clock[party] = max(self.clock[party], enabled) + 1
        return self.clock[party]

    def wake(self, state: _State) -> None:
        self.ready += state.waiting
        state.waiting.clear()

    def blockers(self, party: str) -> tuple[str, ...]:
        """Those that a stuck party waits for; at least one, if need be itself."""
        op = self.head(party)
        assert op is not None, "only a stuck party waits"
        state = self.states[op.target]
        channel = state.channel
        if channel.slots == 0:
            absent = tuple(other for other in (channel.writer, *channel.readers) if other not in state.waiting)
            return absent or (party,)  # it is both ends, and cannot meet itself
        if op.kind is OpKind.RECV:
            return (channel.writer,)
        slowest = min(map(len, state.reads.values()))
        return tuple(reader for reader, times in state.reads.items() if len(times) == slowest)


def _explain(run: _Simulation) -> str:
    """The text of a DeadlockError: the circle of parties that wait for each other, or the way to one that has ended."""
    stuck = [party for party in run.schedule if run.head(party) is not None]
    path: dict[str, int] = {}
    party = stuck[0]
    while party not in path and run.head(party) is not None:
        path[party] = len(path)
        party = run.blockers(party)[0]
    circle = list(path)[path.get(party, 0) :]
    lines = [f"this schedule deadlocks in round {max(run.clock.values())}:"]
    lines += [f"  {p} waits at '{run.head(p)}' for {', '.join(run.blockers(p)[:_SHOWN])}" for p in circle[:_SHOWN]]
    if len(circle) > _SHOWN:
        lines.append(f"  ... and {len(circle) - _SHOWN} more, the last for {party}")
    lines.append(f"{len(stuck)} of {len(run.schedule)} parties are stuck. {_advice(run, circle, party)}")
    shown = list(dict.fromkeys([*circle, *stuck]))[:_SHOWN]
    if len(shown) < len(stuck):
        lines.append(f"The schedule of {len(shown)} of them:")
    table = grid({party: run.schedule[party] for party in run.schedule if party in shown}, run.at)
    return "\n".join(lines) + f"\n\n{table}"


def _advice(run: _Simulation, circle: list[str], last: str) -> str:
    heads = [head for party in circle if (head := run.head(party)) is not None]
    if last not in circle:
        verb = "sends" if heads[-1].kind is OpKind.RECV else "receives"
        return f"{last} has no more ops; give it one that {verb} {heads[-1].target}."
    if any(run.states[head.target].channel.slots == 0 for head in heads):
        return "Let the parties make these sends and recvs in the same order, or give the channels slots."
    if all(head.kind is OpKind.RECV for head in heads):
        return "Each waits for what another sends only later; let one of them send before it receives."
    return "Let the readers receive in the order of the sends, or give the channels more slots."
