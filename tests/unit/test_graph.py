from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.errors import GraphError
from dagc.graph import Call, Graph, Input, Node, Output, Pick, Value, verify
from dagc.program import InputAccess
from tests.fakes import actor, actors

X = Input(InputAccess(None))
F = Call("A.f", "A", "f", (Value("input"),), {})
SPLIT = Call("A.split", "A", "split", (), {}, num_returns=2)
OUT = Output(("A.f",), multi=False)


def graph(*nodes: Node) -> Graph:
    return Graph(nodes, {"A": actor("A")})


def test_a_graph_reads_like_a_program() -> None:
    a, b = actors(2)
    with InputNode() as x:
        top, bottom = a.split.bind(x[0])
        out = b.forward.bind(top, scale=x.scale)
    assert str(build_graph(MultiOutputNode([out, bottom, x[0]]))) == (
        "input[0]         = argument 0 of execute\n"
        "input.scale      = argument scale of execute\n"
        "Stage_0.split    = Stage_0.split(input[0])\n"
        "Stage_0.split[0] = value 0 of Stage_0.split\n"
        "Stage_0.split[1] = value 1 of Stage_0.split\n"
        "Stage_1.forward  = Stage_1.forward(Stage_0.split[0], scale=input.scale)\n"
        "output           = [Stage_1.forward, Stage_0.split[1], input[0]]"
    )


class _Loud:
    def __repr__(self) -> str:
        return "a\nb" * 50


@pytest.mark.parametrize(
    ("constant", "shown"),
    [
        (1, "1"),
        ("word", "'word'"),
        (np.zeros((8, 4096), "float32"), "float32[8, 4096]"),
        ([np.zeros(3, "int8")], "[int8[3]]"),
        (list(range(1000)), "[0, 1, 2, 3, 4, 5, ...]"),
        ((1,), "(1,)"),
        ([Value("input")], "[input]"),
        ((Value("input"),), "(input,)"),
        ({"k": Value("input"), 2: "two"}, "{'k': input, 2: 'two'}"),
    ],
)
def test_constants_are_shown_short(constant: Any, shown: str) -> None:
    assert str(Call("A.f", "A", "f", (constant,), {})) == f"A.f({shown})"


@pytest.mark.parametrize("constant", ["s" * 1000, _Loud(), 10**1000, {"k" * 99: "v" * 99}])
def test_a_constant_takes_one_line_of_forty_characters(constant: Any) -> None:
    shown = str(Call("A.f", "A", "f", (constant,), {}))
    assert len(shown) <= 40 + len("A.f()")
    assert "\n" not in shown


def test_a_graph_is_verified() -> None:
    verify(graph(X, F, OUT))
    verify(graph(SPLIT, Pick("A.split", 1), Output(("A.split[1]",), multi=True)))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([X, F, F, OUT], "A.f is defined twice"),
        ([F, X, OUT], "A.f uses input before it is defined"),
        ([F, OUT], "A.f uses input, which is not in the graph"),
        ([X, Call("B.f", "B", "f", (), {}), F, OUT], "B.f calls actor B, which the graph does not know"),
        ([X, F], "the graph has no output"),
        ([X, F, OUT, Call("A.g", "A", "g", (), {})], "the output is not the last node"),
        ([SPLIT, Output(("A.split",), multi=False)], "output uses A.split, which returns 2 values; pick one of them"),
        ([SPLIT, Pick("A.split", 2), OUT], "picks value 2 of A.split, which has no such value"),
        ([X, F, Pick("A.f", 0), OUT], "picks value 0 of A.f, which has no such value"),
        ([X, F, OUT, Call("A.g", "A", "g", (Value("output"),), {})], "an output is not a value"),
    ],
)
def test_a_broken_graph_is_refused(nodes: list[Node], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        verify(graph(*nodes))


def test_an_error_marks_the_line() -> None:
    with pytest.raises(GraphError) as caught:
        verify(graph(F, X, OUT))
    assert str(caught.value).splitlines()[2:] == [
        "A.f    = A.f(input)  <-- here",
        "input  = argument of execute",
        "output = A.f",
    ]


def test_an_unknown_kind_of_node_is_refused() -> None:
    with pytest.raises(GraphError, match="node 1 of the graph is 'what'"):
        verify(graph(X, "what", OUT))  # type: ignore[arg-type]


def test_no_actor_takes_the_name_of_the_driver() -> None:
    with pytest.raises(GraphError, match="named 'driver'"):
        verify(Graph((Call("driver.f", "driver", "f", (), {}), Output(("driver.f",), False)), {"driver": actor()}))
