"""`partition`: the cut whose slowest stage is fastest, compared with all others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.errors import GraphError
from dagc.prediction.partition import partition


def slowest(costs: Sequence[float], cut: Sequence[range], speeds: Sequence[float]) -> float:
    return max(sum(costs[layer] for layer in owned) / speed for owned, speed in zip(cut, speeds, strict=True))


def every_cut(layers: int, stages: int) -> list[list[range]]:
    return [
        [range(a, b) for a, b in pairwise((0, *inner, layers))] for inner in combinations(range(1, layers), stages - 1)
    ]


def test_equal_costs_are_cut_in_the_middle() -> None:
    assert partition([1, 1, 1, 1], 2) == [range(2), range(2, 4)]


def test_an_expensive_head_takes_layers_from_the_last_stage() -> None:
    layers_and_head = [0.04] + [1.65] * 30 + [10.4]
    assert partition(layers_and_head, 2) == [range(19), range(19, 32)]


def test_one_stage_owns_everything() -> None:
    assert partition([3, 1, 2], 1) == [range(3)]


def test_as_many_stages_as_layers_gives_each_one() -> None:
    assert partition([5, 0, 1], 3) == [range(1), range(1, 2), range(2, 3)]


def test_free_layers_leave_no_stage_empty() -> None:
    assert partition([0, 0, 0, 9], 3) == [range(2), range(2, 3), range(3, 4)]
    assert partition([9, 0, 0, 0], 3) == [range(2), range(2, 3), range(3, 4)]


def test_a_faster_device_takes_more() -> None:
    assert partition([1] * 6, [2, 1]) == [range(4), range(4, 6)]
    assert partition([1] * 6, [1, 2]) == [range(2), range(2, 6)]


def test_a_slow_stage_is_not_left_without_a_layer_by_those_before_it() -> None:
    # Of the first two layers alone the second stage would have to take an expensive one.
    assert partition([5, 5, 0, 10], [10, 1, 10]) == [range(2), range(2, 3), range(3, 4)]
    assert partition([0, 2, 5, 0, 2], [10, 1, 2]) == [range(3), range(3, 4), range(4, 5)]


def test_numpy_numbers_are_numbers() -> None:
    costs: Any = np.array([1.0, 1.0, 2.0])
    assert partition(costs, np.int64(2)) == [range(2), range(2, 3)]  # type: ignore[arg-type]
    assert partition(list(costs), list(np.array([1.0, 1.0]))) == [range(2), range(2, 3)]


costs_of_layers = st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 10)), min_size=1, max_size=9)


@settings(deadline=None)
@given(costs=costs_of_layers, data=st.data())
def test_no_other_cut_is_better_and_none_as_good_is_later(costs: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(costs)))
    speeds = data.draw(
        st.one_of(st.just([1.0] * count), st.lists(st.sampled_from([0.5, 1, 3, 10]), min_size=count, max_size=count))
    )
    cut = partition(costs, speeds)
    assert cut in every_cut(len(costs), count)
    best = min(slowest(costs, other, speeds) for other in every_cut(len(costs), count))
    assert slowest(costs, cut, speeds) == pytest.approx(best)
    if speeds == [1.0] * count:
        assert partition(costs, count) == cut


@pytest.mark.parametrize("seed", range(20))
def test_of_equally_good_cuts_it_is_the_one_with_the_latest_boundaries(seed: int) -> None:
    rng = random.Random(seed)
    costs = [rng.randint(0, 3) for _ in range(rng.randint(2, 9))]
    stages = rng.randint(2, len(costs))
    cut = partition(costs, stages)
    good = [
        other
        for other in every_cut(len(costs), stages)
        if slowest(costs, other, [1] * stages) == slowest(costs, cut, [1] * stages)
    ]
    assert cut[-1].start == max(other[-1].start for other in good)


def test_a_thousand_layers_on_a_hundred_devices() -> None:
    rng = random.Random(0)
    costs = [float(rng.randint(1, 100)) for _ in range(1000)]
    cut = partition(costs, 100)
    assert [layer for owned in cut for layer in owned] == list(range(1000))
    found = slowest(costs, cut, [1.0] * 100)
    # No cut is better: filling stages up to just less than that needs more of them.
    used, filled = 1, 0.0
    for cost in costs:
        if filled + cost >= found:
            used, filled = used + 1, 0.0
        filled += cost
    assert used > 100


@pytest.mark.parametrize("stages", [0, -1])
def test_refuses_fewer_stages_than_one(stages: int) -> None:
    with pytest.raises(GraphError, match=f"cannot cut into {stages} stages; expected 1 or more"):
        partition([1, 2, 3], stages)


@pytest.mark.parametrize("stages", [4, [1.0] * 4])
def test_refuses_more_stages_than_layers(stages: Any) -> None:
    with pytest.raises(GraphError, match="cannot cut 3 layers into 4 stages; expected at most 3 stages"):
        partition([1, 2, 3], stages)


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf"), "1", None, True])
def test_refuses_what_is_not_a_cost(cost: Any) -> None:
    with pytest.raises(GraphError, match=r"a cost must be a number >= 0, found .* in \[1\.0, "):
        partition([1.0, cost], 1)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        (3, r"as \[1\.0, 2\.5, 1\.0\]$"),
        ("12", r"the cost of each layer, in their order"),
        ({1.0, 2.0}, r"the cost of each layer, in their order"),
        ({"a": 1.0}, r"costs are {'a': 1\.0}; .*, or list\(costs\.values\(\)\)$"),
    ],
)
def test_refuses_what_are_no_costs(costs: Any, expected: str) -> None:
    with pytest.raises(GraphError, match=expected):
        partition(costs, 1)


def test_costs_come_in_any_order_that_is_one() -> None:
    assert partition({"a": 1.0, "b": 3.0, "c": 2.0}.values(), 2) == [range(2), range(2, 3)]
    assert partition((float(cost) for cost in (1, 1)), 2) == [range(1), range(1, 2)]


@pytest.mark.parametrize("speed", [0, -1.0, float("nan"), float("inf"), "1"])
def test_refuses_what_is_not_a_speed(speed: Any) -> None:
    with pytest.raises(GraphError, match="the speed of a stage must be a number > 0, found"):
        partition([1.0, 1.0], [1.0, speed])


@pytest.mark.parametrize(("stages", "found"), [([], "found none"), (2.0, "stages is 2.0; expected how many")])
def test_refuses_what_are_no_stages(stages: Any, found: str) -> None:
    with pytest.raises(GraphError, match=found):
        partition([1.0, 1.0], stages)
