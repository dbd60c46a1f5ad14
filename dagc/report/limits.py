"""What limits a graph, in a sentence: a full machine, a full actor, a driver that sends too little, or waiting."""

from __future__ import annotations

from dataclasses import dataclass

from dagc.plan import Plan
from dagc.report.units import percent, rate, seconds
from dagc.timing.figures import Figures

__all__ = ["Limit", "busiest", "find_limit", "under_way"]

#: From this share on an actor, or the machine, counts as full: jitter keeps the last tenth from being used.
_FULL = 0.9
#: A window that holds less than this share of what it may hold is not kept full by the driver.
_WINDOW_FULL = 0.75


@dataclass(frozen=True)
class Limit:
    """The first words, which a reader sees first, and the rest."""

    head: str
    text: str


def busiest(figures: Figures) -> tuple[str, float]:
    """The actor with the smallest bubble, and its busy share."""
    actor = min(figures.idle, key=lambda name: figures.idle[name])
    return actor, 1 - figures.idle[actor]


def under_way(figures: Figures) -> float:
    """How many executions were under way, on average: their rate times how long each took (Little's law)."""
    return figures.throughput * figures.latency


def find_limit(plan: Plan, figures: Figures, *, cores: int, cores_used: float) -> Limit:
    """What to change first. `cores`: what the machine gives; `cores_used`: how many the actors' methods kept busy."""
    actor, busy = busiest(figures)
    work = busy / figures.throughput
    there = under_way(figures)
    if cores_used >= _FULL * cores and busy < _FULL:
        return Limit(
            f"The machine's {cores} cores set the pace.",
            f"The actors' methods keep {cores_used:.2f} of them busy, so actors wait for a core, not for each other: "
            "less work an execution or more cores would help, another schedule would not.",
        )
    if busy >= _FULL:
        return Limit(
            f"{actor} sets the pace.",
            f"It is busy {percent(busy)} of the time, {seconds(work)} an execution. Whatever else changes, the graph "
            f"does not pass {rate(figures.throughput / busy)} until {actor} has less to do in each.",
        )
    if there < _WINDOW_FULL * plan.max_inflight:
        return Limit(
            "The driver sets the pace.",
            f"On average {there:.1f} executions are under way where the plan has room for {plan.max_inflight}, and "
            f"no actor is busy for more than {percent(busy)} of the time. Execute ahead, before results are read, or "
            "with graph.map; the predicted throughput is that of a full window.",
        )
    return Limit(
        "Waiting sets the pace.",
        f"All {plan.max_inflight} executions that the plan allows are under way, yet the busiest actor, {actor}, works "
        f"for {percent(busy)} of the time. A larger max_inflight would let it begin the next execution meanwhile.",
    )
