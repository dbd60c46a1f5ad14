"""Tensors on a device, and the allocator behind them.

The memory is this process's own. An allocator reuses a freed block for the next tensor of its size on the same stream,
at once, as torch's does; what was freed is overwritten, so whoever still uses it has wrong numbers. Only
`record_stream` makes it wait for another stream. Beside that it says who freed what a kernel still uses: `violations`.

Computation happens at once, in the calling thread, after what its current stream was given: as much as if it were in
the stream. To put something slow into a stream: `Stream.enqueue`.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tests.fakes_nccl.faults import violations
from tests.fakes_nccl.streams import Event, Stream, current_stream, index_of

__all__ = ["CudaTensor", "block_at", "cuda", "in_use", "moved", "on_device", "shutdown"]

_FREED = 0xA5
_ROUND = 512


@dataclass(eq=False)
class Block:
    """Memory of a tensor."""

    address: int
    size: int
    device: int
    #: On which it was allocated.
    stream: Stream
    #: What `record_stream` has named.
    recorded: set[Stream] = field(default_factory=set)
    free: bool = False


class _Allocator:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._maps: list[mmap.mmap] = []
        self.blocks: list[Block] = []
        self._free: dict[tuple[int, Stream], list[Block]] = {}
        self._waiting: list[tuple[Block, list[Event]]] = []
        #: (first byte, end, stream, what) of kernels that are under way.
        self.kernels: list[tuple[int, int, Stream, str]] = []

    def allocate(self, size: int, device: int) -> Block:
        size = -(-max(size, 1) // _ROUND) * _ROUND
        stream = current_stream(device)
        with self._lock:
            self._collect()
            if found := self._free.get((size, stream)):
                block = found.pop()  # the last one that was freed: what torch does when it fits
                block.free = False
                return block
            memory = mmap.mmap(-1, size)
            self._maps.append(memory)
            block = Block(ctypes.addressof(ctypes.c_char.from_buffer(memory)), size, device, stream)
            self.blocks.append(block)
            return block

    def release(self, block: Block) -> None:
        with self._lock:
            for first, end, stream, what in self.kernels:
                overlaps = first < block.address + block.size and block.address < end
                if overlaps and stream is not block.stream and stream not in block.recorded:
                    violations.append(f"memory was freed while {what} used it; record_stream was not called")
            # A stream that was recorded may still use it: until then nobody gets it.
            self._waiting.append((block, [stream.record_event() for stream in block.recorded]))
            block.recorded = set()
            self._collect()

    def _collect(self) -> None:
        waiting = []
        for block, events in self._waiting:
            if all(event.token is not None and event.token.is_set() for event in events):
                ctypes.memset(block.address, _FREED, block.size)
                block.free = True
                self._free.setdefault((block.size, block.stream), []).append(block)
            else:
                waiting.append((block, events))
        self._waiting = waiting


_allocator = _Allocator()


class _Holder:
    """What numpy, and through it torch, keeps alive as long as there is a tensor."""

    def __init__(self, block: Block, size: int) -> None:
        self.__array_interface__ = {"version": 3, "data": (block.address, False), "shape": (size,), "typestr": "|u1"}
        weakref.finalize(self, _allocator.release, block).atexit = False


class CudaTensor(torch.Tensor):
    """A tensor that says that it is on a device."""

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", _device_of(self))

    def record_stream(self, stream: Stream) -> None:
        if (block := _block_of(self)) is not None:
            block.recorded.add(stream)

    def cpu(self, *_: Any) -> torch.Tensor:  # type: ignore[override]
        current_stream(_device_of(self)).synchronize()
        return _plain(self).clone()

    def __reduce_ex__(self, protocol: int) -> Any:
        return cuda, (self.cpu(), _device_of(self))  # as torch's: through the host, back to the same device

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def item(self) -> Any:
        return self.cpu().item()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = []
        for one in [*args, *(kwargs or {}).values()]:
            given += [part for part in (one if type(one) in (list, tuple) else (one,)) if isinstance(part, CudaTensor)]
        with torch._C.DisableTorchFunctionSubclass():
            name = getattr(func, "__name__", "")
            if name in _LOOKS or not given or (name == "contiguous" and given[0].is_contiguous()):
                result = func(*args, **(kwargs or {}))
                if not given or not isinstance(result, torch.Tensor) or _block_of(result) is not None:
                    return _as_cuda(result, None)
                # It has copied: by indices in a tensor, or because no view has that form.
            device = _device_of(given[0])
            current_stream(device).synchronize()
            return _as_cuda(func(*args, **(kwargs or {})), device)


#: What only looks at a tensor's form: the stream is not waited for.
_LOOKS = frozenset(
    (
        *("__get__", "__getitem__", "as_strided", "data_ptr", "detach", "dim", "element_size", "is_contiguous"),
        *("is_neg", "numel", "reshape", "resolve_neg", "size", "storage_offset", "stride", "t", "view"),
    )
)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)


def _block_of(tensor: torch.Tensor) -> Block | None:
    """By its storage: a tensor without elements has no address of its own."""
    with torch._C.DisableTorchFunctionSubclass():
        return block_at(tensor.untyped_storage().data_ptr())


def _device_of(tensor: torch.Tensor) -> int:
    block = _block_of(tensor)
    assert block is not None, "a device tensor whose memory is not the allocator's"
    return block.device


def _as_cuda(result: Any, device: int | None) -> Any:
    """A result that lies elsewhere is brought to the device, as if it had been computed there."""
    if type(result) in (list, tuple):
        return type(result)(_as_cuda(one, device) for one in result)
    if not isinstance(result, torch.Tensor):
        return result
    plain = _plain(result)
    if device is None or _block_of(plain) is not None:
        return plain.as_subclass(CudaTensor)
    return cuda(plain, device)


def cuda(tensor: torch.Tensor, device: Any = None) -> CudaTensor:
    """A copy on the device, with the same strides if they are dense."""
    index = index_of(device)
    if isinstance(tensor, CudaTensor):
        current_stream(_device_of(tensor)).synchronize()
    plain = _plain(tensor.detach())
    made = _empty(plain.numel(), plain.dtype, index)
    made = made.as_strided(plain.shape, torch.empty_like(plain).stride())  # as copies keep them
    current_stream(index).synchronize()
    made.copy_(plain)
    return made.as_subclass(CudaTensor)


def _empty(count: int, dtype: torch.dtype, device: int) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        size = max(count, 1) * dtype.itemsize
        return torch.from_numpy(np.asarray(_Holder(_allocator.allocate(size, device), size))).view(dtype)[:count]


def on_device(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch.empty, torch.zeros and their like, which make what is asked for on a device there."""

    @functools.wraps(function)
    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if not _is_cuda(device):
            return function(*args, **({} if device is None else {"device": device}), **kwargs)
        form, index = function(*args, **kwargs), index_of(device)
        if function.__name__ != "empty":
            return cuda(form, index)
        return _empty(form.numel(), form.dtype, index).view(form.shape).as_subclass(CudaTensor)

    return made


def moved(to: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch.Tensor.to, which also knows our devices: `to(device)`, with a dtype as well or not."""

    @functools.wraps(to)
    def moved_to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        device = next((one for one in (*args, kwargs.get("device")) if isinstance(one, (str, int, torch.device))), None)
        if isinstance(device, bool) or device is None:
            return to(tensor, *args, **kwargs)
        rest = [one for one in args if one is not device]
        kwargs.pop("device", None)
        if not _is_cuda(device):
            here = tensor.cpu() if isinstance(tensor, CudaTensor) else tensor
            return to(here, device, *rest, **kwargs)
        index = index_of(device)
        there = tensor if isinstance(tensor, CudaTensor) and _device_of(tensor) == index else cuda(tensor, index)
        kwargs.pop("non_blocking", None)
        return to(there, *rest, **kwargs) if rest or kwargs else there

    return moved_to


def _is_cuda(device: Any) -> bool:
    return device is not None and (isinstance(device, int) or torch.device(device).type == "cuda")


def block_at(address: int, size: int = 1) -> Block | None:
    """The block in use that these bytes lie in."""
    for block in _allocator.blocks:
        if block.address <= address and address + size <= block.address + block.size and not block.free:
            return block
    return None


@contextmanager
def in_use(kernel: list[tuple[int, int, Stream, str]]) -> Iterator[None]:
    """A kernel, from its launch to its end, with the ranges that it reads and writes."""
    _allocator.kernels.extend(kernel)
    try:
        yield
    finally:
        for one in kernel:
            _allocator.kernels.remove(one)


def begin_use(kernel: list[tuple[int, int, Stream, str]]) -> Callable[[], None]:
    """The same as two calls: the one that is returned ends it."""
    context = in_use(kernel)
    context.__enter__()
    return lambda: context.__exit__(None, None, None)


def shutdown() -> None:
    global _allocator
    _allocator = _Allocator()
