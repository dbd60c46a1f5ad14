"""Values to bytes and back: what comes out is what went in, and what cannot travel says so."""

from __future__ import annotations

import datetime as dt
import enum
import math
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels import Failure, SerializationError
from channels.serialize import decode, encode, pack, unpack

torch = pytest.importorskip("torch")
LOCK = threading.Lock()
ROOT = Path(__file__).parent.parent.parent


def there_and_back(value: Any) -> Any:
    return unpack(pack(value))


def iter_nothing() -> Iterator[None]:
    yield


def through_parts(value: Any) -> Any:
    """As a ring moves it: buffers in memory of the reader's own."""
    kind, head, buffers = encode(value)
    return decode(kind, head, [bytearray(memoryview(b).cast("B")) if len(b) else b"" for b in buffers])


@dataclass
class Point:
    x: float
    y: npt.NDArray[Any]


class Colour(enum.Enum):
    RED = 1


# ---- plain values ----

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary(), st.dates()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers(), max_size=1)
    ),
    max_leaves=20,
)


@given(VALUES)
@settings(deadline=None)
def test_any_nesting_of_plain_values(value: Any) -> None:
    assert repr(there_and_back(value)) == repr(value)  # repr: nan is not equal to itself


DTYPES = st.sampled_from(
    ["?", "i1", "u2", "<i4", ">i8", "f2", "f4", ">f8", "g", "c8", "c16", "S3", "U2", "M8[ns]", "m8[s]", "V5"]
)


@given(DTYPES, st.lists(st.integers(0, 4), max_size=4), st.sampled_from("CF"), st.integers(0, 2**32))
@settings(deadline=None)
def test_arrays_of_any_dtype_shape_and_order(dtype: str, shape: list[int], order: Any, seed: int) -> None:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    octets = np.random.default_rng(seed).integers(48, 58, size, dtype=np.uint8).tobytes()
    array = np.frombuffer(octets, dtype).reshape(shape) if size else np.zeros(shape, dtype)
    array = np.asarray(array, order=order)
    for move in (there_and_back, through_parts):
        for found in (move(array), move({"deep": [array]})["deep"][0]):
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == array.tobytes()
            assert not found.flags.writeable
            assert found.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4)[:, ::2, 1:],
        np.arange(6.0).reshape(2, 3).T,
        np.arange(5)[::-1],
        np.broadcast_to(np.arange(3), (4, 3)),
        np.zeros(3, [("name", "U4"), ("when", "M8[s]"), ("xyz", "f4", (3,))]),
        np.zeros((2, 2), np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.array(["2020-01-01", "NaT"], "M8[D]"),
        np.array(7),
        np.array(7, "M8[us]"),
        np.zeros((0, 3), order="F"),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}".replace(" ", ""),
)
def test_arrays_that_are_views_structured_or_empty(array: npt.NDArray[Any]) -> None:
    found = there_and_back(array)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()
    assert not found.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "two", None, [3]], object),
        np.ma.array([1.0, 2.0], mask=[True, False]),
        np.ma.array([]),
        np.zeros(2, [("a", object)]),
        np.zeros((2, 2)).view(np.matrix) if hasattr(np, "matrix") else np.zeros(1),
    ],
    ids=["objects", "masked", "masked_empty", "structured_objects", "matrix"],
)
def test_arrays_that_are_not_plain_travel_in_numpys_own_way(array: npt.NDArray[Any]) -> None:
    found = there_and_back(array)
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()


def test_scalars_of_numpy_and_classes_of_a_module() -> None:
    point = there_and_back(Point(1.5, np.arange(3)))
    assert type(point) is Point
    assert point.y.tolist() == [0, 1, 2]
    assert there_and_back(Colour.RED) is Colour.RED
    assert type(there_and_back(np.float32(1.5))) is np.float32
    assert there_and_back(np.datetime64("2020-01-01")) == np.datetime64("2020-01-01")
    assert there_and_back(dt.timezone.utc) is dt.timezone.utc


def test_one_array_in_two_places_stays_one() -> None:
    array = np.arange(10)
    first, second = there_and_back([array, array])
    assert first is second


def test_arrays_and_bytes_are_not_copied_by_encode() -> None:
    array, octets = np.arange(1000.0), b"x" * 5000
    for value in (array, [array], {"k": (1, array)}):
        (buffer,) = encode(value)[2]
        assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)
    assert encode(octets)[2][0] is octets


def test_a_decoded_array_is_a_view_of_its_buffer() -> None:
    data = pack(np.arange(1000.0))
    found = unpack(data)
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))
    assert found.ctypes.data % 8 == 0


# ---- torch ----

FLOATS = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"]
TORCH_DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", *FLOATS]


@pytest.mark.parametrize("name", [n for n in TORCH_DTYPES if hasattr(torch, n)])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_tensors_of_any_dtype(name: str, shape: tuple[int, ...]) -> None:
    count = math.prod(shape)
    tensor = torch.arange(count).reshape(shape).to(getattr(torch, name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for move in (there_and_back, through_parts):
            for found in (move(tensor), move([tensor])[0]):
                assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
                assert found.to(torch.complex128).tolist() == tensor.to(torch.complex128).tolist()
                assert not found.requires_grad
                if count:
                    found.view(torch.uint8 if shape else found.dtype).zero_()  # the reader's own


def test_tensors_that_are_views() -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    for tensor in (
        base.transpose(0, 2),
        base[:, ::2],
        base[1],
        base.expand(2, 3, 4),
        torch.view_as_complex(torch.ones(2, 2)).conj(),
    ):
        assert torch.equal(there_and_back(tensor), tensor)


def test_gradients() -> None:
    leaf = torch.ones(3, requires_grad=True)
    found = there_and_back(leaf)
    assert found.requires_grad
    assert found.is_leaf
    parameter = there_and_back(torch.nn.Parameter(torch.ones(2)))
    assert type(parameter) is torch.nn.Parameter
    assert parameter.requires_grad
    for value in (leaf * 2, [leaf * 2]):
        with pytest.raises(SerializationError, match="detach"):
            pack(value)
    assert torch.equal(there_and_back((leaf * 2).detach()), torch.full((3,), 2.0))


def test_modules_and_state_dicts() -> None:
    module = torch.nn.Linear(3, 2)
    found = there_and_back(module)
    assert torch.equal(found.weight, module.weight)
    state = there_and_back(module.state_dict())
    assert list(state) == ["weight", "bias"]
    assert there_and_back(torch.ones(2).to_sparse()).is_sparse


# ---- exceptions ----


class Loud(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


class Raises:
    """Cannot be decoded; not even its error has a text."""

    def __reduce__(self) -> Any:
        return _raise_loud, ()


def _raise_loud() -> None:
    raise Loud


def test_a_failure_keeps_type_arguments_traceback_and_notes() -> None:
    error = ValueError("bad", 3)
    error.__notes__ = ["while testing"]  # type: ignore[attr-defined]
    found = there_and_back(Failure(error, "Traceback: there"))
    assert isinstance(found, Failure)
    assert type(found.error) is ValueError
    assert found.error.args == ("bad", 3)
    assert found.error.__notes__ == ["while testing"]  # type: ignore[attr-defined]
    assert "Traceback: there" in str(found.unwrap().__cause__)


def test_an_exception_is_a_value_like_any_other() -> None:
    found = there_and_back([KeyError("k")])
    assert type(found[0]) is KeyError


def test_what_cannot_be_decoded_is_a_failure() -> None:
    found = there_and_back(Raises())
    assert isinstance(found, Failure)
    assert isinstance(found.error, SerializationError)
    assert "Loud" in str(found.error)


class Refuses:
    def __reduce__(self) -> Any:
        raise TypeError("a Refuses stays here; pass its number")


def test_a_class_that_refuses_says_what_to_do_instead() -> None:
    with pytest.raises(SerializationError, match=r"a Refuses stays here; pass its number$"):
        pack([Refuses()])
    with pytest.raises(SerializationError, match=r"or give its class a __reduce__$"):
        pack([LOCK])


@pytest.mark.parametrize("kind", range(encode(b"")[0], encode(Failure(ValueError()))[0] + 2))
@given(head=st.binary(max_size=40), buffers=st.lists(st.binary(max_size=9), max_size=2))
@settings(deadline=None, max_examples=100)
def test_decoding_noise_never_raises(kind: int, head: bytes, buffers: list[bytes]) -> None:
    decode(kind, head, buffers)


@pytest.mark.parametrize("value", [iter_nothing(), [open], sys._getframe()], ids=["generator", "builtin", "frame"])
def test_what_cannot_be_encoded_says_so(value: Any) -> None:
    if value == [open]:
        assert there_and_back(value) == value
        return
    with pytest.raises(SerializationError, match="cannot be pickled"):
        pack(value)


# ---- by value ----


def test_lambdas_and_local_classes_travel_by_value() -> None:
    offset = 10

    class Local:
        factor = 3

        def apply(self, x: int) -> int:
            return self.factor * x + offset

    assert there_and_back(lambda x: x + offset)(1) == 11
    assert there_and_back(Local)().apply(2) == 16
    assert there_and_back([Local(), np.ones(2)])[0].apply(2) == 16


def test_classes_of_main_travel_to_another_process() -> None:
    program = """
import sys
from channels.serialize import pack, unpack
from channels import Failure
class Thing:
    def __init__(self, x): self.x = x
    def double(self): return helper(self.x)
class Problem(Exception):
    pass
def helper(x): return 2 * x
sys.stdout.buffer.write(pack([Thing(21), helper, Failure(Problem("p"), "tb")]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    thing, helper, failure = unpack(done.stdout)
    assert thing.double() == 42
    assert helper(4) == 8
    assert type(failure.error).__name__ == "Problem"


def test_modules_that_the_user_registers_travel_by_value() -> None:
    module = sys.modules[Point.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        assert there_and_back(Point(1, np.ones(1))).x == 1
        assert b"dataclass" in pack(Point(1, np.ones(1)))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_a_value_of_importable_classes_is_pickled_once() -> None:
    """Arrays bring a function of ours along, which must not send the whole value through cloudpickle again."""
    before = Counted.reduced
    pack([Counted(), np.ones(3), math.sqrt, test_gradients])
    assert Counted.reduced == before + 1


class Counted:
    reduced = 0

    def __reduce__(self) -> Any:
        Counted.reduced += 1
        return Counted, ()
