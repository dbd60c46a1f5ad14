"""GraphStatistics: what a compiled graph has done so far."""

from __future__ import annotations

from dataclasses import dataclass

from channels import ChannelStatistics

__all__ = ["GraphStatistics"]


@dataclass(frozen=True)
class GraphStatistics:
    """At one moment."""

    name: str
    #: Executions that were begun, and those whose every result has been received.
    executions: int
    finished: int
    max_inflight: int
    channels: tuple[ChannelStatistics, ...]

    @property
    def in_flight(self) -> int:
        return self.executions - self.finished
