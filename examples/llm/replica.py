"""The whole model as an actor of a server: it prefills, hands its KV cache over, admits that of others, and decodes."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import dagc
from examples.llm.accelerator import settle
from examples.llm.checkpoint import Checkpoint
from examples.llm.kv_blocks import KVBlock, read_block, write_block
from examples.llm.model import Batch, DecoderLayer, Embedding, LMHead, Step
from examples.llm.stage import Stage


@dataclass(frozen=True)
class Admitted:
    """How far the KV cache of a prompt has come into its slot. Times are those of time.perf_counter."""

    layers: int
    """how many are in the slot"""
    bytes: int
    copies: tuple[tuple[float, float], ...]
    """of each block: when copying it into the slot began and ended"""
    computed_s: float
    """when the last of these layers had been computed"""

    @property
    def ready_s(self) -> float:
        return self.copies[-1][1]

    @property
    def exposed_s(self) -> float:
        """From the end of the last layer's prefill to the slot being ready: what no computing hides."""
        return self.ready_s - self.computed_s

    @property
    def copying_s(self) -> float:
        """How long the copies kept the decode actor from decoding."""
        return sum(ended - began for began, ended in self.copies)


class Replica(Stage):
    """All pieces of the model, and a KV cache preallocated for `slots` sequences of at most `max_len` tokens.

    `forward` and `logits`, of `Stage`, step the sequences in the slots. A prompt that is prefilled for another actor
    goes through a slot of its own, which is free again as soon as a call returns: a prompt is prefilled from position
    0 on, so no layer needs what an earlier call left there. Prompts of several graphs may therefore take turns on one
    replica, call by call.

    `admit` may run at the same time as a step, in another thread: it writes to a slot that no step reads yet. No other
    two methods may.
    """

    def __init__(self, checkpoint: Path, *, slots: int, max_len: int, threads: int) -> None:
        pieces = Checkpoint(checkpoint).config.num_pieces
        super().__init__(checkpoint, 0, pieces, slots=slots + 1, max_len=max_len, threads=threads)
        self.slots = slots
        self.layers: list[DecoderLayer] = [piece for piece in self.pieces if isinstance(piece, DecoderLayer)]

    # -- the prefill side; n is the number of tokens of the prompt

    @torch.inference_mode()
    def embed(self, tokens: Tensor) -> Tensor:
        """[n] int64 -> [n, d]."""
        embedding = self.pieces[0]
        assert isinstance(embedding, Embedding), "a replica has all pieces"
        return embedding(tokens.to(self.device), self._prompt(tokens))

    @dagc.method(num_returns=2)
    @torch.inference_mode()
    def prefill(self, x: Tensor, first: int, last: int) -> tuple[Tensor, KVBlock]:
        """Layers `first` to `last` (exclusive) of a prompt: [n, d] -> [n, d], and their KV cache."""
        started = time.perf_counter()
        step = self._prompt(x)
        for layer in self.layers[first:last]:
            x = layer(x, step)
        settle(self.device)
        computed = time.perf_counter()
        caches = [layer.cache for layer in self.layers[first:last]]
        block = read_block(caches, first, self.slots, x.shape[0], computed)
        self._busy_s += time.perf_counter() - started
        return x, block

    @torch.inference_mode()
    def first_token(self, x: Tensor) -> Tensor:
        """[n, d] -> the greedy next id, [1] int64."""
        return self._head()(x, self._prompt(x))

    @torch.inference_mode()
    def first_logits(self, x: Tensor) -> Tensor:
        """[n, d] -> what `first_token` chooses by, [1, vocab_size]."""
        return self._head().logits(x, self._prompt(x))

    # -- the decode side

    @torch.inference_mode()
    def admit(self, block: KVBlock, slot: int, admitted: Admitted | None = None) -> Admitted:
        """Copy the next layers of a prompt's KV cache into the slot that was reserved for it.

        `admitted` is what the call for the layers before returned, None for the first. Raises ValueError if layers
        are missing in between, or if the block does not fit.
        """
        began = time.perf_counter()
        before = admitted or Admitted(0, 0, (), 0.0)
        if block.first != before.layers:
            raise ValueError(f"a block from layer {block.first} on; expected the one from layer {before.layers} on")
        layers = self.layers[block.first : block.first + block.kv.shape[0]]
        write_block([layer.cache for layer in layers], slot, block)
        settle(self.device)
        ended = time.perf_counter()
        return Admitted(
            before.layers + len(layers),
            before.bytes + block.kv.nbytes,
            (*before.copies, (began, ended)),
            block.computed_s,
        )

    def _prompt(self, x: Tensor) -> Step:
        return self.rotary.step(Batch(slots=(self.slots,), starts=(0,), lengths=(x.shape[0],)))

    def _head(self) -> LMHead:
        head = self.pieces[-1]
        assert isinstance(head, LMHead), "a replica has all pieces"
        return head
