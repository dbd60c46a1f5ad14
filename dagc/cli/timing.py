"""How `dagc bench` and `dagc doctor` measure a step: again and again for a given time, each one timed.

A measurement lasts a time rather than a number of steps, so that everything is exposed to the same noise, however fast
it is. A fifth of the time is spent first on steps that are not counted.

(benchmarks/timing.py does the same for the runs side by side with Ray. It cannot be this module: one of its users runs
in a Python that need not have dagc.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["Sample", "latency", "merged", "throughput"]

now = time.perf_counter_ns
WARM_UP_SHARE = 0.2
#: At least so many steps are made, of each of the two kinds, however long they take.
FEWEST = 3
#: Steps of which one rate is taken: so many that the clock and who runs when make no difference.
SLICE_STEPS = 200


@dataclass(frozen=True)
class Sample:
    """p50 and p99 of what was measured: seconds, or for a rate steps a second, where p99 is a low one."""

    p50: float
    p99: float
    #: Steps that were counted.
    steps: int


def latency(
    step: Callable[[Any], object], duration: float, prepare: Callable[[], Any] = lambda: None, warm_up: int = FEWEST
) -> Sample:
    """Seconds that `step(prepare())` takes, without the preparation. `warm_up`: steps at least that are not counted."""
    taken: list[int] = []
    for end, fewest in _phases(duration, warm_up):
        taken.clear()
        while now() < end or len(taken) < fewest:
            prepared = prepare()
            start = now()
            step(prepared)
            taken.append(now() - start)
            del prepared  # what it holds must not be there while the next one is made
    p50, p99 = _percentiles(taken, 50, 99)
    return Sample(p50 / 1e9, p99 / 1e9, len(taken))


def throughput(
    submit: Callable[[], Any], collect: Callable[[Any], object], depth: int, duration: float, steps: int = SLICE_STEPS
) -> Sample:
    """Steps a second with `depth` of them under way all the time: the p50 over slices of so many `steps`, and the rate
    that 99 % of the slices reach."""
    flying = deque(submit() for _ in range(depth))
    taken: list[int] = []
    for end, fewest in _phases(duration, FEWEST):
        taken.clear()
        while now() < end or len(taken) < fewest:
            start = now()
            for _ in range(steps):
                collect(flying.popleft())
                flying.append(submit())
            taken.append(now() - start)
    while flying:
        collect(flying.popleft())
    p50, p99 = _percentiles(taken, 50, 99)
    return Sample(steps * 1e9 / p50, steps * 1e9 / p99, steps * len(taken))


def merged(rounds: Sequence[Sample]) -> Sample:
    """Of several rounds: the median of their p50, and of their p99, so that one disturbed round does not count."""
    return Sample(median(s.p50 for s in rounds), median(s.p99 for s in rounds), sum(s.steps for s in rounds))


def _percentiles(values: Sequence[int], *percents: int) -> list[int]:
    ordered = sorted(values)
    return [max(1, ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]) for percent in percents]


def _phases(duration: float, warm_up: int) -> Iterator[tuple[int, int]]:
    """(when it ends, how many steps at least) of the warm-up, then of the measurement. Each begins when asked for."""
    for share, fewest in ((WARM_UP_SHARE, warm_up), (1.0, FEWEST)):
        yield now() + int(share * duration * 1e9), fewest
