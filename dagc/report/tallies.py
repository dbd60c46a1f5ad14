"""What the page says about a run, as numbers: how long each op took and waited, and each reader of a channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dagc.graph import DRIVER
from dagc.plan import Channel, Op, OpKind, Plan
from dagc.timing.timeline import PartyTrace
from dagc.timing.trace import Figures, Trace
from dagc.timing.waits import aligned, wait_ends

__all__ = ["ChannelFigures", "OpFigures", "Run", "channel_figures", "op_figures"]

Nanoseconds = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Run:
    """A trace, measured or replayed, cut to the executions that all parties have."""

    trace: Trace

    @property
    def plan(self) -> Plan:
        return self.trace.plan

    @cached_property
    def parties(self) -> Mapping[str, PartyTrace]:
        """In the order of the plan. A row is the same execution everywhere."""
        found = aligned(self.trace.parties)
        return {party: found[party] for party in self.plan.schedule}

    @property
    def executions(self) -> Nanoseconds:
        """Their numbers, ascending; there may be none."""
        return self.parties[DRIVER].executions

    @cached_property
    def waiting(self) -> Mapping[str, Nanoseconds]:
        """Party -> (rows, ops) ns: for how long each op waited before it could do something."""
        over = wait_ends(self.plan, self.parties)
        return {name: over[name] - party.begins for name, party in self.parties.items()}

    @cached_property
    def figures(self) -> Figures | None:
        """None if there is no execution to take them from."""
        return self.trace.figures() if len(self.executions) else None

    @cached_property
    def latencies(self) -> npt.NDArray[np.float64]:
        """Seconds from the driver's first send to its last receive, of each execution."""
        driver = self.parties[DRIVER]
        nanoseconds: Nanoseconds = driver.ends.max(axis=1) - driver.begins.min(axis=1)
        return nanoseconds / 1e9

    def seconds(self, party: PartyTrace) -> float:
        """From the party's first span to the end of its last."""
        return float(party.ends.max() - party.begins.min()) / 1e9 if party.begins.size else 0.0

    @property
    def cores_used(self) -> float:
        """How many cores the actors' methods kept busy, on average."""
        actors = [party for name, party in self.parties.items() if name != DRIVER and self.seconds(party)]
        return sum(float(party.cpu.sum()) / 1e9 / self.seconds(party) for party in actors)


@dataclass(frozen=True)
class OpFigures:
    """One op over all executions of a run. Seconds, and shares of the party's time from its first span to its last."""

    party: str
    op: Op
    count: int
    #: Of the whole span, with the waiting in it.
    median: float
    p95: float
    waiting_median: float
    waiting_p95: float
    share: float
    #: A part of `share`.
    waiting_share: float
    #: Of a RUN: how much of its time it was on a core; nan for other ops.
    on_core: float


@dataclass(frozen=True)
class ChannelFigures:
    """One channel over all executions of a run."""

    channel: Channel
    #: Reader -> mean seconds from its asking for a message to the message being there; nan if nothing was executed.
    waits: Mapping[str, float]


def op_figures(run: Run) -> Iterator[OpFigures]:
    """In the order of the plan; nothing if nothing was executed."""
    for name, party in run.parties.items():
        if not party.begins.size:
            continue
        took, waiting = party.ends - party.begins, run.waiting[name]
        median, p95 = np.percentile(took, (50, 95), axis=0) / 1e9
        waiting_median, waiting_p95 = np.percentile(waiting, (50, 95), axis=0) / 1e9
        total, waited, cpu = (array.sum(axis=0) / 1e9 for array in (took, waiting, party.cpu))
        whole = run.seconds(party) or 1.0
        for i, op in enumerate(party.ops):
            yield OpFigures(
                party=name,
                op=op,
                count=len(party.executions),
                median=float(median[i]),
                p95=float(p95[i]),
                waiting_median=float(waiting_median[i]),
                waiting_p95=float(waiting_p95[i]),
                share=float(total[i]) / whole,
                waiting_share=float(waited[i]) / whole,
                on_core=float(cpu[i] / total[i]) if op.kind is OpKind.RUN and total[i] else float("nan"),
            )


def channel_figures(run: Run) -> Iterator[ChannelFigures]:
    """In the order of the plan."""
    waits: dict[tuple[str, str], list[Nanoseconds]] = {}
    for name, party in run.parties.items():
        for column, op in enumerate(party.ops):
            if op.kind is OpKind.RECV and party.begins.size:
                waits.setdefault((op.target, name), []).append(run.waiting[name][:, column])
    for channel in run.plan.channels:
        yield ChannelFigures(
            channel,
            {
                reader: float(np.mean(waits[channel.name, reader])) / 1e9
                if (channel.name, reader) in waits
                else float("nan")
                for reader in channel.readers
            },
        )
