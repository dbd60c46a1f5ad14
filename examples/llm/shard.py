"""One rank's share of every layer: what one actor of the tensor-parallel model holds.

The cut is that of Megatron-LM (Shoeybi et al. 2019, arXiv:1909.08053): attention by whole groups of heads (a key/value
head and the query heads that read it), the MLP by its columns, the lm_head by the vocabulary. A share of a layer is
then itself a layer, of fewer heads and a narrower MLP, so the code is that of `model`, given slices of the weights; its
KV cache holds the rank's own heads alone. What it gives is a summand: the layer's output is the sum over all ranks.
Every rank has the hidden states and applies the norms itself.

The sum does not ask that shares be equal, so neither does the cut: 3 groups of heads on 2 ranks are 2 and 1.
"""

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows it by
from torch import Tensor

from examples.llm.accelerator import device_here
from examples.llm.checkpoint import Checkpoint
from examples.llm.config import LlamaConfig
from examples.llm.model import CPU, Batch, DecoderLayer, Embedding, LMHead, RotaryTable, Step, Weights, rms_norm


@dataclass(frozen=True)
class Share:
    """What one rank has of a model with this configuration."""

    whole: LlamaConfig
    kv_heads: range
    mlp_columns: range
    vocabulary: range

    @property
    def config(self) -> LlamaConfig:
        """Of its layers. The hidden size is that of the whole model: a rank sees all of the hidden state."""
        return replace(
            self.whole,
            num_key_value_heads=len(self.kv_heads),
            num_attention_heads=len(self.kv_heads) * (self.whole.num_attention_heads // self.whole.num_key_value_heads),
            intermediate_size=len(self.mlp_columns),
        )


def shares(config: LlamaConfig, ranks: int) -> list[Share]:
    """The shares of `ranks` ranks, in order; they differ by at most one group of heads and one column.

    Raises ValueError unless 1 <= ranks <= num_key_value_heads. (More ranks would have to hold the same key/value head
    each for a part of its query heads.)
    """
    if not 1 <= ranks <= config.num_key_value_heads:
        raise ValueError(
            f"{ranks} ranks: this model has {config.num_key_value_heads} key/value heads, and a rank holds at least "
            f"one; expected {' or '.join(map(str, range(1, config.num_key_value_heads + 1)))}"
        )
    # An allgather puts together what has one shape on all ranks, so only the last parts of the vocabulary are shorter.
    rows = -(-config.vocab_size // ranks)
    vocabulary = [
        range(min(rank * rows, config.vocab_size), min((rank + 1) * rows, config.vocab_size)) for rank in range(ranks)
    ]
    return [
        Share(config, *parts)
        for parts in zip(
            evenly(config.num_key_value_heads, ranks), evenly(config.intermediate_size, ranks), vocabulary, strict=True
        )
    ]


def evenly(total: int, parts: int) -> list[range]:
    """0 to `total` in `parts` contiguous ranges, the longer ones first."""
    sizes = [total // parts + (part < total % parts) for part in range(parts)]
    return [range(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0))]


class ShardWeights(Weights):
    """A checkpoint's tensors, of the layers' matrices the rank's share.

    The slices of a matrix lie scattered over the mapped file, so they are copied out of it, once: a rank has its own
    memory for them, where stages of a pipeline share the pages.
    """

    def __init__(self, path: Path, share: Share, device: torch.device = CPU) -> None:
        super().__init__(path, device)
        self.share = share

    def __getitem__(self, name: str, /) -> Tensor:
        tensor = super().__getitem__(name)
        whole, share = self.share.whole, self.share
        group = whole.num_attention_heads // whole.num_key_value_heads
        queries = scaled(share.kv_heads, group * whole.head_dim)
        match name.split(".")[-2]:
            case "qkv_proj":  # [q_size + 2 * kv_size, d]
                q, k, v = torch.split(tensor, [whole.q_size, whole.kv_size, whole.kv_size])
                heads = scaled(share.kv_heads, whole.head_dim)
                return torch.cat((q[queries], k[heads], v[heads]))
            case "o_proj":  # [d, q_size]
                return tensor[:, queries].contiguous()
            case "gate_up_proj":  # [2 * intermediate_size, d]
                gate, up = tensor.chunk(2)
                columns = scaled(share.mlp_columns)
                return torch.cat((gate[columns], up[columns]))
            case "down_proj":  # [d, intermediate_size]
                return tensor[:, scaled(share.mlp_columns)].contiguous()
            case _:
                return tensor


def scaled(of: range, by: int = 1) -> slice:
    return slice(of.start * by, of.stop * by)


class Shard:
    """Rank `rank` of `ranks`: its share of a checkpoint's layers and lm_head, and the KV cache of its heads.

    `pieces`: of which pieces of the model, numbered as by `load_pieces`; all of them, or those of a pipeline stage.
    Calls for a piece that it does not have raise TypeError or, for a layer, KeyError.

    Methods take and give values and change nothing but the KV cache, so the graph shows all that happens. Shapes: T
    tokens, S sequences, d hidden_size, V' the rank's rows of the vocabulary; float32, token ids int64.
    """

    def __init__(
        self,
        checkpoint: Path,
        rank: int,
        ranks: int,
        *,
        slots: int,
        max_len: int,
        threads: int,
        pieces: range | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        path = Checkpoint(checkpoint).weights_path
        self.config = Checkpoint(checkpoint).config
        self.rank = rank
        share = shares(self.config, ranks)[rank]
        self.device = device_here()
        weights = ShardWeights(path, share, self.device)
        last = self.config.num_pieces - 1
        self.pieces = range(last + 1) if pieces is None else pieces
        self.embedding = Embedding(weights) if 0 in self.pieces else None
        self.layers = {
            piece - 1: DecoderLayer(share.config, weights, piece - 1, slots, max_len)
            for piece in self.pieces
            if 0 < piece < last
        }
        self.head = self._head(weights, ranks, share) if last in self.pieces else None
        self.rotary = RotaryTable(self.config, max_len, self.device)
        self._warm_up()

    @torch.inference_mode()
    def embed(self, tokens: Tensor, step: Step) -> Tensor:
        """[T] -> [T, d], the same on every rank."""
        if self.embedding is None:
            raise TypeError(f"this rank has no embedding; its pieces are {self.pieces}, expected piece 0 among them")
        return self.embedding(tokens.to(self.device), step)

    @torch.inference_mode()
    def step(self, batch: Batch) -> Step:
        """What the layers need to know of a batch; it stays on this rank."""
        return self.rotary.step(batch)

    @torch.inference_mode()
    def attention(self, layer: int, x: Tensor, step: Step) -> Tensor:
        """[T, d] -> [T, d]: its heads' summand of the hidden states after attention."""
        of = self.layers[layer]
        return self._summand(x, of.attention(rms_norm(x, of.input_norm, self.config), step))

    @torch.inference_mode()
    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """[T, d] -> [T, d]: its columns' summand of the hidden states after the layer."""
        of = self.layers[layer]
        return self._summand(x, of.mlp(rms_norm(x, of.post_attention_norm, self.config)))

    @torch.inference_mode()
    def logits(self, x: Tensor, step: Step) -> Tensor:
        """[T, d] -> [V', S], of the last token of every span; vocabulary first, since an allgather joins along it."""
        if self.head is None:
            raise TypeError(f"this rank has no lm_head; its pieces are {self.pieces}, expected the last one among them")
        return self.head.logits(x, step).T.contiguous()

    @torch.inference_mode()
    def join_logits(self, gathered: Tensor) -> Tensor:
        """What the allgather left, [ranks * V', S] -> [S, vocab_size]."""
        return gathered[: self.config.vocab_size].T.contiguous()

    def _summand(self, x: Tensor, part: Tensor) -> Tensor:
        """Rank 0 brings the residual into the sum, so that the sum itself is the next hidden state of every rank.

        Adding it on each rank after the sum would be one more call per rank and sum, or hidden states that live in the
        actors instead of in the graph.
        """
        return x + part if self.rank == 0 else part

    def _head(self, weights: ShardWeights, ranks: int, share: Share) -> LMHead:
        """The final norm, and this rank's rows of the lm_head."""
        head = LMHead(self.config, weights)
        head.weight = head.weight[scaled(share.vocabulary)]
        missing = len(shares(self.config, ranks)[0].vocabulary) - len(share.vocabulary)
        if missing:  # rows of zeros; `join_logits` cuts their logits off
            head.weight = F.pad(head.weight, (0, 0, 0, missing))
        return head

    def _warm_up(self) -> None:
        """The first step maps pages and warms PyTorch's kernels up; it belongs to loading."""
        step = self.step(Batch(slots=(0,), starts=(0,), lengths=(1,)))
        x = torch.zeros(1, self.config.hidden_size, device=self.device)
        if self.embedding is not None:
            x = self.embed(torch.zeros(1, dtype=torch.long), step)
        for layer in self.layers:
            self.attention(layer, x, step)
            self.mlp(layer, x)
        if self.head is not None:
            self.logits(x, step)
