"""The contestant "torch": torch.distributed.pipelining's GPipe schedule over gloo, a plain process for each stage.

A step begins when this process says so over a pipe to each of them and ends when all of them have answered: about what
a driver costs that sends no tensors. The prompts are in the first stage, and the logits stay in the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

from benchmarks.pipeline_peers.stage import Job, Stage, difference, pipelined
from benchmarks.protocol import Answer, serve
from benchmarks.rank_processes import RankProcesses


class Module(nn.Module):
    """A stage, as GPipe wants it: micro-batches are cut along dimension 0."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        """[1, ...] -> [1, ...]"""
        return self.stage.forward(x.squeeze(0)).unsqueeze(0)


class Rank:
    """The process of one stage."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._made: dict[Job, Module] = {}
        self._output: Tensor | None = None

    def set_up(self, job: Job, m: int) -> None:
        """GPipe's shapes are static, so another m is another schedule. The weights are loaded once."""
        ids = torch.stack(job.prompts())[:m]
        tokens = ids.shape[1]
        if job not in self._made:
            self._made[job] = Module(Stage(job.checkpoint, *job.cut[self._rank], tokens))
        module = self._made[job]
        first, last = self._rank == 0, self._rank == len(job.cut) - 1
        hidden = module.stage.hidden(tokens).unsqueeze(0)
        output = torch.zeros(1, 1, module.stage.config.vocab_size) if last else hidden
        stage = PipelineStage(
            module, self._rank, len(job.cut), torch.device("cpu"), ids[:1] if first else hidden, output
        )
        self._schedule: Any = ScheduleGPipe(stage, m)
        self._given = (ids,) if first else ()
        self._expected = job.logits() if last else None

    def step(self) -> None:
        self._output = self._schedule.eval(*self._given)

    def check(self) -> float:
        """As `difference`, of the last step; 0 in stages that have no logits."""
        if self._expected is None:
            return 0.0
        assert self._output is not None, "a step comes first"
        return difference(list(self._output), self._expected)

    def take_seconds(self) -> tuple[float, float]:
        """Of the stage, by its own clock."""
        (module,) = self._made.values()
        return module.stage.take_seconds()


class Torch:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        self.ranks: RankProcesses | None = None

    def gpipe(self, job: Mapping[str, Any], m: int, seconds: float) -> Answer:
        given = Job.of(job)
        if self.ranks is None:
            self.ranks = RankProcesses(Rank, len(given.cut))
        ranks = self.ranks
        ranks.all("set_up", job=given, m=m)
        ranks.all("step")
        off = max(ranks.all("check"))
        found = pipelined(lambda: ranks.all("step"), lambda: ranks.all("take_seconds"), seconds)
        return {**found, "difference": off}


def main() -> None:
    peer = Torch()
    try:
        serve({"gpipe": peer.gpipe}, torch=torch.__version__)
    finally:
        if peer.ranks is not None:
            peer.ranks.close()


if __name__ == "__main__":
    main()
