"""Communicators without another rank: the reductions themselves, specs, ids, errors, what is refused."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from channels import _ring
from channels.communicators import DTYPES, ReduceOp, ShmTransport, TensorSpec, transport
from channels.communicators.gloo import links
from channels.communicators.shm import MAX_WORLD_SIZE, ShmCommunicator
from channels.communicators.tensors import op_code, readable, writable
from channels.errors import ChannelBroken, ChannelClosed, CommunicatorError, DagcError, MismatchError
from channels.shm import memory
from channels.testing_reductions import made, reduced, rounded_to_bfloat16

NAMES = {0: "portable", 1: "AVX2", 2: "AVX-512"}
INSTRUCTIONS = [
    pytest.param(
        i, id=NAMES[i], marks=pytest.mark.skipif(i > _ring.INSTRUCTIONS, reason=f"this processor has no {NAMES[i]}")
    )
    for i in NAMES
]
Array = npt.NDArray[Any]


def stored(array: Array, dtype: str) -> Array:
    """As it lies in memory: bfloat16 as the upper halves of float32."""
    return (array.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else array


def reduce(op: ReduceOp, dtype: str, arrays: list[Array], instructions: int) -> Array:
    sources = tuple(stored(array, dtype) for array in arrays)
    into = np.empty_like(sources[0])
    _ring.reduce(DTYPES.index(dtype), op_code(op), sources, into, instructions)
    return (into.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else into


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reduction_is_made_in_the_order_of_its_sources(dtype: str, instructions: int) -> None:
    for number in (1, 2, 3, 7):
        for size in (0, 1, 3, 8, 31, 64, 1023, 1024, 1025, 5000):
            arrays = [made(dtype, size, i) for i in range(number)]
            for op in ReduceOp:
                found, expected = reduce(op, dtype, arrays, instructions), reduced(op, dtype, arrays)
                assert np.array_equal(found, expected, equal_nan="float" in dtype), (op, number, size)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("shift", [1, 3])
def test_arrays_need_no_more_than_their_own_alignment(shift: int, instructions: int) -> None:
    arrays = [made("float32", 2000, i)[shift:] for i in range(3)]
    assert np.array_equal(
        reduce(ReduceOp.SUM, "float32", arrays, instructions), reduced(ReduceOp.SUM, "float32", arrays)
    )


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_the_result_may_go_into_any_of_the_sources(instructions: int) -> None:
    for number in (1, 2, 3, 5):
        for place in range(number):
            arrays = [made("float64", 3000, i) for i in range(number)]
            expected = reduced(ReduceOp.PRODUCT, "float64", arrays)
            _ring.reduce(DTYPES.index("float64"), op_code("product"), tuple(arrays), arrays[place], instructions)
            assert np.array_equal(arrays[place], expected), (number, place)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_every_float16_is_widened_and_rounded_as_numpy_does_it(instructions: int) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    same = reduce(ReduceOp.MAX, "float16", [every, every], instructions)
    assert np.array_equal(same, every, equal_nan=True)
    # Halves between any two of them, the largest and smallest, and what overflows: to the nearest even.
    for other in (np.float16(2**-24), np.float16(2**-14), np.float16(2**-11), np.float16(1.0009766), np.float16(65504)):
        second = np.full_like(every, other)
        for op in (ReduceOp.SUM, ReduceOp.PRODUCT, ReduceOp.AVG, ReduceOp.MIN):
            expected = reduced(op, "float16", [every, second])
            assert np.array_equal(reduce(op, "float16", [every, second], instructions), expected, equal_nan=True), (
                op,
                other,
            )


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_every_bfloat16_is_rounded_to_the_nearest_even(instructions: int) -> None:
    torch = pytest.importorskip("torch")
    every = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    for other in (0.0, 1.0, 2.0**-8, 3.0e38, 2.0**-133):
        second = rounded_to_bfloat16(np.full_like(every, other))
        expected = reduced(ReduceOp.SUM, "bfloat16", [every, second])
        assert np.array_equal(reduce(ReduceOp.SUM, "bfloat16", [every, second], instructions), expected, equal_nan=True)
        with np.errstate(all="ignore"):
            by_torch = torch.from_numpy(every + second).bfloat16().float().numpy()
        assert np.array_equal(expected, by_torch, equal_nan=True)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_minimum_and_maximum_of_a_nan_are_nan(dtype: str, instructions: int) -> None:
    kind = np.float32 if dtype == "bfloat16" else np.dtype(dtype)
    nan, one = np.full(37, np.nan, kind), np.ones(37, kind)
    for op in (ReduceOp.MIN, ReduceOp.MAX):
        for arrays in ([nan, one, one], [one, nan, one], [one, one, nan]):
            assert np.isnan(reduce(op, dtype, arrays, instructions)).all()


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_an_average_of_integers_is_truncated_towards_zero(dtype: str, instructions: int) -> None:
    numbers = np.array([7, -7, 8, -8, 0, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    zero = np.zeros_like(numbers)
    halves = [3, -3, 4, -4, 0, np.iinfo(dtype).min // 2, np.iinfo(dtype).max // 2]
    assert reduce(ReduceOp.AVG, dtype, [numbers, zero], instructions).tolist() == halves
    thirds = [int(n / 3) if abs(n) < 100 else None for n in numbers.tolist()]
    found = reduce(ReduceOp.AVG, dtype, [numbers, zero, zero], instructions).tolist()
    assert [f for f, t in zip(found, thirds, strict=True) if t is not None] == [t for t in thirds if t is not None]


def test_reduce_refuses_what_does_not_fit() -> None:
    a = np.zeros(4, np.float32)
    for arguments in (
        (6, 0, (a,), a),
        (2, 5, (a,), a),
        (2, -1, (a,), a),
        (2, 0, (), a),
        (2, 0, (a, a[:3]), a),
        (2, 0, (a, None), a),
        (2, 0, (a,), a, _ring.INSTRUCTIONS + 1),
        (2, 0, (a,) * 129, a),
    ):
        with pytest.raises(ValueError, match=r"expected"):
            _ring.reduce(*arguments)  # type: ignore[arg-type]
    with pytest.raises((BufferError, ValueError)):
        _ring.reduce(2, 0, (a,), b"0123456789abcdef")


# ---- tensors ----


def test_a_spec_describes_a_tensor_and_makes_one() -> None:
    array = np.zeros((2, 3), np.float16)
    spec = TensorSpec.of(array)
    assert spec == TensorSpec((2, 3), "float16")
    made_array = spec.empty()
    assert (made_array.shape, made_array.dtype) == ((2, 3), np.float16)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert TensorSpec([2, 3], "float16") == spec  # type: ignore[arg-type]
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    assert TensorSpec.of(tensor) == TensorSpec((4,), "bfloat16", "torch")
    assert TensorSpec.of(tensor).empty().dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (((1,), "float8"), "expected one of float16, bfloat16, float32, float64, int32, int64"),
        (((1,), "bfloat16"), 'expected library="torch"'),
        (((-1,), "int32"), "no negative dimension"),
        (((1,), "int32", "jax"), "expected one of numpy, torch"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TensorSpec(*arguments)


def test_an_op_is_a_member_or_its_value() -> None:
    assert [op_code(op) for op in ReduceOp] == [op_code(op.value) for op in ReduceOp] == list(range(5))
    for wrong in ("SUM", "mean", None, 0, []):
        with pytest.raises(ValueError, match="expected a ReduceOp or one of sum, product, min, max, avg"):
            op_code(wrong)  # type: ignore[arg-type]


def test_what_is_read_is_copied_only_if_need_be() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert readable(array)[0] is array
    turned, _, shape = readable(array.T)
    assert shape == (4, 3)
    assert np.array_equal(turned, array.T)
    assert turned.flags.c_contiguous
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12.0).reshape(3, 4)
    assert readable(tensor)[0][:2] == (tensor.data_ptr(), 48)
    assert readable(tensor.t())[0][0] != tensor.data_ptr()
    with pytest.raises(ValueError, match="contiguous"):
        writable(tensor.t(), "out")
    for wrong in (torch.zeros(2, dtype=torch.int8), torch.zeros(2).to_sparse(), torch.zeros(2, device="meta")):
        with pytest.raises(TypeError, match="expected"):
            readable(wrong)


def test_torch_is_not_imported_for_numpy() -> None:
    program = """
import sys
import numpy as np
from channels.communicators import *
from channels.testing_communicators import Subject
group = transport("shm").create(1)
comm = transport("shm").join(group.id, 0, 1)
comm.allreduce(np.ones(3))
try:
    comm.allreduce([1.0])
except TypeError as error:
    assert "expected a numpy array or a torch CPU tensor, found list" in str(error)
else:
    raise AssertionError
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- groups ----


@pytest.fixture
def alone() -> Iterator[ShmCommunicator]:
    group = ShmTransport().create(1, "alone")
    communicator = ShmTransport().join(group.id, 0, 1, 10)
    yield communicator
    communicator.destroy()
    group.destroy()


def test_an_id_is_plain_bytes_and_the_transport_picklable() -> None:
    group = ShmTransport().create(3, "gradients")
    assert type(group.id) is bytes
    assert (group.world_size, group.waits()) == (3, {})
    assert "gradients" in repr(group)
    assert pickle.loads(pickle.dumps(transport("shm"))) == ShmTransport()
    with pytest.raises(ValueError, match="world_size=2, but the group was made for 3 ranks"):
        ShmTransport().join(group.id, 0, 2)
    with pytest.raises(ValueError, match=r"rank=3; expected 0 to 2"):
        ShmTransport().join(group.id, 3, 3)
    with pytest.raises(ValueError, match="unknown transport 'smoke'; there are: "):
        transport("smoke")
    group.destroy()
    assert group.waits() == {}


def test_a_group_gives_its_memory_back() -> None:
    before = memory()["live_bytes"]
    for world_size in (1, 4, MAX_WORLD_SIZE):
        group = ShmTransport().create(world_size)
        assert memory()["live_bytes"] > before
        group.destroy()
    group = ShmTransport().create(1)
    communicator = ShmTransport().join(group.id, 0, 1)
    communicator.allreduce(np.ones(100_000))
    del communicator, group
    assert ShmTransport().create(1).world_size == 1
    assert memory()["live_bytes"] == before


@pytest.mark.parametrize("world_size", [0, -1, MAX_WORLD_SIZE + 1])
def test_a_group_of_too_few_or_too_many_is_refused(world_size: int) -> None:
    with pytest.raises(ValueError, match=f"world_size={world_size}; expected 1 to {MAX_WORLD_SIZE}"):
        ShmTransport().create(world_size)


def test_sizes_of_areas_that_cannot_be_are_refused() -> None:
    for arguments in ((2, 63, 1024), (2, 64, 100), (0, 64, 1024), (129, 64, 1 << 20), (100, 64, 64), (2, 64, 1 << 31)):
        with pytest.raises(ValueError, match="expected ranks: 1 to 128"):
            _ring.Group(*arguments)


def test_memory_that_is_no_group_is_refused() -> None:
    group = _ring.Group(2, 64, 1024)
    block = _ring.allocate(1 << 20)
    ring = _ring.Ring(2, 128, 1)
    for address, ranks, rank in (
        (ring.address, 2, 0),
        (group.address, 3, 0),
        (group.address, 2, 2),
        (group.address, 0, 0),
    ):
        with pytest.raises(ChannelBroken, match=r"communicator x: cannot join as rank .*no group of so many ranks"):
            _ring.Member("x", address, ranks, rank, 0)
    with pytest.raises(ChannelBroken, match="the process or the group is gone"):
        _ring.Member("x", (*group.address[:4], group.address[4] + 1), 2, 0, 0)
    with pytest.raises(TypeError, match="expected the address of a group"):
        _ring.Member("x", (1, 2), 2, 0, 0)
    del block


@pytest.mark.parametrize("field", ["flat_bytes", "stage_bytes"])
@pytest.mark.parametrize("value", [1, 32, 2**40, 2**63, 2**64 - 64])
def test_sizes_that_were_overwritten_are_not_believed(field: str, value: int) -> None:
    group = _ring.Group(2, 64, 1024)
    # The block of the address lies behind a header of 1024 bytes in the arena, which is mapped once.
    with open(f"/proc/self/fd/{group.address[1]}", "r+b", buffering=0) as arena:
        arena.seek(group.address[3] + 1024 + {"flat_bytes": 16, "stage_bytes": 24}[field])
        arena.write(struct.pack("<Q", value))
    with pytest.raises(ChannelBroken, match="no group of so many ranks"):
        _ring.Member("x", group.address, 2, 0, 0)


def run(communicator: ShmCommunicator, **change: Any) -> None:
    """An allreduce of four float32 by the C extension, with something changed."""
    source, into = np.zeros(4, np.float32), np.zeros(4, np.float32)
    arguments = {
        "kind": 1,
        "dtype": 2,
        "op": 0,
        "peer": 0,
        "shape": (4,),
        "source": source,
        "into": into,
        "timeout": None,
    }
    communicator._member.run(*{**arguments, **change}.values())  # type: ignore[arg-type]


def test_every_size_is_checked_again_in_c(alone: ShmCommunicator) -> None:
    run(alone)
    eight = np.zeros(8, np.float32)
    odd = np.frombuffer(bytearray(17), np.uint8)[1:]
    for change in (
        {"kind": 7},
        {"kind": -1},
        {"dtype": 6},
        {"op": 5},
        {"peer": -1},
        {"peer": 1 << 20},
        {"shape": [4]},
        {"shape": (1,) * 65},
        {"shape": (2**63, 4)},
        {"shape": (2**60, 2**60)},
        {"shape": (5,)},
        {"shape": ()},
        {"source": eight},
        {"into": eight},
        {"source": None},
        {"into": None},
        {"source": odd},
        {"into": odd},
        {"dtype": 3},
        {"kind": 2, "into": eight},
        {"kind": 4, "peer": 1},
        {"kind": 5, "peer": 0},
        {"kind": 6, "peer": 3},
        {"source": eight[:4], "into": eight[1:5]},
    ):
        with pytest.raises(ValueError, match=r"."):
            run(alone, **change)
    with pytest.raises(TypeError):
        run(alone, source="text")
    with pytest.raises(TypeError):
        run(alone, shape=("4",))
    with pytest.raises(OverflowError):
        run(alone, shape=(-4,))
    with pytest.raises((BufferError, ValueError)):
        run(alone, into=bytes(16))
    with pytest.raises(TypeError, match="run\\(\\) takes 8 arguments, got 2"):
        alone._member.run(1, 2)  # type: ignore[call-arg]
    run(alone, source=eight[:4], into=eight[:4])
    run(alone)


def test_a_communicator_that_was_destroyed_is_closed(alone: ShmCommunicator) -> None:
    assert repr(alone) == "<ShmCommunicator alone, rank 0 of 1>"
    alone.destroy()
    alone.destroy()
    alone.abort("nobody hears it")
    with pytest.raises(ChannelClosed, match="communicator alone: this rank has destroyed it"):
        alone.allreduce(np.ones(1))


def test_a_wait_of_gloo_is_no_shorter_than_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """gloo counts whole milliseconds; an end before the deadline would be taken for that of the connection."""
    now = 100.0
    monkeypatch.setattr(links, "time", SimpleNamespace(monotonic=lambda: now))

    class Work:
        def wait(self, patience: timedelta) -> None:
            nonlocal now
            now += patience // timedelta(milliseconds=1) / 1000
            raise RuntimeError("Timed out waiting 49ms for recv operation to complete")

    for timeout in (0.0, 0.0004, 0.001, 0.0499, 0.05, 1.0):
        with pytest.raises(links.Late):
            links.Links.finish(object.__new__(links.Links), [links.Transfer(Work(), 1)], now + timeout)


def test_a_mismatch_says_who_asked_for_what_also_after_pickling() -> None:
    error = MismatchError("they differ", {0: "this", 1: "that"}, [1])
    error.cause = b"why"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.asked, type(again)) == ("they differ", {0: "this", 1: "that"}, MismatchError)
    assert (again.declined, again.cause) == ((1,), b"why")
    assert isinstance(error, CommunicatorError)
    assert isinstance(error, ValueError)
    assert issubclass(CommunicatorError, DagcError)
