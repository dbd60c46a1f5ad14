"""Collectives made of sends and receives between every two ranks: everybody talks to everybody, nobody relays.

    allreduce      each rank reduces one part of the tensor, which all others send it, and sends them the result
    reducescatter  each rank reduces its block, which all others send it
    allgather      each rank sends its block to all others
    broadcast      the root gives each other rank a part, and these send their parts to each other

In an allreduce a rank sends and receives twice the tensor but for its own part, as in the ring algorithm, and that in 2
steps instead of 2 (n - 1). Reductions are made in the order of the ranks, by the loops that shared memory uses
(csrc/collective_kernels.h). Tensors are cut into tiles: one is on its way while another one is reduced or passed on.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from channels import _ring
from channels.communicators.gloo.links import Links, Transfer
from channels.communicators.memory import copy

if TYPE_CHECKING:
    import torch

__all__ = ["STALL_S", "TILE", "Direct", "reduce"]

#: Seconds that a tile may take. All ranks have come by then, so whoever moves nothing for so long has stopped.
STALL_S = 30.0
#: Bytes of a tile.
TILE = 4 << 20
#: Parts begin at multiples of this: a cache line, and whole elements of every dtype.
_ALIGNED = 64
#: Tags: of what is to be reduced, and of what is not. Both are under way at the same time.
_TO_REDUCE, _TO_KEEP = 1, 2

_Range = tuple[int, int]


@dataclass(frozen=True)
class Direct:
    """The data of operations that the ranks have agreed on. Tensors are contiguous and of bytes (torch.uint8).

    Every method raises Late or Lost, and then nobody knows what the others have got.
    """

    links: Links
    rank: int
    size: int

    def send(self, source: torch.Tensor, peer: int) -> None:
        self._finish([self._send(source, tile, peer) for tile in _tiles(source.numel())])

    def recv(self, into: torch.Tensor, peer: int) -> None:
        self._finish([self._receive(into, tile, peer) for tile in _tiles(into.numel())])

    def broadcast(self, tensor: torch.Tensor, root: int) -> None:
        if self.size == 1:
            return
        others = [rank for rank in range(self.size) if rank != root]
        cut = [dict(zip(others, _parts(tile, len(others)), strict=True)) for tile in _tiles(tensor.numel())]
        if self.rank == root:
            self._finish([self._send(tensor, parts[rank], rank) for parts in cut for rank in others])
            return
        fellows = [rank for rank in others if rank != self.rank]
        ours = [self._receive(tensor, parts[self.rank], root) for parts in cut]
        rest = [self._receive(tensor, parts[rank], rank) for parts in cut for rank in fellows]
        for part, parts in zip(ours, cut, strict=True):
            self._finish([part])
            rest += [self._send(tensor, parts[self.rank], rank) for rank in fellows]
        self._finish(rest)

    def allgather(self, source: torch.Tensor, into: torch.Tensor) -> None:
        block = source.numel()
        ours = into[self.rank * block : (self.rank + 1) * block]
        if ours.data_ptr() != source.data_ptr():
            copy(ours, source)
        begun = []
        for start, end in _tiles(block):
            for peer in self._others:
                begun.append(self._receive(into, (peer * block + start, peer * block + end), peer))
                begun.append(self._send(source, (start, end), peer))
        self._finish(begun)

    def reducescatter(self, dtype: int, op: int, source: torch.Tensor, into: torch.Tensor) -> None:
        block = into.numel()
        tiles = _tiles(block)
        begun = [self._to_reduce(source, self._blocks(block, tiles[0]))]
        for tile, following in zip(tiles, [*tiles[1:], None], strict=True):
            if following is not None:
                begun.append(self._to_reduce(source, self._blocks(block, following)))
            received, transfers = begun.pop(0)
            self._finish(transfers)
            mine = self._blocks(block, tile)[self.rank]
            self._reduce(dtype, op, source[slice(*mine)], received, into[slice(*tile)])

    def allreduce(self, dtype: int, op: int, source: torch.Tensor, into: torch.Tensor) -> None:
        cut = [_parts(tile, self.size) for tile in _tiles(source.numel())]
        begun = [self._to_reduce(source, cut[0])]
        returning: list[Transfer | None] = []
        for parts, following in zip(cut, [*cut[1:], None], strict=True):
            if following is not None:
                begun.append(self._to_reduce(source, following))
            received, transfers = begun.pop(0)
            self._finish(transfers)
            mine = slice(*parts[self.rank])
            self._reduce(dtype, op, source[mine], received, into[mine])
            self._finish(returning)
            # If source and into are the same: whoever sends us a part of the result had our summands of it before.
            returning = [self._receive(into, parts[peer], peer) for peer in self._others]
            returning += [self._send(into, parts[self.rank], peer) for peer in self._others]
        self._finish(returning)

    # ---- inside ----

    @property
    def _others(self) -> list[int]:
        """Beginning behind this rank, so that not everybody sends to the same one first."""
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def _blocks(self, block: int, tile: _Range) -> list[_Range]:
        """The tile of each rank's block."""
        return [(rank * block + tile[0], rank * block + tile[1]) for rank in range(self.size)]

    def _to_reduce(
        self, source: torch.Tensor, parts: Sequence[_Range]
    ) -> tuple[dict[int, torch.Tensor], list[Transfer]]:
        """Begin to send everybody's part of the source, and to receive theirs of ours."""
        start, end = parts[self.rank]
        received = {peer: _empty(end - start) for peer in self._others}
        begun = [self.links.receive(into, peer, _TO_REDUCE) for peer, into in received.items() if end > start]
        for peer in self._others:
            start, end = parts[peer]
            if end > start:
                begun.append(self.links.send(source[start:end], peer, _TO_REDUCE))
        return received, begun

    def _reduce(
        self, dtype: int, op: int, ours: torch.Tensor, received: dict[int, torch.Tensor], into: torch.Tensor
    ) -> None:
        reduce(dtype, op, [received.get(rank, ours) for rank in range(self.size)], into)

    def _receive(self, into: torch.Tensor, part: _Range, peer: int) -> Transfer | None:
        return self.links.receive(into[slice(*part)], peer, _TO_KEEP) if part[1] > part[0] else None

    def _send(self, source: torch.Tensor, part: _Range, peer: int) -> Transfer | None:
        return self.links.send(source[slice(*part)], peer, _TO_KEEP) if part[1] > part[0] else None

    def _finish(self, transfers: Sequence[Transfer | None]) -> None:
        for transfer in transfers:
            if transfer is not None:
                self.links.finish([transfer], time.monotonic() + STALL_S)


def reduce(dtype: int, op: int, sources: Sequence[torch.Tensor], into: torch.Tensor) -> None:
    """Element by element, in the order of the sources; `into` may be one of them."""
    if into.numel():
        ranges = tuple((source.data_ptr(), source.numel(), source) for source in sources)
        _ring.reduce(dtype, op, ranges, (into.data_ptr(), into.numel(), into))


def _tiles(size: int) -> list[_Range]:
    """Of no bytes one that is empty."""
    return [(start, min(start + TILE, size)) for start in range(0, max(size, 1), TILE)]


def _parts(tile: _Range, number: int) -> list[_Range]:
    """The tile cut into so many parts; the last ones may be empty."""
    start, end = tile
    step = -(-(end - start) // (number * _ALIGNED)) * _ALIGNED
    return [(min(start + i * step, end), min(start + (i + 1) * step, end)) for i in range(number)]


def _empty(size: int) -> torch.Tensor:
    library: Any = importlib.import_module("torch")
    tensor: torch.Tensor = library.empty(size, dtype=library.uint8)
    return tensor
