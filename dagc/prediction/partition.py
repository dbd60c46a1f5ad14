"""partition: a chain of layers cut into contiguous stages, so that the slowest stage is as fast as it can be."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate
from numbers import Integral, Real

from dagc.errors import GraphError

__all__ = ["partition"]


def partition(costs: Iterable[float], stages: int | Sequence[float]) -> list[range]:
    """Which layers each stage has: `stages` contiguous ranges, none of them empty, that cover 0..len(costs)-1.

    `costs`: of each layer, in any unit, 0 or more. `stages`: how many, or for devices that differ how fast each one
    is, in the order of the pipeline: a stage takes the sum of its costs divided by its speed. A pipeline runs at the
    pace of its slowest stage, so the longest of these times is what is minimised. Of cuts that are equally good, the
    one with the latest boundaries is returned.

    Raises GraphError for fewer layers than stages, and for costs and speeds that are none.

    >>> partition([1, 1, 1, 1, 4], 2)
    [range(0, 4), range(4, 5)]
    >>> partition([1, 1, 1, 1], [3, 1])
    [range(0, 3), range(3, 4)]

    Dynamic programming over "the first n layers on the first k stages", exact, O(layers * stages): the last boundary
    for n + 1 layers is never before that for n (Pinar and Aykanat, Fast optimal load balancing algorithms for 1D
    partitioning, JPDC 64, 2004; with speeds: Pinar, Tabak and Aykanat, JPDC 68, 2008). That stages may not be empty
    spoils what they rely on, that fewer layers never take longer: with speeds 10 and 1, the layers 5, 5, 0 take 1 and
    the layers 5, 5 take 5. So candidates for the boundary stand in a queue from which those with a better one to
    their right are removed, as for a minimum over a sliding window.
    """
    costs = _listed(costs)
    speeds = _speeds(stages)
    found = [cost for cost in costs if not _is_number(cost) or not 0 <= cost < math.inf]
    if found:
        raise GraphError(f"a cost must be a number >= 0, found {found[0]!r} in {_shown(costs)}")
    layers = len(costs)
    if layers < len(speeds):
        raise GraphError(f"cannot cut {layers} layers into {len(speeds)} stages; expected at most {layers} stages")

    total = list(accumulate(map(float, costs), initial=0.0))
    #: The shortest possible longest time of the first n layers on the stages so far; of no stages, for no layers only.
    best = [0.0] + [math.inf] * layers
    cuts: list[list[int]] = []
    for stage, speed in enumerate(speeds):
        best, starts = _add_stage(best, total, speed, stage)
        cuts.append(starts)

    ranges: list[range] = []
    end = layers
    for starts in reversed(cuts):
        ranges.append(range(starts[end], end))
        end = starts[end]
    return ranges[::-1]


def _add_stage(best: list[float], total: list[float], speed: float, stage: int) -> tuple[list[float], list[int]]:
    """`best` with one more stage, and for each number of layers where that stage starts.

    A candidate is a start. Its time for `end` layers is the longer of best[start], which stays, and of what the stage
    takes, which grows with `end` by the same for all candidates, and is less the later the start. So
    - a candidate with a later one that has no greater `best` is never needed again;
    - what remains has rising `best` and falling times of the stage: if the second is as good as the first, it will
      always be. And the best of all is the first that is better than its successor.
    """
    layers = len(total) - 1
    longest = [math.inf] * (layers + 1)
    starts = [0] * (layers + 1)
    candidates: deque[int] = deque()
    for end in range(stage + 1, layers + 1):
        new = end - 1
        while candidates and best[candidates[-1]] >= best[new]:
            candidates.pop()
        candidates.append(new)
        until = total[end]
        first = candidates[0]
        time = max(best[first], (until - total[first]) / speed)
        while len(candidates) > 1:
            second = candidates[1]
            other = max(best[second], (until - total[second]) / speed)
            if other > time:
                break
            candidates.popleft()
            first, time = second, other
        longest[end], starts[end] = time, first
    return longest, starts


def _listed(costs: Iterable[float]) -> list[float]:
    if isinstance(costs, Iterable) and not isinstance(costs, (str, bytes, Mapping, AbstractSet)):
        return list(costs)
    values = ", or list(costs.values())" if isinstance(costs, Mapping) else ""
    raise GraphError(
        f"costs are {costs!r}; expected the cost of each layer, in their order, as [1.0, 2.5, 1.0]{values}"
    )


def _speeds(stages: int | Sequence[float]) -> list[float]:
    if isinstance(stages, Integral):
        if stages < 1:
            raise GraphError(f"cannot cut into {stages} stages; expected 1 or more")
        return [1.0] * int(stages)
    if not isinstance(stages, Sequence) or isinstance(stages, (str, bytes)):
        raise GraphError(f"stages is {stages!r}; expected how many, as 4, or the speed of each, as [1.0, 1.0, 0.5]")
    wrong = [speed for speed in stages if not _is_number(speed) or not 0 < speed < math.inf]
    if wrong or not stages:
        found = f"{wrong[0]!r} in {_shown(stages)}" if wrong else "none"
        raise GraphError(f"the speed of a stage must be a number > 0, found {found}")
    return [float(speed) for speed in stages]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(values: Sequence[float]) -> str:
    return f"[{', '.join(map(repr, values[:8]))}{', ...' if len(values) > 8 else ''}]"
