"""The contestant "ray": Ray's compiled graph of the same stages, with micro-batches as executions in flight.

Run by a Python that has ray, torch and safetensors, which need not have dagc; so nothing of dagc is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.pipeline_peers.stage import Job, Stage, difference, pipelined
from benchmarks.protocol import Answer
from benchmarks.ray_session import RayActors, serve_from_ray  # before ray: it sets what Ray reads when it is imported

# isort: split
import ray
from ray.dag import InputNode


class Ray:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._job: Job | None = None
        self._actors: RayActors | None = None

    def in_flight(self, job: Mapping[str, Any], m: int, seconds: float) -> Answer:
        given = Job.of(job)
        prompts = given.prompts()[:m]
        actors = self._set_up(given)
        with InputNode() as x:
            for stage in actors.handles:
                x = stage.forward.bind(x)
        with actors.compiled(x, _max_inflight_executions=max(10, m)) as graph:

            def step() -> list[Tensor]:
                return [ray.get(ref) for ref in [graph.execute(prompt) for prompt in prompts]]

            off = difference(step(), given.logits())
            found = pipelined(step, lambda: ray.get([one.take_seconds.remote() for one in actors.handles]), seconds)
        return {**found, "difference": off}

    def _set_up(self, job: Job) -> RayActors:
        """The stages; after the first time they are there already."""
        if self._actors is None or job != self._job:
            self._job = job
            make = ray.remote(num_cpus=0)(Stage).remote
            tokens = len(job.prompts()[0])
            self._actors = RayActors(lambda i: make(job.checkpoint, *job.cut[i], tokens), len(job.cut))
        return self._actors


def benches() -> dict[str, Any]:
    return {"in_flight": Ray().in_flight}


if __name__ == "__main__":
    serve_from_ray(benches)
