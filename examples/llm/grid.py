"""Tensor and pipeline parallelism together: a grid of ranks, P stages of T ranks each, as one graph.

The ranks of a stage hold shares of the same layers and meet in allreduces, so each of them has the hidden states whole
when the stage ends. Rank r of a stage therefore gives them to rank r of the next: T channels between two stages, none
of which waits for another rank, and no broadcast. (Sending from one rank and broadcasting them in the next stage moves
the same bytes in two hops.)

The arrangement is that of Megatron-LM: tensor parallel within a machine, where the allreduces of every layer are
cheap, pipeline parallel between machines (Narayanan et al. 2021, arXiv:2104.04473).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import dagc
from dagc.plan import Plan


def grid_parallel(stages: Sequence[Sequence[Any]], cut: Sequence[range]) -> Any:
    """The graph of one step: ids and a batch enter, logits [S, vocab_size] leave rank 0 of the last stage.

    `stages`: the ranks of each stage, handles of `Shard`; `cut`: the pieces of each stage, which together are the whole
    model. One stage of T ranks is tensor parallelism alone.
    """
    head = cut[-1].stop - 1
    with dagc.InputNode() as given:
        x: Sequence[Any] = ()
        for ranks, pieces in zip(stages, cut, strict=True):
            steps = [rank.step.bind(given.batch) for rank in ranks]
            for piece in pieces:
                if piece == 0:
                    x = [rank.embed.bind(given.tokens, step) for rank, step in zip(ranks, steps, strict=True)]
                elif piece == head:
                    x = [rank.logits.bind(h, step) for rank, h, step in zip(ranks, x, steps, strict=True)]
                else:
                    x = layer(ranks, piece - 1, x, steps)
            for hidden in x:
                hidden.with_tensor_transport()  # from GPU to GPU where there are some
        return stages[-1][0].join_logits.bind(dagc.allgather.bind(x)[0]).with_tensor_transport(device="cpu")


def layer(ranks: Sequence[Any], number: int, x: Sequence[Any], steps: Sequence[Any]) -> Sequence[Any]:
    """One decoder layer over the ranks of a stage: hidden states [T, d] on each of them, before and after."""
    attention = [rank.attention.bind(number, h, step) for rank, h, step in zip(ranks, x, steps, strict=True)]
    summed: Sequence[Any] = dagc.allreduce.bind(attention, op="sum")
    mlp = [rank.mlp.bind(number, h) for rank, h in zip(ranks, summed, strict=True)]
    after: Sequence[Any] = dagc.allreduce.bind(mlp, op="sum")
    return after


class GridPlan(NamedTuple):
    """What the compiler made of a grid."""

    actors: int
    ops: int
    collectives: int
    """in one step"""
    groups: int
    """of ranks that meet in them: one communicator each"""
    channels: int
    between: tuple[int, ...]
    """channels from each stage to the next"""

    def __str__(self) -> str:
        between = f", {' + '.join(map(str, self.between))} of them from stage to stage" if self.between else ""
        return (
            f"{self.actors} actors, {self.ops} ops; {self.collectives} collectives a step in {self.groups} "
            f"{'group' if self.groups == 1 else 'groups'} of ranks; {self.channels} channels{between}"
        )


def grid_plan(plan: Plan, stages: Sequence[Sequence[str]]) -> GridPlan:
    """Counts of a plan; `stages`: the names of its actors, stage by stage."""

    def between(writers: Sequence[str], readers: Sequence[str]) -> int:
        return sum(channel.writer in writers and bool({*channel.readers} & {*readers}) for channel in plan.channels)

    return GridPlan(
        actors=len(plan.schedule) - 1,
        ops=sum(map(len, plan.schedule.values())),
        collectives=len(plan.groups),
        groups=len({group.members for group in plan.groups}),
        channels=len(plan.channels),
        between=tuple(between(*pair) for pair in pairwise(stages)),
    )


def divided(threads: int, most_actors: int) -> tuple[int, int]:
    """(actors, threads of each) for so many threads in all: as many actors as can be, all alike."""
    actors = max(actors for actors in range(1, min(threads, most_actors) + 1) if threads % actors == 0)
    return actors, threads // actors
