"""The contestant "dagc": compiled graphs whose values are torch CPU tensors."""

from __future__ import annotations

from typing import Any

import torch

import dagc
from benchmarks.protocol import Answer, serve
from benchmarks.tensor_peers.layers import LAYERS, Echo, Shard, activations, check
from benchmarks.timing import latency, throughput
from channels.communicators import TensorSpec

ACTORS = 4
RANKS = 2
IN_FLIGHT = 8


class Dagc:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        make, shard = dagc.remote(Echo).remote, dagc.remote(Shard).remote
        self._actors = [make() for _ in range(ACTORS)]
        self._ranks = [shard(rank, RANKS) for rank in range(RANKS)]
        dagc.get([actor.pid.remote() for actor in (*self._actors, *self._ranks)])

    def chain(self, actors: int, nbytes: int, transport: str, spec: bool, seconds: float) -> Answer:
        """Both figures of one graph. `transport`: of what goes from actor to actor; "" says nothing of it."""
        value = torch.ones(nbytes // 4)
        with dagc.InputNode() as x:
            for actor in self._actors[:actors]:
                x = actor.echo.bind(x)
                if transport and actor is not self._actors[actors - 1]:
                    x.with_tensor_transport(transport, spec=TensorSpec.of(value) if spec else None)
        with dagc.compile(x, max_inflight=IN_FLIGHT) as graph:
            assert torch.equal(graph.execute(value).get(), value), "what a chain of echoes returns"
            alone = latency(lambda: graph.execute(value).get(), seconds)
            return {**alone, **throughput(lambda: graph.execute(value), lambda ref: ref.get(), IN_FLIGHT, seconds)}

    def layers(self, tokens: int, seconds: float) -> Answer:
        given = activations(tokens)
        with dagc.InputNode() as x:
            hidden: Any = [x] * RANKS
            for layer in range(LAYERS):
                parts = [rank.part.bind(layer, h) for rank, h in zip(self._ranks, hidden, strict=True)]
                hidden = dagc.allreduce.bind(parts, op="sum")
        # What both ranks have: Ray does not compile a graph in which one of them keeps its result to itself.
        with dagc.compile(dagc.MultiOutputNode(list(hidden))) as graph:
            for result in dagc.get(graph.execute(given)):
                check(result, tokens)
            return latency(lambda: dagc.get(graph.execute(given)), seconds)


def main() -> None:
    dagc.init(num_cpus=ACTORS + RANKS)
    try:
        peer = Dagc()
        serve({name: getattr(peer, name) for name in ("chain", "layers")})
    finally:
        dagc.shutdown()


if __name__ == "__main__":
    main()
