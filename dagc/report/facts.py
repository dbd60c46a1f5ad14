"""What a page is made of: everything that was known when it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from channels import ChannelStatistics
from dagc.graph import DRIVER, Graph
from dagc.plan import Plan
from dagc.prediction.predict import Prediction
from dagc.report.machine import Machine
from dagc.report.tallies import Run
from dagc.statistics import GraphStatistics
from dagc.timing.trace import Figures

__all__ = ["Facts"]


@dataclass(frozen=True, eq=False)
class Facts:
    """Sections take all of it; each needs another half."""

    graph: Graph
    plan: Plan
    measured: Run
    #: None where nothing was measured that a prediction could be made from.
    prediction: Prediction | None
    statistics: GraphStatistics | None
    #: SVG.
    drawing: str
    machine: Machine

    @property
    def actors(self) -> tuple[str, ...]:
        return tuple(party for party in self.plan.schedule if party != DRIVER)

    @property
    def figures(self) -> Figures | None:
        """Measured; None if nothing was."""
        return self.measured.figures

    @property
    def predicted(self) -> Figures | None:
        return None if self.prediction is None else self.prediction.figures

    @cached_property
    def counters(self) -> Mapping[str, ChannelStatistics]:
        """Channel -> what it carried in all executions of the graph, traced or not."""
        return {} if self.statistics is None else {channel.name: channel for channel in self.statistics.channels}
