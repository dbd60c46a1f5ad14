"""Contiguous pieces of the model behind one `forward`: what one actor of the pipeline holds."""

import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from examples.llm.accelerator import device_here, settle
from examples.llm.checkpoint import Checkpoint
from examples.llm.model import Batch, LMHead, Piece, RotaryTable, Weights, load_pieces


class Stage:
    """Pieces `first` to `last` (exclusive) of a checkpoint, and the KV cache of their layers.

    The first stage takes token ids, the last returns the next ids, and hidden states [T, d] pass between. A stage that
    holds every piece is the whole model, which is what the demo compares the pipeline with.
    """

    def __init__(self, checkpoint: Path, first: int, last: int, *, slots: int, max_len: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self.config = Checkpoint(checkpoint).config
        self.device = device_here()
        weights = Weights(Checkpoint(checkpoint).weights_path, self.device)
        self.pieces = self.load(weights, range(first, last), slots, max_len)
        self.takes_ids = first == 0
        self.rotary = RotaryTable(self.config, max_len, self.device)
        self._busy_s = 0.0
        # The first step maps every weight page and warms PyTorch's kernels up; it belongs to loading.
        self.step_costs(rounds=1, batch_size=1)

    def load(self, weights: Weights, pieces: range, slots: int, max_len: int) -> list[Piece]:
        """These pieces of the model, by number; for stages that hold them in another way to say otherwise."""
        return load_pieces(self.config, weights, pieces, slots, max_len)

    @torch.inference_mode()
    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """One step of one group of sequences: [T] int64 or [T, d] float32 in; [T, d] float32, or [S] int64, out."""
        started = time.perf_counter()
        step, x = self.rotary.step(batch), x.to(self.device)
        for piece in self.pieces:
            x = piece(x, step)
        settle(self.device)
        self._busy_s += time.perf_counter() - started
        return x

    @torch.inference_mode()
    def logits(self, x: Tensor, batch: Batch) -> Tensor:
        """As `forward` of the last stage, but what its next ids are chosen by: [S, vocab_size] float32.

        Raises TypeError on a stage that has no lm_head.
        """
        *body, head = self.pieces
        if not isinstance(head, LMHead):
            raise TypeError(f"the last piece of this stage is a {type(head).__name__}; expected the lm_head")
        step, x = self.rotary.step(batch), x.to(self.device)
        for piece in body:
            x = piece(x, step)
        return head.logits(x, step)

    def take_busy_s(self) -> float:
        """Seconds spent in `forward` since the last call of this method."""
        busy, self._busy_s = self._busy_s, 0.0
        return busy

    @torch.inference_mode()
    def step_costs(self, *, rounds: int, batch_size: int) -> list[float]:
        """Seconds that each piece takes to decode one token for each of `batch_size` sequences.

        Each round walks through all pieces in order, as decoding does: timing one piece again and again would find its
        weights in the CPU cache and flatter it. The layers are all of one shape, so each is given the median over
        layers and rounds, which keeps one disturbed sample from moving the cut.
        """
        step = self.rotary.step(Batch(slots=(0,) * batch_size, starts=(0,) * batch_size, lengths=(1,) * batch_size))
        samples: dict[type, list[float]] = {}
        for _ in range(rounds):
            x = torch.zeros(batch_size, *([] if self.takes_ids else [self.config.hidden_size]), device=self.device)
            x = x.long() if self.takes_ids else x
            for piece in self.pieces:
                started = time.perf_counter()
                x = piece(x, step)
                settle(self.device)
                samples.setdefault(type(piece), []).append(time.perf_counter() - started)
        return [median(samples[type(piece)]) for piece in self.pieces]
