"""An actor that stands for one of several unlike devices: so many threads, or slower than it is by a factor."""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from examples.llm.model import Batch
from examples.llm.stage import Stage


class Device:
    """Holds a stage of each of several cuts of the model, by name, and computes with `threads` torch threads.

    `slowdown`: how many times as long everything takes as it really does. The rest of that time is slept, so that a
    slow device takes no core from the others, as it would not if it were a machine of its own. A sleep ends later than
    asked for by some 50 us, so the factor is right for steps of a millisecond and more.
    """

    def __init__(self, threads: int, slowdown: float) -> None:
        torch.set_num_threads(threads)
        self._threads, self._slowdown = threads, slowdown
        self._stages: dict[str, Stage] = {}

    def load(self, cut: str, checkpoint: Path, pieces: range, shape: Mapping[str, int]) -> None:
        """Loads these pieces as this device's stage of this cut; `shape`: `slots` and `max_len` of the KV cache."""
        self._stages[cut] = Stage(checkpoint, pieces.start, pieces.stop, threads=self._threads, **shape)

    def drop(self, cut: str) -> None:
        del self._stages[cut]

    def forward(self, cut: str, x: Tensor, batch: Batch) -> Tensor:
        """One step of the stage of this cut, as `Stage.forward`."""
        started = time.perf_counter()
        out = self._stages[cut].forward(x, batch)
        self._sleep_since(started)
        return out

    def costs(self, cut: str, rounds: int, batch_size: int) -> list[float]:
        """Seconds that each piece of its stage takes here to decode one token for each of `batch_size` sequences."""
        seconds = self._stages[cut].step_costs(rounds=rounds, batch_size=batch_size)
        return [cost * self._slowdown for cost in seconds]

    def _sleep_since(self, started: float) -> None:
        if self._slowdown > 1:
            time.sleep((time.perf_counter() - started) * (self._slowdown - 1))
