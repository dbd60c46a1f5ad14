"""The KV cache of one sequence and some layers as a value that travels: cut out of one cache, copied into another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.llm.config import LlamaConfig
from examples.llm.model import KVCache


@dataclass(frozen=True)
class KVBlock:
    """Keys and values of the first n tokens of one sequence, for neighbouring layers."""

    first: int
    """number of the first of these layers"""
    kv: Tensor
    """[layers, 2, KV, n, D] float32: of each layer the keys, rotated already, and the values"""
    computed_s: float
    """when these layers had been computed, before the block was made; of time.perf_counter, which on Linux is one
    clock for all processes of a machine"""

    @property
    def tokens(self) -> int:
        return self.kv.shape[3]


def kv_bytes(config: LlamaConfig, tokens: int) -> int:
    """What all layers keep of so many tokens, in float32."""
    return config.num_hidden_layers * 2 * config.kv_size * 4 * tokens


def read_block(caches: Sequence[KVCache], first: int, slot: int, tokens: int, computed_s: float) -> KVBlock:
    """The first `tokens` positions of a slot, copied: the caches may be overwritten as soon as this returns.

    caches: of the layers from number `first` on.
    """
    _, kv_heads, _, head_dim = caches[0].keys.shape
    kv = torch.empty(len(caches), 2, kv_heads, tokens, head_dim, device=caches[0].keys.device)
    for of, (keys, values) in zip(caches, kv, strict=True):
        keys.copy_(of.keys[slot, :, :tokens])
        values.copy_(of.values[slot, :, :tokens])
    return KVBlock(first, kv, computed_s)


def write_block(caches: Sequence[KVCache], slot: int, block: KVBlock) -> None:
    """Copy a block into a slot, from position 0. caches: of the block's layers.

    Raises ValueError for a slot that there is not, and for a block of another shape than the caches have room for.
    """
    slots, kv_heads, max_len, head_dim = caches[0].keys.shape
    layers, two, found_heads, tokens, found_dim = block.kv.shape
    if not 0 <= slot < slots:
        raise ValueError(f"slot {slot}; expected one of the {slots} slots of this cache, 0 to {slots - 1}")
    expected = len(caches), 2, kv_heads, head_dim
    if (layers, two, found_heads, found_dim) != expected or tokens > max_len:
        raise ValueError(
            f"a block of shape {tuple(block.kv.shape)}; expected [{len(caches)}, 2, {kv_heads}, at most {max_len}, "
            f"{head_dim}]: layers, keys and values, heads, tokens, head_dim"
        )
    for of, (keys, values) in zip(caches, block.kv, strict=True):
        of.keys[slot, :, :tokens] = keys
        of.values[slot, :, :tokens] = values
