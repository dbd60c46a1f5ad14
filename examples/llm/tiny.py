"""A tiny Llama with seeded random weights and a byte-level vocabulary: for machines without the model's weights.

Its text means nothing, but it has everything that cuts and caches can get wrong: grouped-query attention, an untied
head, several layers, special tokens.
"""

import dataclasses
import json
import math
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from examples.llm.checkpoint import Checkpoint, cached
from examples.llm.config import LlamaConfig
from examples.llm.tokenizer import bpe_tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PRINTABLE_ASCII = {chr(code) for code in range(33, 127)}
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())  # 256 characters, one stands for each byte
PRINTABLE = torch.tensor([[token in PRINTABLE_ASCII] for token in SPECIAL + BYTES])  # [vocab_size, 1]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG = LlamaConfig(
    vocab_size=len(SPECIAL) + len(BYTES),
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=1024,
    rope_theta=10_000.0,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    eos_token_ids=(SPECIAL.index("<|im_end|>"),),
)


def open_tiny(cache: Path, config: LlamaConfig = CONFIG, seed: int = 0) -> Checkpoint:
    """The random checkpoint of this configuration and seed, made first if the cache does not hold it."""
    text = json.dumps(dataclasses.asdict(config), sort_keys=True)
    name = f"tiny-{sha256(f'{text} {seed}'.encode()).hexdigest()[:8]}"
    return cached(cache, name, {"config": text, "seed": seed}, lambda made: make(made, config, seed))


def make(made: Checkpoint, config: LlamaConfig, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        # Variance 1 / columns keeps activations, and so the logits' differences, of order 1 through the layers.
        return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)

    hidden, ffn = config.hidden_size, config.intermediate_size
    weights = {"embed_tokens.weight": matrix(config.vocab_size, hidden), "norm.weight": torch.ones(hidden)}
    if not config.tie_word_embeddings:
        # Bytes that are not printable keep a logit of 0, below the best of the others: nothing upsets the terminal.
        weights["lm_head.weight"] = matrix(config.vocab_size, hidden) * PRINTABLE
    for index in range(config.num_hidden_layers):
        layer = f"layers.{index}"
        weights |= {
            f"{layer}.input_layernorm.weight": torch.ones(hidden),
            f"{layer}.self_attn.qkv_proj.weight": matrix(config.q_size + 2 * config.kv_size, hidden),
            f"{layer}.self_attn.o_proj.weight": matrix(hidden, config.q_size),
            f"{layer}.post_attention_layernorm.weight": torch.ones(hidden),
            f"{layer}.mlp.gate_up_proj.weight": matrix(2 * ffn, hidden),
            f"{layer}.mlp.down_proj.weight": matrix(hidden, ffn),
        }
    save_file(weights, made.weights_path)
    tokens = SPECIAL + BYTES
    bpe_tokenizer(tokens, merges=[], special=[token in SPECIAL for token in tokens]).save(str(made.tokenizer_path))
    made.chat_template_path.write_text(CHATML)
    config.save(made.config_path)
