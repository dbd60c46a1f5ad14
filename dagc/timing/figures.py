"""Figures: latency, throughput and bubble of a run, measured or replayed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagc.errors import GraphError
from dagc.graph import DRIVER
from dagc.plan import Plan
from dagc.tables import duration, table
from dagc.timing.timeline import PartyTrace
from dagc.timing.waits import aligned, wait_ends

__all__ = ["Figures", "figures_of", "percent"]


@dataclass(frozen=True)
class Figures:
    """Of a measured run or of a predicted one; seconds and shares."""

    #: How many executions they are taken from.
    executions: int
    #: Median seconds from the driver's first send of an execution to its last recv.
    latency: float
    #: Executions a second.
    throughput: float
    #: Actor -> the share of the time in which it neither ran, sent nor took something: the bubble.
    idle: Mapping[str, float]

    def __str__(self) -> str:
        return "\n".join([self.headline(), "", *table([["actor", "busy", "idle"], *self.rows()])])

    def headline(self) -> str:
        return f"latency {duration(self.latency)}, {self.throughput:,.6g} executions a second (of {self.executions})"

    def rows(self) -> list[list[str]]:
        """An actor, its busy share and its idle share, for tables."""
        return [[actor, percent(1 - idle), percent(idle)] for actor, idle in self.idle.items()]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def figures_of(
    plan: Plan, parties: Mapping[str, PartyTrace], *, whole: bool = False, rows: tuple[int, int] | None = None
) -> Figures:
    """The figures of a trace.

    They are of the time in which the pipeline was full, if there was such a time: from the end of an execution, not
    of the first ones, to the last end before the last execution began; and of a multiple of `max_inflight` executions,
    since a window that is too small for its pipeline makes executions end in bursts of that many. Else, or with
    `whole`, of all from the first begin to the last end: with the time in which the pipeline filled and drained.
    `rows`: who knows better gives the two executions between whose ends the time lies, by their places.

    Raises GraphError if there is no execution that all parties have.
    """
    parties = aligned(parties)
    driver = parties[DRIVER]
    count = len(driver.executions)
    if count == 0:
        raise GraphError(
            "no execution is in the traces of all parties; expected some: execute the graph while it is traced"
        )
    begun = driver.begins.min(axis=1)
    ended = driver.ends.max(axis=1)  # ascending: results come in order
    if rows is None and not whole:
        rows = _steady(begun, ended, plan.max_inflight)
    if rows is None:
        first, last, since, until = 0, count, int(begun.min()), int(ended[-1])
    else:
        first, last = rows[0] + 1, rows[1] + 1
        since, until = int(ended[rows[0]]), int(ended[rows[1]])
    seconds = (until - since) * 1e-9
    idle = {}
    over = wait_ends(plan, parties)
    for party, trace in parties.items():
        if party != DRIVER:
            busy = np.clip(trace.ends, since, until) - np.clip(over[party], since, until)
            idle[party] = max(0.0, 1 - float(busy.sum()) * 1e-9 / seconds) if seconds else 0.0
    return Figures(
        executions=last - first,
        latency=float(np.median((ended - begun)[first:last])) * 1e-9,
        throughput=(last - first) / seconds if seconds else math.inf,
        idle={party: idle[party] for party in plan.schedule if party != DRIVER},
    )


def _steady(begun: NDArray[np.int64], ended: NDArray[np.int64], max_inflight: int) -> tuple[int, int] | None:
    """Rows of two executions: from the end of the first to the end of the second the pipeline was full."""
    first = min(max_inflight, len(ended) // 4)
    last = int(np.searchsorted(ended, begun.max(), side="right")) - 1
    full = (last - first) // max_inflight * max_inflight
    return (first, first + full) if full > 0 else None
