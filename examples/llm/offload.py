"""A stage whose layers do not fit on its device: they are kept in host memory and copied in before they compute.

A budget of K layers on the device is spent so: K - 2 layers stay, and the others take turns in two buffers. While one
of them computes, the next is copied into the other buffer. (With all K as a ring in which every layer takes its turn,
each step would copy every layer: what has just been used is what a cycle needs last.) The layers that stay are spread
evenly between the others, so that a copy has the time of several layers.

The copying goes round without end: after the last layer comes the first of the next step, so what the stage does or
waits for in between hides copies, too.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.llm.config import LlamaConfig
from examples.llm.copies import Copied, Copies, CudaCopies, HostCopies, LayerWeights
from examples.llm.model import Batch, DecoderLayer, Piece, Step, Tensors, Weights, load_pieces
from examples.llm.stage import Stage

BUFFERS = 2
NAMES = (
    "input_layernorm.weight",
    "self_attn.qkv_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_up_proj.weight",
    "mlp.down_proj.weight",
)


def streamed_layers(layers: int, budget: int) -> list[int]:
    """Which of `layers` layers take turns in the buffers if `budget` of them fit: spread evenly, none if all fit.

    >>> streamed_layers(6, 5), streamed_layers(6, 2), streamed_layers(6, 6)
    ([0, 2, 4], [0, 1, 2, 3, 4, 5], [])

    Raises ValueError for a budget that is smaller than the buffers.
    """
    if budget < min(BUFFERS, layers):
        raise ValueError(
            f"a budget of {budget} layers; expected {BUFFERS} or more: one computes while another is copied"
        )
    if budget >= layers:
        return []
    count = layers - (budget - BUFFERS)
    return [number * layers // count for number in range(count)]


def layer_weights(weights: Tensors, index: int) -> LayerWeights:
    return {name: weights[f"layers.{index}.{name}"] for name in NAMES}


def nbytes(weights: LayerWeights) -> int:
    return sum(tensor.nbytes for tensor in weights.values())


class OnDevice:
    """A checkpoint's tensors, each copied to the device when it is asked for first."""

    def __init__(self, weights: Tensors, device: torch.device) -> None:
        self._weights, self._device = weights, device
        self._there: dict[str, Tensor] = {}

    def __getitem__(self, name: str, /) -> Tensor:
        if name not in self._there:
            self._there[name] = self._weights[name].to(self._device, copy=True)
        return self._there[name]


class InBuffer:
    """What is in a buffer, under the names that a checkpoint has for the weights of this layer."""

    def __init__(self, buffer: LayerWeights, index: int) -> None:
        self._tensors = {f"layers.{index}.{name}": tensor for name, tensor in buffer.items()}

    def __getitem__(self, name: str, /) -> Tensor:
        return self._tensors[name]


class Turns:
    """Which streamed layer is in which buffer: they take turns, round and round."""

    def __init__(self, copies: Copies, layers: int) -> None:
        self._copies, self._layers = copies, layers
        self._next, self._buffer = 0, 0
        self._begin_all()

    def enter(self, layer: int) -> int:
        """The buffer that has this layer's weights for what is called until `leave`."""
        if layer != self._next:  # a step that raised did not come to all of its layers
            for buffer in range(BUFFERS):
                self._copies.wait(buffer)
            self._next = layer
            self._begin_all()
        self._copies.wait(self._buffer)
        return self._buffer

    def leave(self) -> None:
        """The layer that entered has been called: its buffer is for the next but one."""
        self._copies.begin((self._next + BUFFERS) % self._layers, self._buffer)
        self._next = (self._next + 1) % self._layers
        self._buffer = (self._buffer + 1) % BUFFERS

    def _begin_all(self) -> None:
        for ahead in range(BUFFERS):
            self._copies.begin((self._next + ahead) % self._layers, (self._buffer + ahead) % BUFFERS)


class StreamedLayer:
    """A decoder layer that computes in the buffer where its weights are; its KV cache stays where it is.

    `turn`: its place among the streamed layers; `index`: its number in the model.
    """

    def __init__(
        self,
        config: LlamaConfig,
        buffers: Sequence[LayerWeights],
        turns: Turns,
        turn: int,
        index: int,
        cache: list[int],
    ) -> None:
        self._turns, self._turn = turns, turn
        self.in_buffers = [DecoderLayer(config, InBuffer(buffer, index), index, *cache) for buffer in buffers]
        for layer in self.in_buffers:
            layer.cache = self.in_buffers[0].cache

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        buffer = self._turns.enter(self._turn)
        try:
            return self.in_buffers[buffer](x, step)
        finally:
            self._turns.leave()


@dataclass(frozen=True)
class StepRecord:
    """One step of a stage."""

    is_prefill: bool
    seconds: float
    copied: Copied
    """what its layers waited for: begun in this step or before it"""


class OffloadedStage(Stage):
    """A stage that holds at most `budget` of its layers on `device`; the others are streamed.

    Values come and go in CPU memory, as between all stages. Without `overlap` a layer is copied when it is needed, with
    it while others compute. Raises ValueError for a budget that is too small for the two buffers.
    """

    def __init__(
        self,
        checkpoint: Path,
        first: int,
        last: int,
        *,
        budget: int,
        overlap: bool,
        device: str = "cpu",
        slots: int,
        max_len: int,
        threads: int,
    ) -> None:
        self.device = torch.device(device)
        self._budget, self._overlap = budget, overlap
        self._copies: Copies | None = None
        self._steps: list[StepRecord] = []
        with self._on_device():
            super().__init__(checkpoint, first, last, slots=slots, max_len=max_len, threads=threads)

    def load(self, weights: Weights, pieces: range, slots: int, max_len: int) -> list[Piece]:
        there = OnDevice(weights, self.device)
        layers = [piece for piece in pieces if 0 < piece < self.config.num_pieces - 1]
        streamed = [layers[number] for number in streamed_layers(len(layers), self._budget)]
        loaded = {
            piece: load_pieces(self.config, there, range(piece, piece + 1), slots, max_len)[0]
            for piece in pieces
            if piece not in streamed
        }
        if streamed:
            sources = [layer_weights(weights, piece - 1) for piece in streamed]
            buffers = [
                {name: torch.empty_like(tensor, device=self.device) for name, tensor in sources[0].items()}
                for _ in range(BUFFERS)
            ]
            self._copies = self._copies_of(sources, buffers)
            turns = Turns(self._copies, len(streamed))
            for turn, piece in enumerate(streamed):
                loaded[piece] = StreamedLayer(self.config, buffers, turns, turn, piece - 1, [slots, max_len])
        return [loaded[piece] for piece in pieces]

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """As `Stage.forward`."""
        before = self.copied()
        started = time.perf_counter()
        with self._on_device():
            out = super().forward(x.to(self.device), batch).cpu()
        seconds = time.perf_counter() - started
        self._steps.append(StepRecord(not any(batch.starts), seconds, self.copied() - before))
        return out

    def take_steps(self) -> list[StepRecord]:
        """Of every `forward` since the last call of this method."""
        steps, self._steps = self._steps, []
        return steps

    def copied(self) -> Copied:
        return self._copies.copied() if self._copies else Copied()

    def held_layers_bytes(self) -> int:
        """Of the weights of layers that are on the device, in buffers or for good."""
        layers = [piece for piece in self.pieces if isinstance(piece, (DecoderLayer, StreamedLayer))]
        return _bytes(tensor for layer in layers for tensor in _weights_of(layer))

    def held_bytes(self) -> int:
        """Of all weights that are on the device."""
        return _bytes(tensor for piece in self.pieces for tensor in _weights_of(piece))

    def _copies_of(self, sources: Sequence[LayerWeights], buffers: Sequence[LayerWeights]) -> Copies:
        if self.device.type == "cuda":
            return CudaCopies(sources, buffers, self.device, overlap=self._overlap)
        return HostCopies(sources, buffers, overlap=self._overlap)

    def _on_device(self) -> AbstractContextManager[object]:
        """What the model's code makes is made on the device. On the CPU it is anyway, and the mode would cost time."""
        return nullcontext() if self.device.type == "cpu" else self.device


def _weights_of(piece: Piece) -> Iterator[Tensor]:
    for holder in piece.in_buffers if isinstance(piece, StreamedLayer) else [piece]:
        yield from (value for value in vars(holder).values() if isinstance(value, Tensor))


def _bytes(tensors: Iterable[Tensor]) -> int:
    """What these tensors keep in memory, each piece of memory counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
