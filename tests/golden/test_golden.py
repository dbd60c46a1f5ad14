"""Whole plans, as text. `UPDATE_GOLDEN=1 pytest tests/golden` writes them anew; the diff is then part of the review."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.plan import Plan
from tests.fakes import actor, actors, plan_of

HERE = Path(__file__).parent
DAGS: dict[str, Callable[[], Any]] = {}


def dag(bind: Callable[[], Any]) -> Callable[[], Any]:
    DAGS[bind.__name__] = bind
    return bind


@dag
def chain() -> Any:
    with InputNode() as x:
        node: Any = x
        for stage in actors(4):
            node = stage.forward.bind(node)
    return node


@dag
def diamond() -> Any:
    top, left, right, bottom = actors(4)
    with InputNode() as x:
        first = top.forward.bind(x)
        return bottom.update.bind(left.forward.bind(first), right.forward.bind(first))


@dag
def fan_out() -> Any:
    with InputNode() as x:
        return MultiOutputNode([worker.forward.bind(x) for worker in actors(4)])


@dag
def tensor_parallel() -> Any:
    """Two layers on two workers each, gathered."""
    workers, gather = actors(2), actor("Gather")
    with InputNode() as x:
        node: Any = x
        for _ in range(2):
            node = gather.update.bind([worker.forward.bind(node) for worker in workers])
    return node


@dag
def input_parts() -> Any:
    a, b = actors(2)
    with InputNode() as x:
        first = a.forward.bind(x[0], scale=x.scale)
        return MultiOutputNode([b.update.bind(first, x[2], mask=x.mask, scale=x["scale"]), x.mask])


@dag
def several_methods() -> Any:
    """Two micro-batches forward and back through two actors."""
    a, b = actors(2)
    outputs = []
    with InputNode() as x:
        for i in range(2):
            forward = b.forward.bind(a.forward.bind(x[i]))
            outputs.append(a.update.bind(b.update.bind(forward)))
    return MultiOutputNode(outputs)


@dag
def num_returns() -> Any:
    a, b, c = actors(3)
    with InputNode() as x:
        first, second = a.split.bind(x)
        _, unused_first = c.split.bind(second)
    return MultiOutputNode([b.forward.bind(first), unused_first, first])


@dag
def containers() -> Any:
    a, b = actors(2)
    with InputNode() as x:
        first = a.forward.bind({"rows": [x[0], x[1]], "scale": 2})
        return b.update.bind([first, (x[0], {"first": first})], options={"keep": [1, 2, 3]})


@dag
def no_input() -> Any:
    """One actor that waits for nothing, one that does."""
    a, b = actors(2)
    return MultiOutputNode([b.forward.bind(a.update.bind(1)), b.update.bind(2)])


@pytest.mark.parametrize("name", sorted(DAGS))
def test_the_plan_is_as_it_was(name: str) -> None:
    output = DAGS[name]()
    plan = plan_of(output, name=name)
    text = "".join(f"# {line}\n" for line in str(build_graph(output)).splitlines()) + f"\n{plan}"
    path = HERE / f"{name}.plan"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"there is no {path.name}; write it with UPDATE_GOLDEN=1"
    assert text == path.read_text(encoding="utf-8")
    assert Plan.parse(text) == plan


def test_every_golden_plan_has_its_dag() -> None:
    assert {path.stem for path in HERE.glob("*.plan")} == set(DAGS)
