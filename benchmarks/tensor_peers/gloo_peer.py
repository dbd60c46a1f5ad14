"""The contestant "gloo": the layers in plain processes, torch.distributed's allreduce between them, and no driver.

Nothing is sent to the ranks and nothing is fetched: each has the activations already. So this is the least that gloo
costs here, and less than a driver that gives activations and gets results would see.
"""

from __future__ import annotations

import time
from contextlib import closing

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.protocol import Answer, serve
from benchmarks.rank_processes import RankProcesses
from benchmarks.tensor_peers.layers import LAYERS, Shard, activations, check
from benchmarks.timing import FEWEST, WARM_UP_STEPS, summary

RANKS = 2


class Rank:
    """One of the ranks. All of them must measure the same, at the same time."""

    def __init__(self, rank: int) -> None:
        self._shard = Shard(rank, RANKS)

    def layers(self, tokens: int, seconds: float) -> Answer:
        given = activations(tokens)
        check(self._step(given), tokens)
        start = time.perf_counter()
        for _ in range(WARM_UP_STEPS):
            self._step(given)
        count = torch.tensor([max(seconds * WARM_UP_STEPS / (time.perf_counter() - start), FEWEST)])
        dist.all_reduce(count, dist.ReduceOp.MIN)
        times = []
        for _ in range(int(count)):
            begun = time.perf_counter_ns()
            self._step(given)
            times.append(time.perf_counter_ns() - begun)
        return summary(times)

    def _step(self, x: Tensor) -> Tensor:
        for layer in range(LAYERS):
            x = self._shard.part(layer, x)
            dist.all_reduce(x)
        return x


def main() -> None:
    with closing(RankProcesses(Rank, RANKS)) as ranks:

        def layers(tokens: int, seconds: float) -> Answer:
            answer: Answer = ranks.all("layers", tokens=tokens, seconds=seconds)[0]
            return answer

        serve({"layers": layers}, torch=torch.__version__)


if __name__ == "__main__":
    main()
