"""Runs that never were: traces of a plan from made-up times, with jitter, for tests of what looks at traces.

An oracle of its own, simpler than `predict`: parties go through their ops in order, a receive ends after its send, a
collective begins when its last member has come, and there are always slots and cores enough.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dagc.graph import DRIVER
from dagc.plan import OpKind, Plan
from dagc.timing.trace import PartyTrace, Trace, unfused

__all__ = ["made_up"]

#: CLOCK_MONOTONIC does not begin at 0.
_CLOCK = 5_000_000_000


@dataclass
class _World:
    plan: Plan
    #: Seconds by call or collective, and what a run takes longer than that.
    costs: Mapping[str, float]
    jitter: float
    message: float
    random: np.random.Generator
    #: Party -> when it has nothing to do any more.
    clocks: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    #: (channel, execution) -> when its send ended.
    sent: dict[tuple[str, int], float] = field(default_factory=dict)
    #: (group, execution) -> when each member came.
    joined: dict[tuple[str, int], dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    #: Party -> (execution, index of the op, begin, end), as they were made.
    spans: dict[str, list[tuple[int, int, float, float]]] = field(default_factory=lambda: defaultdict(list))

    def do(self, party: str, index: int, execution: int) -> bool:
        """Make an op; False if what it waits for has not been made yet."""
        op, begin = unfused(self.plan.schedule[party])[index], self.clocks[party]
        if op.kind is OpKind.RECV:
            if (op.target, execution) not in self.sent:
                return False
            end = max(begin, self.sent[op.target, execution]) + self.message
        elif op.kind is OpKind.JOIN:
            came = self.joined[op.target, execution]
            came.setdefault(party, begin)
            (group,) = (group for group in self.plan.groups if group.name == op.target)
            if set(came) != set(group.members):
                return False
            end = max(came.values()) + self.costs[op.target]
        elif op.kind is OpKind.SEND:
            end = self.sent[op.target, execution] = begin + self.message
        else:
            end = begin + self.costs[op.target] * (1 + self.jitter * self.random.exponential())
        self.clocks[party] = end
        self.spans[party].append((execution, index, begin, end))
        return True


def made_up(
    plan: Plan,
    costs: Mapping[str, float],
    executions: int,
    *,
    jitter: float = 0.0,
    message: float = 3e-6,
    first: int = 1,
    seed: int = 0,
) -> Trace:
    """A run whose driver keeps the window full. `costs`: seconds of each call and collective. `first`: execution."""
    world = _World(plan, costs, jitter, message, np.random.default_rng(seed))
    driver = plan.schedule[DRIVER]
    sends = [i for i, op in enumerate(driver) if op.kind is OpKind.SEND]
    recvs = [i for i, op in enumerate(driver) if op.kind is OpKind.RECV]
    numbers = range(first, first + executions)
    for execution in numbers:
        if execution - plan.max_inflight >= first:
            for index in recvs:
                world.do(DRIVER, index, execution - plan.max_inflight)
        for index in sends:
            world.do(DRIVER, index, execution)
        _run_actors(world, execution)
    for execution in numbers[-plan.max_inflight :]:
        for index in recvs:
            world.do(DRIVER, index, execution)
    return Trace(plan, {party: _party(world, party, numbers, 100 + i) for i, party in enumerate(plan.schedule)})


def _run_actors(world: _World, execution: int) -> None:
    left = {party: list(range(len(unfused(ops)))) for party, ops in world.plan.schedule.items() if party != DRIVER}
    while any(left.values()):
        before = sum(map(len, left.values()))
        for party, indices in left.items():
            while indices and world.do(party, indices[0], execution):
                indices.pop(0)
        assert sum(map(len, left.values())) < before, f"execution {execution} is stuck: {left}"


def _party(world: _World, party: str, numbers: range, pid: int) -> PartyTrace:
    ops = unfused(world.plan.schedule[party])
    stamps = np.zeros((2, len(numbers), len(ops)), dtype=np.int64)
    for execution, index, begin, end in world.spans[party]:
        stamps[:, numbers.index(execution), index] = round(begin * 1e9), round(end * 1e9)
    runs = np.array([op.kind is OpKind.RUN for op in ops], dtype=bool)
    cpu = ((stamps[1] - stamps[0]) * runs * 97) // 100
    executions = np.arange(numbers.start, numbers.stop, dtype=np.int64)
    return PartyTrace(party, pid, ops, executions, stamps[0] + _CLOCK, stamps[1] + _CLOCK, cpu)
