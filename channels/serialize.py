"""Values to bytes and back: pickle 5 with the big buffers out of band.

`encode` splits a value into a short head, which the unpickler reads, and the buffers that the head refers to, which are
not copied. numpy arrays and dense torch tensors at any depth become buffers (those of a GPU by a copy on the host, and
are on the reader's GPU again if it has one); functions and classes of `__main__` travel
by value (cloudpickle). `decode` gets the head and the buffers, wherever they lie by then: arrays become views of them.
A channel moves head and buffers as it likes; `pack` and `unpack` move them as one piece of bytes.

Arrays come out read-only, so that they can be sent on by reference; torch knows no read-only, so tensors come out as
the reader's own: a view of a buffer that nobody else reads, a copy otherwise.

Why not pickle.dumps first and cloudpickle on failure: pickle.dumps accepts an instance of a class of `__main__`, and
only the reader finds out that its `__main__` is another one.
"""

from __future__ import annotations

import importlib
import io
import pickle
import re
import struct
import sys
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, Literal

import cloudpickle
import numpy as np
import numpy.typing as npt

from channels import _ring
from channels.base import Failure
from channels.devices import arriving, check_history, destination, dtype_name, is_dense, to_host
from channels.errors import SerializationError
from channels.failures import describe, dump_failure, load_failure, reduce_exception

__all__ = ["decode", "dump", "encode", "pack", "unpack"]

# Kinds below KIND_ENCODED are the C extension's scalars.
_FAILURE = _ring.KIND_FAILURE
_BYTES = _ring.KIND_ENCODED + 1
_ARRAY = _ring.KIND_ENCODED + 2
_TENSOR = _ring.KIND_ENCODED + 3
_PICKLE = _ring.KIND_ENCODED + 4

_ALIGNMENT = 64
_FRAME = struct.Struct("<IIQ")  # kind, buffers, head bytes
_LENGTH = struct.Struct("<Q")
_PICKLES_OWN_WORDS = re.compile(r"\w+: (cannot|can't) pickle", re.IGNORECASE)

Buffers = Sequence[Any]
Encoded = tuple[int, bytes, Buffers]


def encode(value: Any) -> Encoded:
    """Split `value` into (kind, head, buffers). Nothing is copied but what is not contiguous.

    Raises SerializationError if the value cannot be pickled. A `Failure` always can, see channels.failures: what
    cannot be sent of its exception is left out, and one that cannot be sent at all is quoted in a SerializationError.
    """
    kind = type(value)
    if kind is np.ndarray and _is_plain(value):
        head, buffer = _array_parts(value)
        return _ARRAY, _dump_head(head), (buffer,)
    if kind is bytes:
        return _BYTES, b"", (value,)
    if kind is Failure:
        return _FAILURE, *dump_failure(value, dump)
    if is_dense(value):
        tensor_head, buffer = _tensor_parts(value)
        return _TENSOR, _dump_head(tensor_head), (buffer,)
    return _PICKLE, *dump(value)


def decode(kind: int, head: Any, buffers: Buffers) -> Any:
    """The value again. What cannot be decoded is a `Failure` with a SerializationError, never an exception."""
    try:
        if kind == _ARRAY:
            dtype, shape, order = _load_head(head)
            return _rebuild_array(dtype, shape, order, buffers[0])
        if kind == _TENSOR:
            name, shape, requires_grad, where = _load_head(head)
            return _rebuild_tensor(name, shape, requires_grad, where, buffers[0])
        if kind == _BYTES:
            return bytes(buffers[0])
        return load_failure(head, buffers) if kind == _FAILURE else pickle.loads(head, buffers=buffers)
    except Exception as error:  # noqa: BLE001 - unpickling runs code of the user's classes
        return Failure(SerializationError(f"a value arrived that cannot be unpickled here: {describe(error)}"))


def pack(value: Any) -> bytes:
    """`value` as one piece of bytes, for where no shared memory is at hand. Raises SerializationError."""
    kind, head, buffers = encode(value)
    views = [view.cast("B") if (view := memoryview(b)).nbytes else memoryview(b"") for b in buffers]
    parts: list[Any] = [_FRAME.pack(kind, len(views), len(head))]
    parts += [_LENGTH.pack(len(v)) for v in views]
    parts.append(head)
    size = sum(map(len, parts))
    for view in views:
        pad = -size % _ALIGNMENT
        parts += [bytes(pad), view]
        size += pad + len(view)
    return b"".join(parts)


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The value that was packed, or the `Failure`. Arrays are read-only views of `data`."""
    view = memoryview(data)
    kind, count, head_bytes = _FRAME.unpack_from(view)
    at = _FRAME.size
    lengths = [_LENGTH.unpack_from(view, at + i * _LENGTH.size)[0] for i in range(count)]
    at += count * _LENGTH.size
    head = view[at : at + head_bytes]
    at += head_bytes
    buffers = []
    for length in lengths:
        at += -at % _ALIGNMENT
        buffers.append(view[at : at + length])
        at += length
    return decode(kind, head, buffers)


# ---- pickle ----


def _reduce(obj: Any) -> Any:
    """How arrays, tensors and exceptions inside other values travel; NotImplemented for everything else."""
    if type(obj) is np.ndarray and _is_plain(obj):
        head, buffer = _array_parts(obj)
        return _rebuild_array, (*head, pickle.PickleBuffer(buffer))
    if is_dense(obj):
        tensor_head, buffer = _tensor_parts(obj)
        return _rebuild_tensor, (*tensor_head, pickle.PickleBuffer(buffer))
    return reduce_exception(obj)


class _ByValue(Exception):
    """This value needs cloudpickle."""


class _FastPickler(pickle.Pickler):
    """For values of builtin types and of importable classes: three times faster than cloudpickle's."""

    def reducer_override(self, obj: Any) -> Any:
        named = obj if isinstance(obj, (type, FunctionType)) else type(obj)
        if named.__module__ == "__main__":
            raise _ByValue
        return _reduce(obj)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """For everything that can be pickled at all."""

    def reducer_override(self, obj: Any) -> Any:
        reduced = _reduce(obj)
        return super().reducer_override(obj) if reduced is NotImplemented else reduced


class _Numbered:
    """What has a number is left out of the pickle; the unpickler asks for it by `persistent_load`."""

    number: Callable[[Any], int | None]

    def persistent_id(self, obj: Any) -> int | None:
        return self.number(obj)


class _FastNumberedPickler(_Numbered, _FastPickler): ...


class _NumberedPickler(_Numbered, _Pickler): ...


def dump(value: Any, number: Callable[[Any], int | None] | None = None) -> tuple[bytes, Buffers]:
    """The pickle of a value and its buffers. `number`: of an object that is left out of it, its number; else None.

    It may be asked twice of the same objects. Raises SerializationError.
    """
    try:
        try:
            if cloudpickle.list_registry_pickle_by_value():  # the user wants more modules by value than __main__
                raise _ByValue
            return _dump(_FastPickler if number is None else _FastNumberedPickler, value, number)
        except (_ByValue, pickle.PicklingError, AttributeError, TypeError):
            return _dump(_Pickler if number is None else _NumberedPickler, value, number)
    except SerializationError:
        raise
    except Exception as error:  # pickling runs code of the user's classes, which may raise anything
        # A class that refuses by itself says what to do instead; pickle's own words say only what it met.
        refused = not _PICKLES_OWN_WORDS.match(text := describe(error))
        advice = "" if refused else "; send the data it is made of, or give its class a __reduce__"
        raise SerializationError(
            f"a value of type {type(value).__qualname__} cannot be pickled: {text}{advice}"
        ) from error


def _dump(kind: Any, value: Any, number: Callable[[Any], int | None] | None) -> tuple[bytes, Buffers]:
    head, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    pickler = kind(head, protocol=5, buffer_callback=buffers.append)
    if number is not None:
        pickler.number = number
    pickler.dump(value)
    return head.getvalue(), [b.raw() for b in buffers]


# ---- heads of bare arrays and tensors ----
# The same few shapes come again and again, so both directions are looked up before they are computed.

_HEADS = 1024
_dumped: dict[tuple[Any, ...], bytes] = {}
_loaded: dict[bytes, Any] = {}


def _dump_head(head: tuple[Any, ...]) -> bytes:
    known = _dumped.get(head)
    if known is None:
        if len(_dumped) >= _HEADS:
            _dumped.clear()
        known = _dumped[head] = pickle.dumps(head)
    return known


def _load_head(head: Any) -> Any:
    key = bytes(head)
    known = _loaded.get(key)
    if known is None:
        if len(_loaded) >= _HEADS:
            _loaded.clear()
        known = _loaded[key] = pickle.loads(key)
    return known


# ---- numpy ----


_ArrayHead = tuple[str | np.dtype[Any], tuple[int, ...], Literal["C", "F"]]


def _is_plain(array: npt.NDArray[Any]) -> bool:
    """Its bytes are its value."""
    return not array.dtype.hasobject


def _array_parts(array: npt.NDArray[Any]) -> tuple[_ArrayHead, Any]:
    order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    elif array.base is not None:
        _hand_over(array)
    kind = array.dtype
    # Of a number, `str` says it all. Fields, units, and the types of ml_dtypes (kind V) need the dtype itself.
    head: _ArrayHead = (kind.str if kind.kind in "biufcSU" else kind, array.shape, order)
    if array.nbytes == 0:
        return head, b""
    flat = array.reshape(-1, order=order)
    return head, (flat if kind.kind in "biufc" else flat.view(np.uint8)).data  # not all kinds export a buffer


def _hand_over(array: npt.NDArray[Any]) -> None:
    """An array from `shm.empty` that is sent goes by reference, and can no longer be written to.

    A part of one is copied: the rest of it may still be filled. So is what shares memory with a torch tensor, which
    can be written to for ever.
    """
    owner = array.base if isinstance(array.base, np.ndarray) else array
    block: Any = owner.base
    if isinstance(block, _ring.Block) and array.nbytes == len(block):
        array.flags.writeable = owner.flags.writeable = False
        block.freeze()


_dtypes: dict[str, np.dtype[Any]] = {}


def _rebuild_array(
    dtype: str | np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"], buffer: Any
) -> npt.NDArray[Any]:
    if isinstance(dtype, str):
        dtype = _dtypes.get(dtype) or _dtypes.setdefault(dtype, np.dtype(dtype))
    if isinstance(buffer, _ring.Block):
        buffer.freeze()
    array: npt.NDArray[Any]
    array = np.frombuffer(buffer, dtype) if len(buffer) else np.empty(shape, dtype)
    if array.shape != shape:
        array = array.reshape(shape, order=order)
    array.flags.writeable = False
    return array


# ---- torch ----
# torch is never imported here: where no tensor was made there is none to send. A reader imports it with the first one.


_TensorHead = tuple[str, tuple[int, ...], bool, str]


def _tensor_parts(tensor: Any) -> tuple[_TensorHead, Any]:
    """All else than dense tensors (sparse, quantized, subclasses) pickles in torch's own way.

    Every call into torch that a plain tensor does not need is left out: in a chain of small ones they were half of all
    the time.
    """
    grad = tensor.requires_grad
    if grad:
        check_history(tensor)
        tensor = tensor.detach()
    where = "cpu"
    if tensor.is_cuda:
        where = destination("default", tensor)
        tensor = to_host(tensor)
    name = dtype_name(tensor.dtype)
    head = (name, tuple(tensor.shape), grad, where)
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    if name in _NUMPY_NAMES:
        array = tensor.numpy()
    else:
        # bfloat16 and its like, as integers of their size.
        array = tensor.view(getattr(sys.modules["torch"], _AS_INTEGERS[tensor.element_size()])).numpy()
    return head, array.reshape(-1).data if array.size else b""


#: Bytes -> an integer.
_AS_INTEGERS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
#: dtypes that torch and numpy have under one name, and whose arrays export a buffer.
_NUMPY_NAMES = frozenset(
    ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64", "complex128")
)


def _rebuild_tensor(dtype: str, shape: tuple[int, ...], requires_grad: bool, where: str, buffer: Any) -> Any:
    torch = _import_torch()
    kind = getattr(torch, dtype)
    if len(buffer) == 0:
        tensor = torch.empty(shape, dtype=kind)
    else:
        view = memoryview(buffer)
        tensor = torch.frombuffer(bytearray(view) if view.readonly else view, dtype=kind)
        if len(shape) != 1:
            tensor = tensor.view(shape)
    if where != "cpu":
        tensor = arriving(tensor, where, "a value")
    return tensor.requires_grad_() if requires_grad else tensor


def _import_torch() -> Any:
    return sys.modules.get("torch") or importlib.import_module("torch")
