"""The contestant "alone": the unsplit model in one process; and what its pieces and stages take by themselves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch

from benchmarks.pipeline_peers.stage import Job, Stage, difference, pipelined
from benchmarks.protocol import Answer, serve
from benchmarks.timing import latency_of_prepared
from examples.llm.checkpoint import default_cache
from examples.llm.gguf_import import find_smollm2, open_gguf
from examples.llm.model import DecoderLayer
from examples.llm.tiny import open_tiny

SEED = 0
#: Walks through the model from which the cost of a piece is taken.
WALKS = 5


class Alone:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        self._whole: Stage | None = None
        self._stages: dict[Job, list[Stage]] = {}

    def prepare(self, tiny: bool, reference: str, prompts: int, tokens: int, seconds: float) -> Answer:  # noqa: ARG002
        """Random prompts and their logits into the file `reference`; answers with the seconds that each piece takes.

        Raises ModelNotInstalledError if there are no weights and no `tiny` model is asked for.

        Every walk goes through all pieces, as a forward does: a piece that is timed alone, again and again, finds its
        weights in the CPU's cache. The layers are all of one shape, so each is given the median of all of them.
        """
        cache = default_cache()
        checkpoint = open_tiny(cache) if tiny else open_gguf(find_smollm2(), cache)
        config = checkpoint.config
        whole = self._whole = Stage(str(checkpoint.folder), 0, config.num_pieces, tokens)
        generator = torch.Generator().manual_seed(SEED)
        ids = torch.randint(0, config.vocab_size, (prompts, tokens), generator=generator)
        torch.save({"ids": ids, "logits": torch.cat([whole.forward(prompt) for prompt in ids])}, reference)
        taken: list[list[float]] = [[] for _ in whole.pieces]
        with torch.inference_mode():
            for prompt in [*ids] * WALKS:
                x = prompt
                for piece, times in zip(whole.pieces, taken, strict=True):
                    started = time.perf_counter()
                    x = piece(x, whole.step)
                    times.append(time.perf_counter() - started)
        layers = [isinstance(piece, DecoderLayer) for piece in whole.pieces]
        layer = median([took for times, is_layer in zip(taken, layers, strict=True) if is_layer for took in times])
        costs = [layer if is_layer else median(times) for times, is_layer in zip(taken, layers, strict=True)]
        return {"checkpoint": str(checkpoint.folder), "costs": costs}

    def stages(self, job: Mapping[str, Any], m: int, seconds: float) -> Answer:
        """Seconds of each stage, one after the other, and the bubble of a pipeline in which they take just as long."""
        given = Job.of(job)
        prompts = given.prompts()[:m]
        if given not in self._stages:
            self._stages[given] = [Stage(given.checkpoint, *cut, len(prompts[0])) for cut in given.cut]
        stages = self._stages[given]

        def forward() -> None:
            for x in prompts:
                for stage in stages:
                    x = stage.forward(x)

        latency_of_prepared(lambda: None, lambda _: forward(), seconds, 1)
        times = [stage.take_seconds()[0] for stage in stages]
        makespan = sum(times) + (m - 1) * max(times)
        return {"p50_us": makespan * 1e6, "stage_s": times, "bubble": 1 - m * sum(times) / (len(times) * makespan)}

    def whole(self, job: Mapping[str, Any], m: int, threads: int, seconds: float) -> Answer:
        """m prompts, one after the other."""
        assert self._whole is not None, "prepare comes first"
        whole, given = self._whole, Job.of(job)
        prompts = given.prompts()[:m]
        torch.set_num_threads(threads)
        try:
            off = difference([whole.forward(prompt) for prompt in prompts], given.logits())
            found = pipelined(lambda: _forward_all(whole, prompts), lambda: [whole.take_seconds()], seconds)
            return {**found, "difference": off}
        finally:
            torch.set_num_threads(1)


def _forward_all(whole: Stage, prompts: Sequence[torch.Tensor]) -> None:
    for prompt in prompts:
        whole.forward(prompt)


def main() -> None:
    alone = Alone()
    serve({name: getattr(alone, name) for name in ("prepare", "stages", "whole")}, torch=torch.__version__)


if __name__ == "__main__":
    main()
