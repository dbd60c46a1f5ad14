"""The contestant "ray": Ray's compiled graphs with torch CPU tensors, driven as its documentation says.

Run by a Python that has ray and torch, which need not have dagc; so nothing of dagc is imported here.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.protocol import Answer
from benchmarks.ray_session import RayActors, serve_from_ray  # before ray: it sets what Ray reads when it is imported
from benchmarks.tensor_peers.layers import LAYERS, Echo, Shard, activations, check
from benchmarks.timing import latency, throughput

# isort: split
import ray
from ray.dag import InputNode, MultiOutputNode
from ray.experimental.channel.cpu_communicator import CPUCommunicator
from ray.experimental.collective import allreduce

ACTORS = 4
RANKS = 2
IN_FLIGHT = 8
#: For what a tensor is pickled with.
MARGIN_BYTES = 100_000


class Ray:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        make, shard = ray.remote(num_cpus=0)(Echo).remote, ray.remote(num_cpus=0)(Shard).remote
        self._actors = RayActors(lambda _: make(), ACTORS)
        self._ranks = RayActors(lambda rank: shard(rank, RANKS), RANKS)

    def chain(self, actors: int, nbytes: int, transport: str, seconds: float) -> Answer:
        """Both figures of one graph. `transport`: what `with_tensor_transport` says of every value; "" says nothing."""
        value = torch.ones(nbytes // 4)
        with InputNode() as given:
            x = given.with_tensor_transport(transport) if transport else given
            for actor in self._actors.handles[:actors]:
                x = actor.echo.bind(x)
                if transport:
                    x = x.with_tensor_transport(transport)
        with self._actors.compiled(x, _buffer_size_bytes=nbytes + MARGIN_BYTES) as graph:
            assert torch.equal(ray.get(graph.execute(value)), value), "what a chain of echoes returns"
            alone = latency(lambda: ray.get(graph.execute(value)), seconds)
            return {**alone, **throughput(lambda: graph.execute(value), ray.get, IN_FLIGHT, seconds)}

    def layers(self, tokens: int, seconds: float) -> Answer:
        """With its CPUCommunicator, which sends the tensors to an actor that adds them up."""
        ranks = self._ranks.handles
        communicator = CPUCommunicator(RANKS, ranks)
        with InputNode() as x:
            hidden: Any = [x] * RANKS
            for layer in range(LAYERS):
                parts = [rank.part.bind(layer, h) for rank, h in zip(ranks, hidden, strict=True)]
                hidden = allreduce.bind(parts, transport=communicator)
        return self._measure(MultiOutputNode(hidden), tokens, seconds)

    def layers_gathered(self, tokens: int, seconds: float) -> Answer:
        """Without a collective: one rank has the parts of all sent to it, adds them up and sends the sum back."""
        ranks = self._ranks.handles
        with InputNode() as x:
            hidden = x
            for layer in range(LAYERS):
                hidden = ranks[0].add.bind(*[rank.part.bind(layer, hidden) for rank in ranks])
        return self._measure(MultiOutputNode([hidden]), tokens, seconds)

    def _measure(self, dag: Any, tokens: int, seconds: float) -> Answer:
        given = activations(tokens)
        with self._ranks.compiled(dag) as graph:
            for result in ray.get(graph.execute(given)):
                check(result, tokens)
            return latency(lambda: ray.get(graph.execute(given)), seconds)


def benches() -> dict[str, Any]:
    peer = Ray()
    return {name: getattr(peer, name) for name in ("chain", "layers", "layers_gathered")}


if __name__ == "__main__":
    serve_from_ray(benches)
