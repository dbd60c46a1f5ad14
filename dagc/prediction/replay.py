"""replay: a plan run on the clock of `Cores` instead of a machine, with costs instead of values.

What happens when:
- A run takes a core for its `cpu`, then sleeps for its `off`.
- A send waits until its channel has a free slot, then takes a core; then the message is there.
- A recv waits for the message, then takes a core; then the slot is free, once all readers have taken the message.
- Who had to wait goes on `wake` later than it could have. Waiting takes no core: real readers poll for a short time
  before they sleep, but yield to everybody who wants the core.
- A rendezvous: the send begins when all readers are at their recv, or have posted it, and nobody is woken for it.
- A join waits for the last member; then each member takes what the costs have for the group.
- The driver keeps `window` executions under way: when there are as many, it receives the results of the oldest before
  it sends the next, and its own code runs in between.
- An actor in "free" order goes on, where it would wait, with the oldest execution that it need not wait for, cut where
  its loop is cut (dagc/emit.py); if it would have to wait for all, it waits for the oldest (dagc/ahead.py).

Each party is a generator: its code reads as what the party does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dagc.errors import DeadlockError
from dagc.graph import DRIVER
from dagc.plan import Channel, Op, OpKind, Plan
from dagc.prediction.cores import Cores, Process
from dagc.prediction.steady import Progress, State
from dagc.timing.costs import Costs, RunCost
from dagc.timing.timeline import PartyTrace, unfused

__all__ = ["Enough", "replay"]

#: Asked before an execution begins: whether it shall not, nor any other.
Enough = Callable[[Progress], bool]

#: Parties that an error lists.
_SHOWN = 6


def replay(plan: Plan, costs: Costs, cores: int, window: int, enough: Enough) -> dict[str, PartyTrace]:
    """Run executions from an empty pipeline until it is empty again; party -> what it did, from 0 ns on.

    Raises DeadlockError if the window is more than the plan can hold.
    """
    run = _Replay(plan, costs, cores, window, enough)
    run.cores.run()
    begun = run.progress.begun
    if not run.through or any(party.behind(begun) for party in run.parties.values()):
        raise DeadlockError(run.explain())
    return {name: _trace(party, begun) for name, party in run.parties.items()}


class _Link:
    """A channel during the replay."""

    __slots__ = ("asked", "blocked", "meets", "sent", "slots", "taken", "waiting")

    def __init__(self, channel: Channel) -> None:
        self.slots = channel.slots
        self.meets = channel.slots == 0
        #: Messages: published, taken by each reader, and of a rendezvous asked for by each reader.
        self.sent = 0
        self.taken = [0] * len(channel.readers)
        self.asked = [0] * len(channel.readers)
        #: The writer, while it waits; the readers that do.
        self.blocked: list[_Party] = []
        self.waiting: list[_Party] = []

    @property
    def free(self) -> bool:
        """The next message may be written."""
        return self.sent < (min(self.asked) if self.meets else self.slots + min(self.taken))


class _Meeting:
    """A collective during the replay."""

    __slots__ = ("joined", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        #: Who waits for the others.
        self.joined: list[_Party] = []


class _Step(NamedTuple):
    """One op of one party, with all that belongs to it looked up."""

    column: int
    op: Op
    kind: OpKind
    cpu: float
    off: float
    #: Of a RECV, SEND or POST, and which of its readers this party is.
    link: _Link | None
    reader: int
    #: Of a JOIN.
    meeting: _Meeting | None


@dataclass(eq=False, slots=True)
class _Row:
    """One execution of one party."""

    execution: int
    begins: list[float]
    ends: list[float]
    #: How many steps are done.
    at: int = 0


@dataclass(eq=False)
class _Party:
    name: str
    steps: tuple[_Step, ...]
    process: Process = field(init=False)
    rows: list[_Row] = field(default_factory=list)
    #: It waits for somebody else.
    asleep: bool = False
    #: When its last op ended.
    since: float = 0.0

    def behind(self, executions: int) -> bool:
        """It has not done all of so many executions."""
        return bool(self.steps) and (len(self.rows) < executions or self.rows[executions - 1].at < len(self.steps))

    def begin(self) -> _Row:
        """Its next execution."""
        row = _Row(len(self.rows) + 1, [0.0] * len(self.steps), [0.0] * len(self.steps))
        self.rows.append(row)
        return row


class _Replay:
    def __init__(self, plan: Plan, costs: Costs, cores: int, window: int, enough: Enough) -> None:
        self.window = window
        self.between = costs.between
        self.wake_seconds = costs.wake
        self.enough = enough
        self.cores = Cores(cores, len(plan.schedule))
        #: The driver has received everything that it sent.
        self.through = False
        #: Actors that wait for an execution to begin, since nothing is sent to them.
        self.unfed: list[_Party] = []
        self.parties = _parties(plan, costs)
        self.progress = Progress(states=self.states)
        #: Executions that an actor may have under way.
        self.depth = window if plan.order == "free" else 1
        for party in self.parties.values():
            if party.name == DRIVER:
                party.process = self.drive(party)
            elif plan.order == "free" and party.steps and party.steps[0].kind is OpKind.RECV:
                party.process = self.act_freely(party)
            else:
                party.process = self.act(party)
        # The driver last: all others wait for it.
        for party in reversed(self.parties.values()):
            self.cores.wake(party.process)

    # ---- parties ----

    def drive(self, party: _Party) -> Process:
        """`window` executions are sent ahead, then one is sent for each that was received."""
        sends = 1 + max((step.column for step in party.steps if step.kind is OpKind.SEND), default=-1)
        progress = self.progress
        under_way: deque[_Row] = deque()
        stop = False
        while under_way or not stop:
            if stop or len(under_way) == self.window:
                row = under_way.popleft()
                for step in party.steps[sends:]:
                    yield from self.do(party, step, row)
                progress.ends.append(self.cores.now)
            stop = stop or self.enough(progress)
            if not stop:
                if progress.begun and self.between:
                    self.cores.compute(party.process, self.between)
                    yield
                progress.begun += 1
                self.rouse(self.unfed, 0.0)
                row = party.begin()
                under_way.append(row)
                for step in party.steps[:sends]:
                    yield from self.do(party, step, row)
        self.through = True

    def act(self, party: _Party) -> Process:
        """One execution after the other."""
        fed = any(step.kind is OpKind.RECV for step in party.steps)
        while party.steps:
            if not fed and len(party.rows) == self.progress.begun:
                self.park(party, self.unfed)
                yield
            row = party.begin()
            for step in party.steps:
                yield from self.do(party, step, row)

    def act_freely(self, party: _Party) -> Process:
        """What is nearest to the end of an execution and need not wait."""
        segments = _segments(party.steps)
        #: By segment, the executions that have come to it.
        held: list[deque[_Row]] = [deque() for _ in segments]
        while True:
            begun = [i for i in range(len(segments) - 1, 0, -1) if held[i]]
            index = next((i for i in begun if self.is_there(segments[i][0])), None)
            if index is None:
                index = 0 if not begun or self.is_there(segments[0][0]) else begun[0]
            row = held[index].popleft() if index else party.begin()
            for step in segments[index]:
                yield from self.do(party, step, row)
            if index + 1 < len(segments):
                held[index + 1].append(row)

    # ---- ops ----

    def do(self, party: _Party, step: _Step, row: _Row) -> Process:
        cores, kind, link = self.cores, step.kind, step.link
        begin = cores.now
        if kind is OpKind.RECV:
            assert link is not None
            if link.meets and link.asked[step.reader] == link.taken[step.reader]:
                self.ask(link, step.reader)  # it was not posted
            if not self.is_there(step):
                self.park(party, link.waiting)
                yield
        elif kind is OpKind.SEND:
            assert link is not None
            if not link.free:
                self.park(party, link.blocked)
                yield
        elif step.meeting is not None:
            meeting = step.meeting
            if len(meeting.joined) + 1 < meeting.size:
                self.park(party, meeting.joined)
                yield
            else:
                self.rouse(meeting.joined, 0.0)
        if step.cpu:
            cores.compute(party.process, step.cpu)
            yield
        if step.off:
            cores.sleep(party.process, step.off)
            yield
        if link is not None:
            if kind is OpKind.SEND:
                link.sent += 1
                self.rouse(link.waiting, 0.0 if link.meets else self.wake_seconds)
            elif kind is OpKind.POST:
                self.ask(link, step.reader)
            else:
                link.taken[step.reader] += 1
                if link.blocked and link.free:
                    self.rouse(link.blocked, self.wake_seconds)
        row.begins[step.column] = begin
        row.ends[step.column] = party.since = cores.now
        row.at += 1

    def is_there(self, step: _Step) -> bool:
        """It need not wait for a message."""
        link = step.link
        return step.kind is not OpKind.RECV or link is None or link.sent > link.taken[step.reader]

    def ask(self, link: _Link, reader: int) -> None:
        link.asked[reader] += 1
        if link.meets and link.blocked and link.free:
            self.rouse(link.blocked, 0.0)

    # ---- waiting ----

    def park(self, party: _Party, place: list[_Party]) -> None:
        """It will yield, and be woken by whoever has something at this place."""
        party.asleep = True
        place.append(party)

    def rouse(self, place: list[_Party], seconds: float) -> None:
        """Those who wait there go on in so many seconds."""
        for party in place:
            party.asleep = False
            if seconds:
                self.cores.sleep(party.process, seconds)
            else:
                self.cores.wake(party.process)
        place.clear()

    # ---- looking ----

    def states(self) -> list[State]:
        ended, now = len(self.progress.ends), self.cores.now
        return [
            State(
                len(party.rows) - ended,
                tuple(row.at for row in party.rows[-self.depth :]),
                party.asleep,
                round((now - party.since) * 1e9),
            )
            for party in self.parties.values()
        ]

    def explain(self) -> str:
        """The text of a DeadlockError: who is where."""
        lines = [f"with {self.window} executions under way this plan deadlocks:"]
        for party in self.parties.values():
            row = next((row for row in party.rows if row.at < len(party.steps)), None)
            if row is not None:
                lines.append(f"  {party.name} waits at '{party.steps[row.at].op}' of execution {row.execution}")
        if len(lines) > 1 + _SHOWN:
            lines[1 + _SHOWN :] = [f"  ... and {len(lines) - 1 - _SHOWN} more"]
        return "\n".join([*lines, "Give its channels more slots, or compile with a smaller max_inflight."])


def _parties(plan: Plan, costs: Costs) -> dict[str, _Party]:
    links = {channel.name: _Link(channel) for channel in plan.channels}
    meetings = {group.name: _Meeting(len(group.members)) for group in plan.groups}
    free = RunCost(0.0)
    found = {}
    for name, ops in plan.schedule.items():
        steps = []
        for column, op in enumerate(unfused(ops)):
            link, meeting, reader, cost = None, None, 0, free
            if op.kind is OpKind.RUN:
                cost = costs.runs[op.target]
            elif op.kind is OpKind.JOIN:
                meeting, cost = meetings[op.target], costs.runs.get(op.target, free)
            else:
                link = links[op.target]
                if op.kind is OpKind.SEND:
                    cost = RunCost(costs.sends[op.target])
                else:
                    reader = plan.by_name[op.target].readers.index(name)
                    if op.kind is OpKind.RECV:
                        cost = RunCost(costs.recvs[op.target])
            steps.append(_Step(column, op, op.kind, cost.cpu, cost.off, link, reader, meeting))
        found[name] = _Party(name, tuple(steps))
    return found


def _segments(steps: tuple[_Step, ...]) -> list[list[_Step]]:
    """The steps between which another execution may run: each but the first begins with a recv, after a run."""
    found: list[list[_Step]] = [[]]
    for step in steps:
        if step.kind is OpKind.RECV and any(before.kind is OpKind.RUN for before in found[-1]):
            found.append([])
        found[-1].append(step)
    return found


def _trace(party: _Party, count: int) -> PartyTrace:
    """Of the first `count` executions, which it has done; an actor may have begun one more."""
    rows, shape = party.rows[:count] if party.steps else [], (count, len(party.steps))
    runs = [step.cpu if step.kind is OpKind.RUN else 0.0 for step in party.steps]
    return PartyTrace(
        party.name,
        0,
        tuple(step.op for step in party.steps),
        np.arange(1, count + 1, dtype=np.int64),
        _nanoseconds([row.begins for row in rows], shape),
        _nanoseconds([row.ends for row in rows], shape),
        _nanoseconds([runs] * count, shape),
    )


def _nanoseconds(seconds: list[list[float]], shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.rint(np.array(seconds).reshape(shape) * 1e9).astype(np.int64)
