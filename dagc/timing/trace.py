"""Trace: when every party did each of its ops; measured by a graph, or replayed by `predict`. Same types for both.

trace = graph.trace()
trace.save("run.json")        # for https://ui.perfetto.dev or chrome://tracing
print(trace.figures())        # latency, throughput, how idle each actor is
print(trace.costs())          # what each call, send and recv costs: what `predict` replays
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dagc.plan import Op, Plan
from dagc.timing.chrome import write_chrome
from dagc.timing.costs import Costs
from dagc.timing.figures import Figures, figures_of
from dagc.timing.measure import measure_costs
from dagc.timing.timeline import PartyTrace, unfused

__all__ = ["Figures", "PartyTrace", "Span", "Trace", "unfused"]


class Span(NamedTuple):
    """One op of one party in one execution; ns of CLOCK_MONOTONIC."""

    party: str
    op: Op
    execution: int
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, eq=False)
class Trace:
    """What every party of a plan did, the driver ("driver") too.

    The parties need not have the same executions: what is counted is what the driver and all actors have in common.
    Raises ValueError if the parties or their ops are not those of the plan.
    """

    plan: Plan
    parties: Mapping[str, PartyTrace]

    def __post_init__(self) -> None:
        if set(self.parties) != set(self.plan.schedule):
            raise ValueError(f"traces of {sorted(self.parties)}; expected of {sorted(self.plan.schedule)}")
        for party, ops in self.plan.schedule.items():
            if self.parties[party].ops != unfused(ops):
                found = "; ".join(map(str, self.parties[party].ops))
                raise ValueError(
                    f"trace of {party} has the ops '{found}'; expected those of the plan, fused runs apart"
                )

    def spans(self) -> Iterator[Span]:
        """Every op of every execution: party by party in the order of the plan, each in the order of executions."""
        for party in self.plan.schedule:
            trace = self.parties[party]
            rows = zip(trace.executions.tolist(), trace.begins.tolist(), trace.ends.tolist(), strict=True)
            for execution, begins, ends in rows:
                for op, begin, end in zip(trace.ops, begins, ends, strict=True):
                    yield Span(party, op, execution, begin, end)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON for Perfetto or chrome://tracing. At `path` is always the old file or all of the new one.

        Raises OSError if it cannot be written.
        """
        write_chrome(self.plan, self.parties, path)

    def figures(self, *, whole: bool = False) -> Figures:
        """Latency, throughput and the bubble. `whole`: with the time in which the pipeline fills and drains.

        Raises GraphError if no execution was recorded by every party.
        """
        return figures_of(self.plan, self.parties, whole=whole)

    def costs(self) -> Costs:
        """What each call, send and recv took, typically; for `predict`.

        Raises GraphError if no execution was recorded by every party.
        """
        return measure_costs(self.plan, self.parties)
