"""The numbers that describe a Llama checkpoint."""

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape and constants of a Llama-type decoder; fields are named as in a Hugging Face `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"grouped-query attention needs the {self.num_attention_heads} query heads to be a multiple of the "
                f"{self.num_key_value_heads} key/value heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"RoPE rotates pairs of dimensions, so head_dim must be even, found {self.head_dim}")

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def num_pieces(self) -> int:
        """What the model can be cut into: the embedding, every layer, and final norm + lm_head."""
        return self.num_hidden_layers + 2

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "LlamaConfig":
        fields = json.loads(path.read_text())
        return cls(**{**fields, "eos_token_ids": tuple(fields["eos_token_ids"])})
