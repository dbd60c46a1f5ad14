"""A stage of a Llama as all contestants run it: the pieces of examples/llm, torch alone, nothing of dagc or Ray.

A micro-batch is one prompt of T tokens. What its forward needs of the KV cache is one slot, which the next prompt
overwrites from its beginning: nothing is kept from one prompt to the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.protocol import Answer
from benchmarks.timing import latency_of_prepared
from examples.llm.checkpoint import Checkpoint
from examples.llm.config import LlamaConfig
from examples.llm.model import Batch, LMHead, RotaryTable, Weights, load_pieces

__all__ = ["Job", "Stage", "difference", "pipelined"]

#: Of logits that are of the size of 10: what sums in another order (two threads, say) may change.
RTOL, ATOL = 1e-3, 1e-3


@dataclass(frozen=True)
class Job:
    """What is run, for everyone: a checkpoint, its cut, and prompts with the logits of the unsplit model."""

    checkpoint: str
    #: (first piece, the one after the last) of each stage.
    cut: tuple[tuple[int, int], ...]
    #: A file: {"ids": [M, T] int64, "logits": [M, vocab_size] float32}.
    reference: str

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Job:
        """As it comes out of JSON."""
        return cls(given["checkpoint"], tuple((first, last) for first, last in given["cut"]), given["reference"])

    def prompts(self) -> list[Tensor]:
        """M of [T]."""
        return list(torch.load(self.reference)["ids"])

    def logits(self) -> Tensor:
        """[M, vocab_size]"""
        logits: Tensor = torch.load(self.reference)["logits"]
        return logits


class Stage:
    """Pieces `first` to `last` (exclusive) of a checkpoint, one torch thread, and a clock for every forward."""

    def __init__(self, checkpoint: str, first: int, last: int, tokens: int) -> None:
        torch.set_num_threads(1)
        opened = Checkpoint(Path(checkpoint))
        self.config: LlamaConfig = opened.config
        pieces = load_pieces(self.config, Weights(opened.weights_path), range(first, last), 1, tokens)
        self.pieces = [piece.logits if isinstance(piece, LMHead) else piece for piece in pieces]
        self.step = RotaryTable(self.config, tokens).step(Batch((0,), (0,), (tokens,)))
        self._seconds: list[float] = []
        # The first step maps every page of the weights and warms torch's kernels up; it belongs to loading.
        self.forward(torch.zeros(tokens, dtype=torch.int64) if first == 0 else self.hidden(tokens))
        self.take_seconds()

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        """[T] int64, or [T, d] float32, in; [T, d] float32, or of the last stage the last token's logits [1, vocab]."""
        started = time.perf_counter()
        for piece in self.pieces:
            x = piece(x, self.step)
        self._seconds.append(time.perf_counter() - started)
        return x

    def hidden(self, tokens: int) -> Tensor:
        """What comes from the stage before, in shape and dtype."""
        return torch.zeros(tokens, self.config.hidden_size)

    def take_seconds(self) -> tuple[float, float]:
        """(median, sum) of what `forward` took since this was asked last; zeros if it was not called."""
        taken, self._seconds = self._seconds, []
        return (median(taken), sum(taken)) if taken else (0.0, 0.0)

    def pid(self) -> int:
        return os.getpid()


def pipelined(
    step: Callable[[], object], take_seconds: Callable[[], Sequence[tuple[float, float]]], seconds: float
) -> Answer:
    """Times steps of a pipeline. Beside microseconds: `stage_s`, the median forward of each stage by its own clock, and
    `bubble`, the part of the stages' time in which they did not compute, from the first step to the last.

    `take_seconds` asks every stage.
    """
    take_seconds()
    started = time.perf_counter()
    found = latency_of_prepared(lambda: None, lambda _: step(), seconds, 1)
    elapsed = time.perf_counter() - started
    taken = take_seconds()
    busy = sum(total for _, total in taken)
    return {**found, "stage_s": [one for one, _ in taken], "bubble": 1 - busy / (len(taken) * elapsed)}


def difference(found: Sequence[Tensor], expected: Tensor) -> float:
    """The largest difference between logits [1, vocab_size] of each prompt and those of the unsplit model.

    Raises AssertionError if they are not close, or if a next token is another one.
    """
    logits = torch.cat([one.reshape(1, -1) for one in found])
    expected = expected[: len(logits)]
    torch.testing.assert_close(logits, expected, rtol=RTOL, atol=ATOL)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1)), "the next tokens are not those of the unsplit model"
    return (logits - expected).abs().max().item()
