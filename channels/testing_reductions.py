"""The checks of what communicators compute. `channels.testing_communicators` runs them.

Each check has a part that runs on every rank. A rank makes the tensors of all ranks, from the same seed, and compares
what it gets with what it computes from them in the order of the ranks.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from channels.communicators.base import Communicator
from channels.communicators.tensors import DTYPES, ReduceOp, Tensor
from channels.testing_group_subject import Subject

Array = npt.NDArray[Any]

#: How far a result may be off where the order of the summands is not fixed, by dtype; relative to the largest operand.
_TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-5, "float64": 1e-13}
#: Elements. Beside the smallest: around powers of two, and what no vector width divides.
_SIZES = (0, 1, 7, 10, 11, 33, 1023, 4099, 40_009)
#: Of float32; 4 bytes to 32 MiB, around what is likely to be done in another way from there on.
_FLOAT32_SIZES = (1, 10, 11, 512, 8191, 8192, 8193, 16384, 65537, 262_144, 262_145, 1_000_003, 8 << 20)


# ---- what is reduced, and what should come out ----


def made(dtype: str, size: int, rank: int, seed: int = 0) -> Array:
    """A rank's elements: of the dtype, but those of bfloat16 as the same numbers in float32."""
    rng = np.random.default_rng((seed, rank, size))
    if dtype.startswith("int"):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, size, dtype=dtype, endpoint=True)
    values = (rng.random(size) - 0.5) * 16
    if dtype == "bfloat16":
        return rounded_to_bfloat16(values.astype(np.float32))
    array: Array = values.astype(dtype)
    return array


def tensor_of(array: Array, dtype: str, library: str = "") -> Tensor:
    if not library:
        library = "torch" if dtype == "bfloat16" else "numpy"
    if library == "numpy":
        return array.copy()
    torch = importlib.import_module("torch")
    return torch.from_numpy(array.copy()).to(getattr(torch, dtype))


def array_of(tensor: Tensor) -> Array:
    """As `made` makes it."""
    if isinstance(tensor, np.ndarray):
        return tensor
    array: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array


def reduced(op: ReduceOp, dtype: str, arrays: Sequence[Array]) -> Array:
    """The reduction, in the order of the arrays."""
    with np.errstate(all="ignore"):
        if dtype in ("float16", "bfloat16"):
            total = _combined(op, [array.astype(np.float32) for array in arrays])
            return total.astype(np.float16) if dtype == "float16" else rounded_to_bfloat16(total)
        return _combined(op, arrays)


def _combined(op: ReduceOp, arrays: Sequence[Array]) -> Array:
    functions: dict[ReduceOp, Any] = {ReduceOp.PRODUCT: np.multiply, ReduceOp.MIN: np.minimum, ReduceOp.MAX: np.maximum}
    total = arrays[0]
    for array in arrays[1:]:
        total = functions.get(op, np.add)(total, array)
    if op is not ReduceOp.AVG or len(arrays) == 1:
        return total
    if total.dtype.kind == "f":
        average: Array = total / total.dtype.type(len(arrays))
        return average
    down = total // len(arrays)
    truncated: Array = down + ((total < 0) & (down * len(arrays) != total))
    return truncated.astype(total.dtype)


def rounded_to_bfloat16(array: Array) -> Array:
    """float32 rounded to the numbers of bfloat16, to the nearest even."""
    bits = array.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    result: Array = np.where(np.isnan(array), np.float32(np.nan), rounded)
    return result


def agrees(communicator: Communicator, dtype: str, found: Tensor, expected: Array, what: str) -> None:
    array = array_of(found)
    assert array.shape == expected.shape, f"{what}: shape {array.shape}, expected {expected.shape}"
    assert array.dtype == expected.dtype, f"{what}: dtype {array.dtype}, expected {expected.dtype}"
    same = np.array_equal(array, expected, equal_nan=dtype in _TOLERANCE)
    if not same and not communicator.fixed_order and dtype in _TOLERANCE:
        close = _TOLERANCE[dtype] * communicator.world_size
        same = np.allclose(array.astype(float), expected.astype(float), rtol=close, atol=8 * close, equal_nan=True)
    if same:
        return
    wrong = np.flatnonzero(array != expected)[:3]
    raise AssertionError(f"{what}: at {wrong} found {array.flat[wrong]}, expected {expected.flat[wrong]}")


def digest(tensors: Sequence[Tensor]) -> str:
    """Of the bits of the tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(array_of(tensor).tobytes())
    return total.hexdigest()


def ranks_of(communicator: Communicator) -> range:
    return range(communicator.world_size)


# ---- every dtype, op and size ----


def every_op_of_every_dtype_is_right_on_every_rank(subject: Subject) -> None:
    for world_size, sizes in zip(subject.world_sizes[:2], (_SIZES, _SIZES[::2]), strict=False):
        subject.run(world_size, _every_op, DTYPES if has_torch() else _numpy_dtypes(), sizes)


def more_ranks_than_cores_reduce_gather_and_scatter(subject: Subject) -> None:
    subject.run(len(subject.parties), _every_op, ("float16", "float32", "int64"), (1, 33, 4099, 30_011))
    subject.run(len(subject.parties), _every_size, (1, 10_000, 300_001))


def every_size_is_right(subject: Subject) -> None:
    subject.run(2, _every_size, _FLOAT32_SIZES)


def _every_op(communicator: Communicator, dtypes: Sequence[str], sizes: Sequence[int]) -> None:
    for dtype in dtypes:
        for size in sizes:
            arrays = [made(dtype, size, rank) for rank in ranks_of(communicator)]
            blocks = [made(dtype, size * communicator.world_size, rank, seed=1) for rank in ranks_of(communicator)]
            ours = slice(communicator.rank * size, (communicator.rank + 1) * size)
            mine = tensor_of(arrays[communicator.rank], dtype)
            for op in ReduceOp:
                what = (
                    f"allreduce {op.value} of {size} {dtype} on rank {communicator.rank} of {communicator.world_size}"
                )
                agrees(communicator, dtype, communicator.allreduce(mine, op), reduced(op, dtype, arrays), what)
                found = communicator.reducescatter(tensor_of(blocks[communicator.rank], dtype), op.value)
                agrees(communicator, dtype, found, reduced(op, dtype, blocks)[ours], f"of reducescatter, as {what}")
            assert np.array_equal(array_of(mine), arrays[communicator.rank]), "allreduce has changed its argument"
            gathered = np.concatenate(arrays)
            agrees(communicator, dtype, communicator.allgather(mine), gathered, f"allgather of {size} {dtype}")


def _every_size(communicator: Communicator, sizes: Sequence[int]) -> None:
    for size in sizes:
        arrays = [(np.arange(size, dtype=np.float32) + 7 * rank) / 3 for rank in ranks_of(communicator)]
        mine = arrays[communicator.rank].copy()
        agrees(
            communicator, "float32", communicator.allreduce(mine), reduced(ReduceOp.SUM, "float32", arrays), f"{size}"
        )
        if size > 1 << 20:
            continue
        agrees(communicator, "float32", communicator.allgather(mine), np.concatenate(arrays), f"gathered {size}")
        last = communicator.world_size - 1
        agrees(communicator, "float32", communicator.broadcast(mine, last), arrays[last], f"broadcast {size}")
        agrees(communicator, "float32", mine, arrays[last], f"broadcast {size}, in place")


# ---- values ----


def special_values_come_out_as_they_should(subject: Subject) -> None:
    for world_size in subject.world_sizes[:2]:
        subject.run(world_size, _special_values)


def _special_values(communicator: Communicator) -> None:
    if communicator.world_size > 2 and not communicator.fixed_order:
        return  # what overflows halfway depends on the order
    specials = (0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 6e-8, 6.1e-5, 65504.0, 3e4, 1e-40, 3e38, 1.0009765625)
    for dtype in ("float16", "bfloat16", "float32", "float64") if has_torch() else ("float16", "float32", "float64"):
        with np.errstate(over="ignore"):
            kind = np.float32 if dtype == "bfloat16" else np.dtype(dtype)
            values = np.array(specials, np.float64).astype(kind)
        if dtype == "bfloat16":
            values = rounded_to_bfloat16(values)
        # Every value meets every other one.
        arrays = [np.repeat(values, len(values)), np.tile(values, len(values))]
        arrays += [
            values[(np.arange(len(values) ** 2) * rank) % len(values)] for rank in range(2, communicator.world_size)
        ]
        arrays = arrays[: communicator.world_size]
        for op in ReduceOp:
            found = communicator.allreduce(tensor_of(arrays[communicator.rank], dtype), op)
            expected = reduced(op, dtype, arrays)
            if not communicator.fixed_order:
                expected = np.where(_not_fixed(op, arrays, expected), array_of(found), expected)
            agrees(communicator, dtype, found, expected, f"{op.value} of special {dtype}")


def _not_fixed(op: ReduceOp, arrays: Sequence[Array], expected: Array) -> Array:
    """Where the result is left to the transport, if it need not keep to an order."""
    where: Array = np.zeros(expected.shape, bool)
    if op is ReduceOp.AVG:  # who divides before adding, as NCCL does, does not overflow where the sum does
        where = np.logical_and.reduce([np.isinf(expected), *(np.isfinite(array) for array in arrays)])
    elif op in (ReduceOp.MIN, ReduceOp.MAX):
        where = np.logical_or.reduce([np.isnan(array) for array in arrays])
    return where


def integers_wrap_around_and_their_average_is_truncated(subject: Subject) -> None:
    subject.run(2, _integers)


def _integers(communicator: Communicator) -> None:
    for dtype in ("int32", "int64"):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        ours = np.array([[high, low, -3, 3, -1], [1, -1, -4, 4, 0]][communicator.rank], dtype)
        assert communicator.allreduce(ours).tolist() == [low, high, -7, 7, -1]
        assert communicator.allreduce(ours, ReduceOp.AVG).tolist() == [
            -(2 ** (low.bit_length() - 2)),
            high // 2,
            -3,
            3,
            0,
        ]
        assert communicator.allreduce(ours, ReduceOp.MIN).tolist() == [1, low, -4, 3, -1]


def the_result_is_the_same_on_every_rank_and_in_every_run(subject: Subject) -> None:
    for world_size in subject.world_sizes:
        digests = subject.run(world_size, _digest) + subject.run(world_size, _digest)
        assert len(set(digests)) == 1, f"{len(set(digests))} different results"


def _digest(communicator: Communicator) -> str:
    choices = itertools.product(("float16", "float32", "float64"), (5, 1001, 70_001), ("sum", "product", "avg"))
    return digest([communicator.allreduce(made(dtype, size, communicator.rank), op) for dtype, size, op in choices])


def has_torch() -> bool:
    """Whether torch is there to be imported; the same answer in every process of the check."""
    return importlib.util.find_spec("torch") is not None


def _numpy_dtypes() -> tuple[str, ...]:
    return tuple(dtype for dtype in DTYPES if dtype != "bfloat16")
