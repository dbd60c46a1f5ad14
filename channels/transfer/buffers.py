"""ReceiveBuffers: memory for tensors that come again and again with one shape and dtype.

A buffer is given out as a tensor over it, and again when nobody holds any tensor over it any more. So a value that is
kept never changes, and memory is only asked for while more values are kept than ever before. How many tensors hold a
storage is asked of torch in the way of its own CUDA graph trees (torch/_inductor/cudagraph_trees.py); a torch without
that gets new memory every time, from its caching allocator. (Holders are counted on the host: who lets a stream of its
own read a tensor must hold it until that has ended, as with any memory that is used again.)
"""

from __future__ import annotations

import importlib
from typing import Any

from channels.communicators.tensors import TensorSpec

__all__ = ["ReceiveBuffers"]


class ReceiveBuffers:
    """Torch tensors of one spec on one device. `ahead` of them are there at once, for what is received early."""

    def __init__(self, spec: TensorSpec, device: str, ahead: int = 2) -> None:
        torch: Any = importlib.import_module("torch")
        self._spec = spec
        self._made = {"dtype": getattr(torch, spec.dtype), "device": device}
        self._torch = torch
        self._count = getattr(torch._C, "_storage_Use_Count", None)
        self._buffers: list[tuple[Any, Any]] = []
        #: Holders of the storage of a buffer that nobody has.
        self._free = 0
        for _ in range(ahead):
            self._add()

    def __len__(self) -> int:
        return len(self._buffers)

    def take(self) -> Any:
        """A tensor that nobody else holds; its elements are whatever was there."""
        if self._count is None:
            return self._torch.empty(self._spec.shape, **self._made)
        for buffer, storage in self._buffers:
            if self._count(storage._cdata) == self._free:
                return buffer.detach()  # a tensor of its own: what is done to it in place leaves no history here
        return self._add().detach()

    def _add(self) -> Any:
        buffer = self._torch.empty(self._spec.shape, **self._made)
        storage = buffer.untyped_storage()
        self._buffers.append((buffer, storage))
        if self._count is not None:
            self._free = self._count(storage._cdata)
        return buffer
