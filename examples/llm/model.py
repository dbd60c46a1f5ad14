"""A Llama as a row of pieces: `Embedding`, `DecoderLayer` x N, `LMHead`.

Every piece is a callable `(x, step) -> x`, so the model is a `for` loop over pieces and cutting it anywhere is cutting
that loop in two. What differs from token to token travels as a `Batch`; each stage derives its `Step` (the RoPE rows
of these tokens) from it once, for all its layers.

Tokens of several sequences are flattened into one row, as in vLLM: a batch with spans of 5, 1 and 1 tokens is a prefill
beside two decodes, and every linear layer sees [7, hidden]. Only attention looks at one sequence at a time.

Shapes below: T tokens in the batch, S sequences, H query heads, KV key/value heads, D head_dim, d hidden_size. All
weights and activations are float32, token ids int64. Everything lies on the device of the weights.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows it by
from safetensors import safe_open
from torch import Tensor

from examples.llm.config import LlamaConfig

CPU = torch.device("cpu")


class Batch(NamedTuple):
    """Which tokens one step computes: one span of new tokens per sequence."""

    slots: tuple[int, ...]
    """the sequence's place in the KV cache"""
    starts: tuple[int, ...]
    """position of the span's first token: how many tokens of this sequence the cache holds already"""
    lengths: tuple[int, ...]
    """tokens in the span: the whole prompt to prefill, 1 to decode"""


@dataclasses.dataclass(frozen=True)
class Step:
    """A batch, with what every layer needs to know of it."""

    batch: Batch
    cos: Tensor  # [T, 1, D / 2]
    sin: Tensor  # [T, 1, D / 2]

    def spans(self) -> Iterator[tuple[int, int, slice]]:
        """(slot, start position, rows of the flattened batch) of every sequence."""
        row = 0
        for slot, start, length in zip(*self.batch, strict=True):
            yield slot, start, slice(row, row + length)
            row += length


class Piece(Protocol):
    def __call__(self, x: Tensor, step: Step) -> Tensor: ...


class RotaryTable:
    """cos and sin of every position, computed once: [max_len, D / 2]."""

    def __init__(self, config: LlamaConfig, max_len: int, device: torch.device = CPU) -> None:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        angles = torch.outer(torch.arange(max_len, dtype=torch.float32), 1.0 / config.rope_theta**exponents)
        self.cos, self.sin = angles.cos().to(device), angles.sin().to(device)

    def step(self, batch: Batch) -> Step:
        positions = torch.cat([torch.arange(start, start + n) for _, start, n in zip(*batch, strict=True)])
        return Step(batch, self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1))


def rotate(x: Tensor, step: Step) -> Tensor:
    """RoPE on [T, heads, D] in the half-split form: dimension i turns with dimension i + D / 2."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * step.cos - high * step.sin, high * step.cos + low * step.sin), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal grouped-query attention of one sequence's n new tokens, [n, H, D], over its cache, [KV, L, D] twice.

    The H / KV query heads of a group read the same keys through an expanded view, so nothing is repeated in memory.
    """
    n, heads, head_dim = q.shape
    kv_heads, length, _ = k.shape
    group = heads // kv_heads
    q = q.view(n, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    k, v = (cached.unsqueeze(1).expand(-1, group, -1, -1) for cached in (k, v))
    # New token i sits at position length - n + i and sees up to itself; a single one sees everything.
    mask = None if n == 1 else torch.ones(n, length, dtype=torch.bool, device=q.device).tril(diagonal=length - n)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.permute(2, 0, 1, 3).reshape(n, heads * head_dim)


class KVCache:
    """Keys and values of one layer, preallocated: [slots, KV, max_len, D] twice.

    A slot belongs to one sequence, and a new sequence in the slot overwrites it from position 0.
    """

    def __init__(self, config: LlamaConfig, slots: int, max_len: int, device: torch.device = CPU) -> None:
        shape = (slots, config.num_key_value_heads, max_len, config.head_dim)
        self.keys, self.values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def extend(self, slot: int, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v, [n, KV, D], from position `start`; return everything up to there, [KV, start + n, D] twice."""
        end = start + k.shape[0]
        self.keys[slot, :, start:end] = k.transpose(0, 1)
        self.values[slot, :, start:end] = v.transpose(0, 1)
        return self.keys[slot, :, :end], self.values[slot, :, :end]


class Tensors(Protocol):
    """Tensors by name: a checkpoint's, or others of the same names and shapes."""

    def __getitem__(self, name: str, /) -> Tensor: ...


class Weights:
    """A checkpoint's tensors by name, memory-mapped: only the pages that a stage's own pieces touch are ever read.

    Stages on one machine share these pages, tied embedding included; on a GPU each has copies of its own.
    """

    def __init__(self, path: Path, device: torch.device = CPU) -> None:
        self._file: Any = safe_open(path, framework="pt")
        self._device = device

    def __getitem__(self, name: str, /) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor.to(self._device)


class Embedding:
    """Token ids [T] -> hidden states [T, d]."""

    def __init__(self, weights: Tensors) -> None:
        self.weight = weights["embed_tokens.weight"]

    def __call__(self, x: Tensor, step: Step) -> Tensor:  # noqa: ARG002 - every piece has this signature
        return F.embedding(x, self.weight)


class DecoderLayer:
    """Hidden states [T, d] -> [T, d]; q/k/v and gate/up are fused, one matrix product each, as in vLLM."""

    def __init__(self, config: LlamaConfig, weights: Tensors, index: int, slots: int, max_len: int) -> None:
        self.config = config
        self.input_norm = weights[f"layers.{index}.input_layernorm.weight"]
        self.qkv_proj = weights[f"layers.{index}.self_attn.qkv_proj.weight"]
        self.o_proj = weights[f"layers.{index}.self_attn.o_proj.weight"]
        self.post_attention_norm = weights[f"layers.{index}.post_attention_layernorm.weight"]
        self.gate_up_proj = weights[f"layers.{index}.mlp.gate_up_proj.weight"]
        self.down_proj = weights[f"layers.{index}.mlp.down_proj.weight"]
        self.cache = KVCache(config, slots, max_len, self.qkv_proj.device)

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        x = x + self.attention(rms_norm(x, self.input_norm, self.config), step)
        return x + self.mlp(rms_norm(x, self.post_attention_norm, self.config))

    def attention(self, x: Tensor, step: Step) -> Tensor:
        c = self.config
        q, k, v = torch.split(F.linear(x, self.qkv_proj), [c.q_size, c.kv_size, c.kv_size], dim=-1)
        q = rotate(q.view(-1, c.num_attention_heads, c.head_dim), step)
        k = rotate(k.view(-1, c.num_key_value_heads, c.head_dim), step)
        v = v.view(-1, c.num_key_value_heads, c.head_dim)
        out = [attend(q[rows], *self.cache.extend(slot, start, k[rows], v[rows])) for slot, start, rows in step.spans()]
        return F.linear(torch.cat(out), self.o_proj)

    def mlp(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, self.gate_up_proj).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down_proj)


class LMHead:
    """Hidden states [T, d] -> the greedy next token of every sequence, [S] int64.

    Sampling here keeps the logits (vocab_size floats a sequence) inside the last stage.
    """

    def __init__(self, config: LlamaConfig, weights: Tensors) -> None:
        self.config = config
        self.norm = weights["norm.weight"]
        self.weight = weights["embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        return self.logits(x, step).argmax(dim=-1)

    def logits(self, x: Tensor, step: Step) -> Tensor:
        """[S, vocab_size], of the last token of every span."""
        last = torch.tensor(step.batch.lengths).cumsum(0) - 1
        return F.linear(rms_norm(x[last], self.norm, self.config), self.weight)


def rms_norm(x: Tensor, weight: Tensor, config: LlamaConfig) -> Tensor:
    return F.rms_norm(x, (config.hidden_size,), weight, config.rms_norm_eps)


def load_pieces(config: LlamaConfig, weights: Tensors, pieces: range, slots: int, max_len: int) -> list[Piece]:
    """The model's pieces number `pieces`: 0 is the embedding, 1..N the decoder layers, N + 1 the head."""

    def load(piece: int) -> Piece:
        if piece == 0:
            return Embedding(weights)
        if piece == config.num_pieces - 1:
            return LMHead(config, weights)
        return DecoderLayer(config, weights, piece - 1, slots, max_len)

    return [load(piece) for piece in pieces]
