"""The memory of tensors as bytes: for transports that move it by torch's own means."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from channels.communicators.tensors import DTYPES, Memory, Tensor, writable

if TYPE_CHECKING:
    import torch

__all__ = ["byte_tensor", "check_apart", "check_overlap", "check_timeout", "copy", "result_memory"]


class _At:
    """Bytes at an address, for numpy. Writable also if what they belong to says that it is not: gloo knows no read-only
    memory, and torch warns of such an array."""

    def __init__(self, address: int, size: int, keep: Any) -> None:
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": (size,), "typestr": "|u1"}
        self.keep = keep


def byte_tensor(memory: Memory) -> torch.Tensor:
    """The bytes of a contiguous tensor, as `readable` and `writable` give it, as a torch tensor on the same memory."""
    if isinstance(memory, np.ndarray):
        memory = (memory.__array_interface__["data"][0], memory.nbytes, memory)
    address, size, keep = memory
    array = np.asarray(_At(address, size, keep)) if size else np.empty(0, np.uint8)
    tensor: torch.Tensor = importlib.import_module("torch").from_numpy(array)
    return tensor


def copy(into: torch.Tensor, source: torch.Tensor) -> None:
    """Copy bytes, in this thread alone: torch shares what is larger than 32 KiB among threads. On few cores that took
    milliseconds."""
    np.copyto(into.numpy(), source.numpy())


def result_memory(out: Tensor, dtype: int, shape: tuple[int, ...]) -> Memory:
    """As `writable`. Raises ValueError also if `out` cannot hold a result of that dtype and shape."""
    memory, found_dtype, found_shape = writable(out, "out")
    if found_dtype != dtype or tuple(found_shape) != tuple(shape):
        raise ValueError(
            f"out is {DTYPES[found_dtype]} {tuple(found_shape)}; expected {DTYPES[dtype]} {tuple(shape)}, "
            "which the result has"
        )
    return memory


def check_overlap(name: str, source: Tensor, into: Tensor, *, source_at: int = 0, into_at: int = 0) -> None:
    """Refuse a result that overlaps what is read, unless byte `source_at` of the one is byte `into_at` of the other.

    Both are contiguous. Raises ValueError.
    """
    if _apart(source, into) or _address(source) + source_at == _address(into) + into_at:
        return
    raise ValueError(
        f"communicator {name}: the memory of the tensor and that of the result overlap; expected none in common, or "
        "for an allreduce out=tensor, for an allgather out[rank] as tensor, for a reducescatter tensor[rank] as out "
        "(tensor and out cut into one block a rank along their first dimension)"
    )


def check_apart(name: str, sent: Tensor, received: Tensor) -> None:
    """Refuse to receive into what is being sent. Both are contiguous. Raises ValueError."""
    if not _apart(sent, received):
        raise ValueError(
            f"communicator {name}: the memory of the tensor that is sent and that of the one that is received overlap; "
            "expected none in common"
        )


def check_timeout(timeout: float | None) -> None:
    """Raises ValueError if it is negative or no number."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout={timeout!r}; expected seconds, 0 or more, or None to wait for ever")


def _address(tensor: Tensor) -> int:
    return int(tensor.__array_interface__["data"][0] if isinstance(tensor, np.ndarray) else tensor.data_ptr())


def _apart(one: Tensor, other: Tensor) -> bool:
    first, second = sorted(((_address(one), one.nbytes), (_address(other), other.nbytes)))
    return not one.nbytes or not other.nbytes or first[0] + first[1] <= second[0]
