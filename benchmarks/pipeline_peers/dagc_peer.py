"""The contestant "dagc": a compiled graph of stages; micro-batches are executions in flight, or all in one graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import dagc
from benchmarks.pipeline_peers.stage import Job, Stage, difference, pipelined
from benchmarks.protocol import Answer, serve

CPUS = 8


class Dagc:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._stages: list[Any] = []

    def in_flight(self, job: Mapping[str, Any], m: int, seconds: float) -> Answer:
        """The graph is one micro-batch through all stages; m executions of it are under way at once."""
        prompts = self._set_up(Job.of(job))[:m]
        with dagc.InputNode() as x:
            for stage in self._stages:
                x = stage.forward.bind(x)
        with dagc.compile(x, max_inflight=max(8, m)) as graph:
            return self._measure(lambda: dagc.get([graph.execute(prompt) for prompt in prompts]), seconds)

    def one_graph(self, job: Mapping[str, Any], m: int, seconds: float) -> Answer:
        """The graph is all m micro-batches of a step, bound one after the other; a step is one execution."""
        prompts = self._set_up(Job.of(job))[:m]
        outputs = []
        with dagc.InputNode() as given:
            for i in range(m):
                x: Any = given[i]
                for stage in self._stages:
                    x = stage.forward.bind(x)
                outputs.append(x)
        with dagc.compile(dagc.MultiOutputNode(outputs)) as graph:
            return self._measure(lambda: dagc.get(graph.execute(*prompts)), seconds)

    def _measure(self, step: Callable[[], list[Tensor]], seconds: float) -> Answer:
        assert self._job is not None, "it has been set up"
        off = difference(step(), self._job.logits())
        found = pipelined(step, lambda: dagc.get([stage.take_seconds.remote() for stage in self._stages]), seconds)
        return {**found, "difference": off}

    def _set_up(self, job: Job) -> list[Tensor]:
        """The prompts; after the first time the stages are there already."""
        prompts = job.prompts()
        if job != self._job:
            self._job = job
            make = dagc.remote(Stage).remote
            self._stages = [make(job.checkpoint, *cut, len(prompts[0])) for cut in job.cut]
            dagc.get([stage.pid.remote() for stage in self._stages])
        return prompts


def main() -> None:
    torch.set_num_threads(1)
    dagc.init(num_cpus=CPUS)
    try:
        peer = Dagc()
        serve({name: getattr(peer, name) for name in ("in_flight", "one_graph")})
    finally:
        dagc.shutdown()


if __name__ == "__main__":
    main()
