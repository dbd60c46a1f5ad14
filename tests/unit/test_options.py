from __future__ import annotations

import math
from typing import Any

import pytest

from channels.spec import DEFAULT_BUFFER_BYTES, DEFAULT_MAX_MESSAGE_BYTES
from dagc.errors import GraphError
from dagc.options import CompileOptions


def test_defaults() -> None:
    options = CompileOptions(name="g")
    assert options == CompileOptions("g", 8, 4096, 2**30, None, "auto")
    assert (DEFAULT_BUFFER_BYTES, DEFAULT_MAX_MESSAGE_BYTES) == (4096, 2**30)


def test_a_graph_without_a_name_gets_one_of_its_own() -> None:
    first, second = CompileOptions().name, CompileOptions.from_keywords({"name": None}).name
    assert first != second
    assert first.startswith("dag-")


def test_keywords_become_options() -> None:
    keywords = {"name": "g", "max_inflight": 1, "buffer_bytes": 64, "timeout": 0.5, "spin": 0}
    assert CompileOptions.from_keywords(keywords) == CompileOptions("g", 1, 64, 2**30, 0.5, 0)


def test_an_unknown_keyword_is_refused_with_what_was_meant() -> None:
    with pytest.raises(GraphError) as caught:
        CompileOptions.from_keywords({"max_inflght": 2})
    assert str(caught.value) == (
        "compile has no option 'max_inflght'; did you mean max_inflight? "
        "Its options are: name, max_inflight, buffer_bytes, max_message_bytes, timeout, spin, order, trace"
    )
    with pytest.raises(GraphError, match=r"no option 'zzz'\. Its options are: name"):
        CompileOptions.from_keywords({"zzz": 2})


@pytest.mark.parametrize(
    ("option", "values", "expected"),
    [
        ("name", ["", "a b", 3], "a word without white space"),
        ("max_inflight", [0, -1, 2.0, True, "8", None, 2**20 + 1], "a whole number from 1 to 1048576"),
        ("buffer_bytes", [0, 63, 2**27], "a whole number from 64 to 67108864"),
        ("max_message_bytes", [0], "a whole number from 1"),
        ("timeout", [0, -1, "1", True, math.nan, math.inf], "a number of seconds above 0, or None"),
        ("spin", [-1, "on", None, True, math.nan], "'auto', or a number of microseconds of at least 0"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(option: str, values: list[Any], expected: str) -> None:
    for value in values:
        with pytest.raises(GraphError) as caught:
            CompileOptions(**{option: value})
        assert f"compile option {option}={value!r}; expected {expected}" in str(caught.value)
