"""Where the time of a tensor-parallel step goes, from a graph's trace: each rank's own calls, and its collectives."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from dagc.plan import OpKind
from dagc.timing.trace import Trace


@dataclass(frozen=True)
class StepTime:
    """Seconds a step, each the median over all traced steps."""

    computing: Mapping[str, float]
    """rank -> in its calls"""
    in_collectives: Mapping[str, float]
    """rank -> in its collectives, of which it waits for slower ranks in a part"""
    exchanging: float
    """of each collective, the rank that was in it for the shortest time, summed: an upper bound of what is left if no
    rank waits for a slower one"""
    collectives: int
    """how many a step has"""


def step_time(trace: Trace) -> StepTime:
    """Raises ValueError if no step was traced, or none of its ops is a collective."""
    computing: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    joined: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    shortest: dict[int, dict[str, int]] = defaultdict(dict)
    for span in trace.spans():
        took = span.end_ns - span.begin_ns
        if span.op.kind is OpKind.RUN:
            computing[span.party][span.execution] += took
        elif span.op.kind is OpKind.JOIN:
            joined[span.party][span.execution] += took
            known = shortest[span.execution]
            known[span.op.target] = min(took, known.get(span.op.target, took))
    if not shortest:
        raise ValueError("the trace has no collectives; expected at least one traced step of a tensor-parallel graph")
    return StepTime(
        {rank: median(steps.values()) / 1e9 for rank, steps in computing.items()},
        {rank: median(steps.values()) / 1e9 for rank, steps in joined.items()},
        median(sum(of.values()) for of in shortest.values()) / 1e9,
        len(next(iter(shortest.values()))),
    )
