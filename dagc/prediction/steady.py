"""Steady: when a replay has gone on for long enough to tell how it would go on for ever.

What is replayed repeats itself sooner or later: if all parties are where they were when an earlier execution had ended,
the same happens again. (For parties that wait for each other and have a core each that is a theorem: a max-plus system
becomes periodic; Baccelli, Cohen, Olsder and Quadrat, Synchronization and Linearity, 1992.) A period may be several
executions: a window of 4 may let them end as 5, 5 and 7 ms for ever. To look only at when executions end is not enough:
long before the time between them changes, a queue in front of an actor may grow or shrink.

Parties that share cores may take very long to repeat themselves exactly. Then, and if nothing repeats itself within a
number of ops, blocks of executions are compared instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Progress", "State", "Steady"]

#: Executions of a block, at least; it is a multiple of the window, which executions may end in bursts of.
_LEAST_BLOCK = 8
#: How much two blocks may differ in the time that they take.
_TOLERANCE = 1e-3
#: Ops after which what nothing repeats itself in is taken as it is.
_MOST_OPS = 300_000


class State(NamedTuple):
    """Where a party is when an execution has ended."""

    #: Executions that it has begun beyond those that have ended.
    lead: int
    #: Of the executions that it may have under way, how many ops it has done; and whether it waits.
    done: tuple[int, ...]
    asleep: bool
    #: ns since its last op ended: whole, so that equal states are equal although sums of floats differ a little.
    since: int


def _no_states() -> list[State]:
    return []


@dataclass(eq=False)
class Progress:
    """How far a replay is."""

    #: Executions that the driver has begun.
    begun: int = 0
    #: The seconds at which it had received all of an execution.
    ends: list[float] = field(default_factory=list)
    #: Of each party, now.
    states: Callable[[], list[State]] = _no_states


class Steady:
    """Asked before each execution whether that was enough. Then `rows` is the time to look at.

    `window`: executions under way. `ops`: in an execution. `shared`: parties share cores.
    """

    def __init__(self, window: int, ops: int, shared: bool) -> None:
        self._window = window
        self._block = window * math.ceil(_LEAST_BLOCK / window)
        self._most = max(3 * self._block, _MOST_OPS // max(ops, 1))
        self._shared = shared
        #: What the state was -> how many executions had ended when it was so last.
        self._seen: dict[int, int] = {}
        #: After how many executions the state is as it was, and for how many of them this was so one after the other.
        self._period = 0
        self._run = 0
        self._leads: list[list[int]] = []
        #: From the end of the first of these executions to the end of the second, both counted from 0.
        self.rows = (0, 0)

    def __call__(self, progress: Progress) -> bool:
        count = len(progress.ends)
        if not count:
            return False
        states = progress.states()
        return self._repeats(count, states) or self._goes_on(count, states, progress.ends)

    def _repeats(self, count: int, states: list[State]) -> bool:
        """Everything was as it was a period before, for a period and for as long as what ends now is under way."""
        key = hash(tuple(states))
        period = count - self._seen.get(key, count)
        self._seen[key] = count
        self._run = self._run + 1 if period and period == self._period else 0
        self._period = period
        if not period or self._run < period + self._window:
            return False
        self.rows = (count - 1 - 2 * period, count - 1)
        return True

    def _goes_on(self, count: int, states: list[State], ends: list[float]) -> bool:
        """A block of executions took as long as the one before, and no party has gained or lost more than one."""
        if count % self._block:
            return False
        self._leads = [*self._leads[-2:], [state.lead for state in states]]
        if count < 3 * self._block:
            return False
        if count >= self._most:
            # The later blocks: in the first it was filling.
            self.rows = (count - 1 - (2 * count // 3) // self._block * self._block, count - 1)
            return True
        if not self._shared:
            return False
        block = self._block
        self.rows = (count - 1 - 2 * block, count - 1)
        last, earlier = ends[-1] - ends[-1 - block], ends[-1 - block] - ends[-1 - 2 * block]
        alike = all(max(leads) - min(leads) <= 1 for leads in zip(*self._leads, strict=True))
        return alike and abs(last - earlier) <= _TOLERANCE * max(last, earlier)
