"""`balance`: the cut whose costliest stage is cheapest."""

import random
from itertools import combinations

import pytest

from examples.llm.balance import balance


def largest(costs: list[float], cut: list[range]) -> float:
    return max(sum(costs[piece] for piece in owned) for owned in cut)


def test_equal_costs_are_cut_in_the_middle() -> None:
    assert balance([1, 1, 1, 1], 2) == [range(2), range(2, 4)]


def test_an_expensive_head_takes_layers_from_the_last_stage() -> None:
    layers_and_head = [0.04] + [1.65] * 30 + [10.4]
    assert balance(layers_and_head, 2) == [range(19), range(19, 32)]


def test_one_stage_owns_everything() -> None:
    assert balance([3, 1, 2], 1) == [range(3)]


def test_as_many_stages_as_pieces_gives_each_one() -> None:
    assert balance([5, 0, 1], 3) == [range(1), range(1, 2), range(2, 3)]


def test_free_pieces_leave_no_stage_empty() -> None:
    cut = balance([0, 0, 0, 9], 3)
    assert [piece for owned in cut for piece in owned] == [0, 1, 2, 3]
    assert all(len(owned) for owned in cut)


@pytest.mark.parametrize("seed", range(50))
def test_no_other_cut_is_better(seed: int) -> None:
    rng = random.Random(seed)
    costs = [rng.choice([0.0, 1.0, rng.random(), 10 * rng.random()]) for _ in range(rng.randint(1, 9))]
    stages = rng.randint(1, len(costs))
    cut = balance(costs, stages)

    assert len(cut) == stages
    assert all(len(owned) for owned in cut)
    assert [piece for owned in cut for piece in owned] == list(range(len(costs)))
    every_cut = (
        [range(a, b) for a, b in zip((0, *inner), (*inner, len(costs)), strict=True)]
        for inner in combinations(range(1, len(costs)), stages - 1)
    )
    assert largest(costs, cut) == pytest.approx(min(largest(costs, other) for other in every_cut))


@pytest.mark.parametrize("stages", [0, -1, 4])
def test_refuses_more_stages_than_pieces_and_fewer_than_one(stages: int) -> None:
    with pytest.raises(ValueError, match=f"cannot cut 3 pieces into {stages} stages: choose from 1 to 3"):
        balance([1, 2, 3], stages)


@pytest.mark.parametrize("cost", [-1.0, float("nan")])
def test_refuses_what_is_not_a_cost(cost: float) -> None:
    with pytest.raises(ValueError, match="a cost must be a number >= 0"):
        balance([1.0, cost], 1)
