"""The grid of ranks as a graph, the shards that it is of, and how a difference between two answers is judged."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

import dagc
from dagc.plan import OpKind
from examples.llm.agreement import preference
from examples.llm.grid import GridPlan, divided, grid_parallel, grid_plan
from examples.llm.model import Batch
from examples.llm.shard import Shard
from examples.llm.tiny import open_tiny

RemoteShard = dagc.remote(Shard)


@pytest.fixture
def planned() -> Iterator[None]:
    dagc.init(engine="plan")
    yield
    dagc.shutdown()


def grid_of(cut: list[range], ranks: int) -> tuple[Any, list[list[str]]]:
    """Of actors that are never started."""
    names = [[f"s{stage}r{rank}" for rank in range(ranks)] for stage in range(len(cut))]
    make = {"slots": 1, "max_len": 8, "threads": 1}
    actors = [
        [
            RemoteShard.options(name=name).remote(Path("none"), rank, ranks, pieces=pieces, **make)
            for rank, name in enumerate(of)
        ]
        for of, pieces in zip(names, cut, strict=True)
    ]
    return grid_parallel(actors, cut), names


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(("stages", "ranks"), [(1, 1), (1, 3), (2, 2), (4, 8)])
def test_a_grid_has_a_group_a_stage_and_a_channel_a_rank_between_stages(stages: int, ranks: int) -> None:
    layers = 6
    cut = dagc.partition([1.0] * (layers + 2), stages)
    dag, names = grid_of(cut, ranks)
    plan = dagc.plan(dag, max_inflight=stages)
    found = grid_plan(plan, names)
    assert (found.actors, found.groups) == (stages * ranks, stages)
    assert found.collectives == len(plan.groups) == 2 * layers + 1
    assert found.between == (ranks,) * (stages - 1)
    assert found.channels == len(plan.channels) == 3 + ranks * (stages - 1)
    between = [c for c in plan.channels if c.writer != "driver" and c.readers != ("driver",)]
    assert [(c.writer[-2:], c.readers[0][-2:]) for c in between] == [(f"r{r}", f"r{r}") for r in range(ranks)] * (
        stages - 1
    )


@pytest.mark.usefixtures("planned")
def test_the_ranks_of_a_stage_do_the_same_in_the_same_order() -> None:
    dag, names = grid_of([range(3), range(3, 8)], 2)
    plan = dagc.plan(dag)
    for of_stage in names:
        joins = [[op.target for op in plan.schedule[name] if op.kind is OpKind.JOIN] for name in of_stage]
        assert joins[0] == joins[1] != []


def test_a_grid_plan_prints_as_a_line() -> None:
    assert str(GridPlan(4, 71, 13, 2, 5, (2,))) == (
        "4 actors, 71 ops; 13 collectives a step in 2 groups of ranks; 5 channels, 2 of them from stage to stage"
    )
    assert str(GridPlan(2, 63, 13, 1, 3, ())).endswith("in 1 group of ranks; 3 channels")


@pytest.mark.parametrize(
    ("threads", "most", "expected"),
    [(4, 3, (2, 2)), (6, 3, (3, 2)), (7, 3, (1, 7)), (4, 32, (4, 1)), (1, 3, (1, 1)), (6, 1, (1, 6))],
)
def test_threads_are_divided_evenly_over_as_many_actors_as_can_be(
    threads: int, most: int, expected: tuple[int, int]
) -> None:
    assert divided(threads, most) == expected


# -- a rank that has some of the pieces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_tiny(tmp_path_factory.mktemp("cache")).folder


def test_a_rank_has_the_pieces_of_its_stage_alone(folder: Path) -> None:
    make = {"slots": 1, "max_len": 8, "threads": 1}
    first, last = (Shard(folder, 0, 2, pieces=pieces, **make) for pieces in (range(3), range(3, 8)))
    assert (list(first.layers), list(last.layers)) == ([0, 1], [2, 3, 4, 5])
    step = first.step(Batch((0,), (0,), (1,)))
    x = first.embed(torch.zeros(1, dtype=torch.long), step)
    with pytest.raises(TypeError, match=r"no lm_head; its pieces are range\(0, 3\), expected the last one among them"):
        first.logits(x, step)
    with pytest.raises(TypeError, match=r"no embedding; its pieces are range\(3, 8\), expected piece 0 among them"):
        last.embed(torch.zeros(1, dtype=torch.long), step)
    with pytest.raises(KeyError):
        first.mlp(2, x)


# -- near ties


def likes(*scores: float) -> Callable[..., Callable[[], Any]]:
    """A model that gives these logits whatever it is asked; it remembers what."""

    def submit(tokens: Any, batch: Batch) -> Callable[[], Any]:
        submit.asked = tokens.tolist(), batch  # type: ignore[attr-defined]
        return lambda: torch.tensor([scores])

    return submit


def test_preference_is_taken_where_answers_part() -> None:
    model = likes(0.0, 3.0, 2.5)
    assert preference(model, [7, 8], expected=[0, 1, 0], found=[0, 2, 9]) == pytest.approx(0.5)
    assert model.asked == ([7, 8, 0], Batch((0,), (0,), (3,)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("found", [[0, 1], [0], [0, 1, 2], []])
def test_answers_that_do_not_part_have_none(found: list[int]) -> None:
    assert preference(likes(0.0), [7], expected=[0, 1], found=found) is None
