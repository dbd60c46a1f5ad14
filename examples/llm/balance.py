"""Measured costs in, the cut into stages out. Pure."""

from collections.abc import Sequence
from itertools import accumulate


def balance(costs: Sequence[float], stages: int) -> list[range]:
    """Cut pieces 0..len(costs)-1 into `stages` contiguous, non-empty ranges so that the costliest range is cheapest.

    A pipeline runs at the pace of its slowest stage, so the largest sum is what counts. Dynamic programming over
    `best[k][n]`: the smallest possible largest sum when the first n pieces fill k stages. O(stages * pieces^2), which
    for 32 pieces is nothing. Of equally good cuts, the one with the latest boundaries is returned.

    >>> balance([1, 1, 1, 1, 4], stages=2)
    [range(0, 4), range(4, 5)]
    """
    pieces = len(costs)
    if not 1 <= stages <= pieces:
        raise ValueError(f"cannot cut {pieces} pieces into {stages} stages: choose from 1 to {pieces} stages")
    if any(not cost >= 0 for cost in costs):
        raise ValueError(f"a cost must be a number >= 0, found {list(costs)}")

    total = list(accumulate(costs, initial=0.0))
    best = [[float("inf")] * (pieces + 1) for _ in range(stages + 1)]
    cut = [[0] * (pieces + 1) for _ in range(stages + 1)]
    best[0][0] = 0.0
    for stage in range(1, stages + 1):
        for end in range(stage, pieces + 1):
            for start in range(stage - 1, end):
                largest = max(best[stage - 1][start], total[end] - total[start])
                if largest <= best[stage][end]:
                    best[stage][end], cut[stage][end] = largest, start

    ranges: list[range] = []
    end = pieces
    for stage in range(stages, 0, -1):
        ranges.append(range(cut[stage][end], end))
        end = cut[stage][end]
    return ranges[::-1]
