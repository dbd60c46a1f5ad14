"""Layers of a tensor-parallel MLP, as all contestants compute them: torch alone, nothing of dagc or Ray.

Megatron's cut (Shoeybi et al. 2019, arXiv:1909.08053): the first matrix by columns, the second by rows, so that a rank
has a part of the sum that is the layer's result, and one allreduce a layer puts it together.
"""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

__all__ = ["FFN", "HIDDEN", "LAYERS", "Echo", "Shard", "activations", "check", "unsplit"]

LAYERS = 8
HIDDEN = 576
FFN = 1536
SEED = 0


class Echo:
    """What a chain is made of."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def echo(self, value: Tensor) -> Tensor:
        return value

    def pid(self) -> int:
        return os.getpid()


class Shard:
    """Rank `rank` of `ranks`: FFN / ranks columns of the first matrix of every layer, and as many rows of the second.

    The same numbers everywhere: each process draws the whole matrices from one seed and keeps its part.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(SEED)
        mine = slice(rank * FFN // ranks, (rank + 1) * FFN // ranks)
        self._up: list[Tensor] = []
        self._down: list[Tensor] = []
        for _ in range(LAYERS):
            # relu halves the variance; so activations keep theirs through the layers.
            up = torch.randn(HIDDEN, FFN, generator=generator) / math.sqrt(HIDDEN)
            down = torch.randn(FFN, HIDDEN, generator=generator) * math.sqrt(2 / FFN)
            self._up.append(up[:, mine].contiguous())
            self._down.append(down[mine].contiguous())

    def part(self, layer: int, x: Tensor) -> Tensor:
        """[tokens, HIDDEN] float32 -> this rank's part of the layer's result, of the same shape."""
        return torch.relu(x @ self._up[layer]) @ self._down[layer]

    def add(self, *parts: Tensor) -> Tensor:
        """The result of a layer, of the parts of all ranks; for contestants whose collective is an actor."""
        return torch.stack(parts).sum(0)

    def pid(self) -> int:
        return os.getpid()


def activations(tokens: int) -> Tensor:
    """What enters the first layer: [tokens, HIDDEN] float32."""
    return torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(SEED + 1))


def unsplit(x: Tensor, whole: Shard) -> Tensor:
    """All layers in one process."""
    for layer in range(LAYERS):
        x = whole.part(layer, x)
    return x


def check(result: Tensor, tokens: int) -> None:
    """Raises AssertionError unless the layers came out as the unsplit ones. A sum in another order is not equal."""
    expected = unsplit(activations(tokens), Shard(0, 1))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
