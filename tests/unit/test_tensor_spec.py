"""What a TensorSpec takes for shape and dtype, and how it refuses the rest."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from channels.communicators import TensorSpec


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (5, r"has shape 5; expected a tuple of integers, one for each dimension; write shape=\(5,\)"),
        (np.int64(5), r"write shape=\(5,\)"),
        (True, "has shape True; expected a tuple of integers"),
        (None, "has shape None; expected a tuple of integers"),
        (2.0, "has shape 2.0; expected a tuple of integers"),
        ({2, 3}, "expected a tuple of integers, one for each dimension"),
        ({2: 3}, "expected a tuple of integers, one for each dimension"),
        ((5.0,), r"has shape \(5.0,\); expected integers, found 5.0 \(float\)"),
        ((np.float32(5),), r"expected integers, found .* \(float32\)"),
        ((None,), r"has shape \(None,\); expected integers, found None \(NoneType\)"),
        ((2, True), r"expected integers, found True \(bool\)"),
        ((np.True_,), "expected integers, found"),
        ("ab", r"expected integers, found 'a' \(str\)"),
        (((2, 3),), r"expected integers, found \(2, 3\) \(tuple\)"),
    ],
)
def test_a_shape_that_is_no_tuple_of_integers(shape: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        TensorSpec(shape, "float32")


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((2, np.int64(-1)), r"has shape \(2, .*-1\)?\); expected no negative dimension"),
        ((sys.maxsize, 2), "no more than"),
    ],
)
def test_a_shape_that_cannot_be(shape: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TensorSpec(shape, "float32")


@pytest.mark.parametrize("dtype", [3, None, object(), ["float32"]], ids=["number", "none", "object", "list"])
def test_what_is_no_dtype(dtype: Any) -> None:
    with pytest.raises(
        TypeError, match=r"TensorSpec has dtype .*; expected one of float16, .*, or a dtype of numpy or"
    ):
        TensorSpec((5,), dtype)


@pytest.mark.parametrize(
    "shape",
    [(2, 3), [2, 3], (np.int32(2), np.uint8(3)), np.array([2, 3]), iter((2, 3))],
    ids=lambda s: type(s).__name__,
)
def test_integers_of_any_kind(shape: Any) -> None:
    spec = TensorSpec(shape, np.float32)  # type: ignore[arg-type]
    assert spec == TensorSpec((2, 3), "float32")
    assert [type(size) for size in spec.shape] == [int, int]
    assert spec.empty().shape == (2, 3)
    assert TensorSpec((), "float32").empty().shape == ()


def test_sizes_of_torch() -> None:
    torch = pytest.importorskip("torch")
    spec = TensorSpec(torch.zeros(2, 3).shape, torch.float32)
    assert type(spec.shape) is tuple
    assert spec == TensorSpec((2, 3), "float32", "torch")
