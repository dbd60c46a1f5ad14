"""The contestant "alone": one process and one thread. A copy of the bytes, and the layers unsplit."""

from __future__ import annotations

import torch

from benchmarks.protocol import Answer, serve
from benchmarks.tensor_peers.layers import Shard, activations, unsplit
from benchmarks.timing import latency


class Alone:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._whole = Shard(0, 1)

    def copy(self, nbytes: int, seconds: float) -> Answer:
        given = torch.ones(nbytes // 4)
        target = torch.zeros_like(given)
        return latency(lambda: target.copy_(given), seconds)

    def layers(self, tokens: int, seconds: float) -> Answer:
        x = activations(tokens)
        return latency(lambda: unsplit(x, self._whole), seconds)


def main() -> None:
    alone = Alone()
    serve({name: getattr(alone, name) for name in ("copy", "layers")}, torch=torch.__version__)


if __name__ == "__main__":
    main()
