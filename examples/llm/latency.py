"""What a server is judged by, from the times of its requests: TTFT, TPOT, inter-token latency, throughput, queueing.

TTFT  time to first token: from the arrival to the first token
TPOT  time per output token: of one request, the mean time between its tokens after the first
ITL   inter-token latency: each time between two tokens of a request, all of them together
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median_low

from examples.llm.load import DOCUMENT
from examples.llm.router import Served


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent are not above (nearest rank). Raises ValueError without any."""
    if not values:
        raise ValueError("a percentile of no values; expected at least one")
    return sorted(values)[max(ceil(len(values) * percent / 100), 1) - 1]


def ttft_s(requests: Sequence[Served]) -> list[float]:
    return [request.times[0] - request.arrived_s for request in requests]


def tpot_s(requests: Sequence[Served]) -> list[float]:
    return [(of.times[-1] - of.times[0]) / (len(of.times) - 1) for of in requests if len(of.times) > 1]


def itl_s(requests: Sequence[Served]) -> list[float]:
    return [after - before for request in requests for before, after in pairwise(request.times)]


def queueing_s(requests: Sequence[Served]) -> list[float]:
    return [request.started_s - request.arrived_s for request in requests]


def tokens_per_s(requests: Sequence[Served]) -> float:
    """Of output, from the first arrival to the last token."""
    span = max(request.times[-1] for request in requests) - min(request.arrived_s for request in requests)
    return sum(len(request.output) for request in requests) / span


#: Medians nearer to each other than this are called even: of three rounds, even an idle machine repeats no better.
EVEN = 0.05


@dataclass(frozen=True)
class Figure:
    """One number of a run."""

    name: str
    of: Callable[[Sequence[Served]], float]
    more_is_better: bool = False
    judged: bool = True
    """whether ways are compared by it"""


def _ms(times: Callable[[Sequence[Served]], list[float]], percent: float) -> Callable[[Sequence[Served]], float]:
    return lambda requests: percentile(times(requests), percent) * 1e3


def _documents(times: Callable[[Sequence[Served]], list[float]]) -> Callable[[Sequence[Served]], list[float]]:
    return lambda requests: times([request for request in requests if request.kind == DOCUMENT] or requests)


FIGURES = [
    Figure("TTFT p50 ms", _ms(ttft_s, 50)),
    Figure("TTFT p99 ms", _ms(ttft_s, 99)),
    Figure("document TTFT p50 ms", _ms(_documents(ttft_s), 50)),
    Figure("TPOT p50 ms", _ms(tpot_s, 50)),
    Figure("ITL p50 ms", _ms(itl_s, 50)),
    Figure("ITL p99 ms", _ms(itl_s, 99)),
    Figure("tokens/s", tokens_per_s, more_is_better=True),
    Figure("queueing p50 ms", _ms(queueing_s, 50), judged=False),
    Figure("queueing p99 ms", _ms(queueing_s, 99), judged=False),
]


def medians(runs: Sequence[Sequence[Served]]) -> dict[str, float]:
    """Of each figure the (lower) median over the runs."""
    return {figure.name: median_low(figure.of(run) for run in runs) for figure in FIGURES}


def verdict(runs: Mapping[str, Sequence[Sequence[Served]]]) -> list[str]:
    """Which way has the best median in which figure, a sentence a way, and whether it was the best in every round.

    The ways took turns, so round by round they met the same machine. What differs by less than EVEN is no win. Nothing
    is said of fewer than two ways.
    """
    if len(runs) < 2:
        return []
    always: dict[str, list[str]] = {name: [] for name in runs}
    mostly: dict[str, list[str]] = {name: [] for name in runs}
    even: list[str] = []
    for figure in FIGURES:
        if not figure.judged:
            continue
        sign = -1.0 if figure.more_is_better else 1.0
        costs = {name: [sign * figure.of(run) for run in several] for name, several in runs.items()}
        first, second = sorted(costs, key=lambda name: median_low(costs[name]))[:2]
        others = [costs[name] for name in costs if name != first]
        clear = all(ours < min(theirs) for ours, *theirs in zip(costs[first], *others, strict=True))
        low, high = sorted(abs(median_low(costs[name])) for name in (first, second))
        what = figure.name.removesuffix(" ms")
        if high < low * (1 + EVEN):
            even.append(what)
            continue
        ratio = f"{high / low:.2f} times" if low else "far"
        told = f"{what} ({ratio} {'more' if figure.more_is_better else 'less'} than {second})"
        (always if clear else mostly)[first].append(told)
    said = []
    for name in runs:
        parts = [f"in every round: {listed(always[name])}"] if always[name] else []
        parts += [f"by the median, not in every round: {listed(mostly[name])}"] if mostly[name] else []
        said.append(f"{name} is best {'; '.join(parts)}" if parts else f"{name} is best in no figure")
    return [*said, f"the two best are within {EVEN:.0%}: {listed(even)}"] if even else said


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
