"""What communicators accept: numpy arrays and torch CPU tensors, as memory, dtype and shape.

torch is never imported here but for a TensorSpec that asks for it: where no tensor was made there is none to send.
"""

from __future__ import annotations

import importlib
import math
import operator
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

__all__ = [
    "DTYPES",
    "LIBRARIES",
    "Memory",
    "ReduceOp",
    "Tensor",
    "TensorSpec",
    "empty_like",
    "op_code",
    "readable",
    "writable",
]

#: A numpy.ndarray or a torch.Tensor. Not a union of the two: torch is optional.
Tensor = Any

#: The names of the dtypes, as numpy and torch have them. Their places are the codes of the C extension.
DTYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64")
LIBRARIES = ("numpy", "torch")


class ReduceOp(Enum):
    """How elements are reduced; wherever one is expected, its value will do as well."""

    SUM = "sum"
    PRODUCT = "product"
    MIN = "min"
    MAX = "max"
    AVG = "avg"


_OPS: dict[ReduceOp | str, int] = {}
for _number, _op in enumerate(ReduceOp):
    _OPS[_op] = _OPS[_op.value] = _number

#: dtype object -> its code; those of torch are added when the first of its tensors comes.
_CODES: dict[Any, int] = {np.dtype(name): code for code, name in enumerate(DTYPES) if name != "bfloat16"}

#: What the C extension takes: an object with a buffer, or (address, bytes, what keeps them alive).
Memory = Any


@dataclass(frozen=True)
class TensorSpec:
    """A tensor without its elements: what a receiver must know beforehand."""

    shape: tuple[int, ...]
    #: One of DTYPES. Made of a dtype of torch or numpy, it says the library too.
    dtype: str
    #: "numpy" or "torch": what the tensor will be.
    library: str = "numpy"

    def __post_init__(self) -> None:
        """Raises TypeError for a shape that is no sequence of integers and for what is no dtype, else ValueError.

        Integers of numpy and a torch.Size will do; the fields are plain ints in a tuple, and names.
        """
        object.__setattr__(self, "shape", _sizes(self.shape))
        given: Any = self.dtype
        if not isinstance(given, str):
            of_torch = type(given).__module__ == "torch"
            object.__setattr__(self, "dtype", str(given).removeprefix("torch.") if of_torch else _numpy_name(given))
            object.__setattr__(self, "library", "torch" if of_torch else "numpy")
        if self.dtype not in DTYPES:
            raise ValueError(f"TensorSpec has dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        if self.library not in LIBRARIES:
            raise ValueError(f"TensorSpec has library {self.library!r}; expected one of {', '.join(LIBRARIES)}")
        if self.library == "numpy" and self.dtype == "bfloat16":
            raise ValueError('TensorSpec: numpy has no bfloat16; expected library="torch"')
        if self.nbytes > sys.maxsize:
            raise ValueError(f"TensorSpec has shape {self.shape}; expected no more than {sys.maxsize} bytes")

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """The spec of a tensor. Raises TypeError for what communicators do not accept."""
        _, code, shape = readable(tensor)
        return cls(shape, DTYPES[code], "numpy" if isinstance(tensor, np.ndarray) else "torch")

    def __str__(self) -> str:
        return f"{'' if self.library == 'torch' else 'np.'}{self.dtype}[{','.join(map(str, self.shape))}]"

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * (2 if "16" in self.dtype else int(self.dtype[-2:]) // 8)

    def empty(self) -> Tensor:
        """A new tensor of this spec, not initialised. Imports torch if it is to be one of torch's."""
        if self.library == "numpy":
            return np.empty(self.shape, self.dtype)
        torch = importlib.import_module("torch")
        return torch.empty(self.shape, dtype=getattr(torch, self.dtype))


def _sizes(shape: Any) -> tuple[int, ...]:
    """A shape as a tuple of ints. Raises TypeError or ValueError."""
    try:
        if isinstance(shape, (Mapping, AbstractSet)):  # no order of dimensions
            raise TypeError
        found = tuple(shape)
    except TypeError:
        number = _integer(shape)
        write = "" if number is None else f"; write shape=({number},)"
        raise TypeError(
            f"TensorSpec has shape {shape!r}; expected a tuple of integers, one for each dimension{write}"
        ) from None
    sizes = [_integer(size) for size in found]
    for size, given in zip(sizes, found, strict=True):
        if size is None:
            raise TypeError(
                f"TensorSpec has shape {found}; expected integers, found {given!r} ({type(given).__name__})"
            )
        if size < 0:
            raise ValueError(f"TensorSpec has shape {found}; expected no negative dimension")
    return tuple(size for size in sizes if size is not None)


def _integer(value: Any) -> int | None:
    """None for what is no integer, as is a bool: numpy takes True for a dimension of 1, which nobody means."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _numpy_name(dtype: Any) -> str:
    """The name of what numpy takes for a dtype. Raises TypeError."""
    try:
        if dtype is None:  # numpy takes it for float64
            raise TypeError
        return str(np.dtype(dtype).name)
    except (TypeError, ValueError):
        raise TypeError(
            f"TensorSpec has dtype {dtype!r}; expected one of {', '.join(DTYPES)}, or a dtype of numpy or torch"
        ) from None


def op_code(op: ReduceOp | str) -> int:
    """The number of the op in the C extension. Raises ValueError if there is no such op."""
    try:
        return _OPS[op]
    except (KeyError, TypeError):
        raise ValueError(f"op={op!r}; expected a ReduceOp or one of {', '.join(o.value for o in ReduceOp)}") from None


def readable(tensor: Tensor) -> tuple[Memory, int, tuple[int, ...]]:
    """(memory, dtype code, shape) of a tensor that is read; a contiguous copy of it if need be.

    The memory keeps alive what it stands for. Raises TypeError.
    """
    if isinstance(tensor, np.ndarray):
        code = _code(tensor)
        flags = tensor.flags
        if not (flags.c_contiguous and flags.aligned):
            tensor = np.require(tensor, requirements=["C", "A"])
        return tensor, code, tensor.shape
    code = _torch_code(tensor)
    plain = tensor.resolve_neg().contiguous()
    return (plain.data_ptr(), plain.nbytes, plain), code, tensor.shape


def writable(tensor: Tensor, what: str) -> tuple[Memory, int, tuple[int, ...]]:
    """(memory, dtype code, shape) of a tensor that is written; `what` names it in errors.

    Raises TypeError, or ValueError if it is not contiguous and writable.
    """
    if isinstance(tensor, np.ndarray):
        code = _code(tensor)
        if not tensor.flags.carray:
            raise ValueError(
                f"{what} has strides {tensor.strides} for shape {tensor.shape}, aligned={tensor.flags.aligned}, "
                f"writeable={tensor.flags.writeable}; expected a writable, C-contiguous array: pass numpy.empty(shape, "
                "dtype) and copy from it"
            )
        return tensor, code, tensor.shape
    code = _torch_code(tensor)
    if not tensor.is_contiguous() or tensor.is_neg():
        raise ValueError(
            f"{what} has strides {tensor.stride()} for shape {tuple(tensor.shape)}; expected a contiguous tensor: pass "
            f"{what}.contiguous() and copy from it"
        )
    return (tensor.data_ptr(), tensor.nbytes, tensor), code, tensor.shape


def empty_like(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A new tensor of the same library and dtype."""
    if isinstance(tensor, np.ndarray):
        return np.empty(shape, tensor.dtype)
    return sys.modules["torch"].empty(shape, dtype=tensor.dtype)


def _code(array: np.ndarray[Any, Any]) -> int:
    code = _CODES.get(array.dtype)
    if code is None:
        raise TypeError(f"an array of dtype {array.dtype!r}; expected one of {_numpy_names()} in native byte order")
    return code


def _torch_code(tensor: Tensor) -> int:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(tensor, torch.Tensor):
        raise TypeError(f"expected a numpy array or a torch CPU tensor, found {type(tensor).__name__}")
    if tensor.dtype not in _CODES:
        _CODES.update({getattr(torch, name): code for code, name in enumerate(DTYPES)})
    code = _CODES.get(tensor.dtype)
    if code is None:
        raise TypeError(f"a tensor of dtype {tensor.dtype}; expected one of {', '.join(DTYPES)}")
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        raise TypeError(
            f"a tensor with layout {tensor.layout} on {tensor.device}; expected a dense one on the CPU: pass "
            "tensor.to_dense().cpu(), or use a transport for its device"
        )
    return code


def _numpy_names() -> str:
    return ", ".join(name for name in DTYPES if name != "bfloat16")
