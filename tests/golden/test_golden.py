"""Whole plans, as text. `UPDATE_GOLDEN=1 pytest tests/golden` writes them anew; the diff is then part of the review."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.passes.simulate import simulate
from dagc.plan import Plan
from runtime import remote
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


@dag
def leaf_and_after() -> Any:
    """What nobody reads is made all the same; what is ordered without data waits."""
    a, b, log = *actors(2), actor("Log")
    with InputNode() as x:
        first = a.forward.bind(x)
        log.update.bind(first)
        return b.forward.bind(x).after(first)


@remote
def double(x: int) -> int:
    return 2 * x


@remote(num_cpus=1)
def heavy(x: int) -> int:
    return 3 * x


@dag
def functions() -> Any:
    """Beside whoever makes the argument; on a worker of its own if there is none, or if it asks for resources."""
    a, b = actors(2)
    with InputNode() as x:
        return b.forward.bind(heavy.bind(double.bind(a.forward.bind(double.bind(x)))))


@dag
def interleaved() -> Any:
    """Each of two actors has two of four stages; every micro-batch is bound through all before the next."""
    a, b = actors(2)
    outputs = []
    with InputNode() as x:
        for i in range(4):
            node: Any = x[i]
            for stage in (a, b, a, b):
                node = stage.forward.bind(node)
            outputs.append(node)
    return MultiOutputNode(outputs)


@dag
def late_branch() -> Any:
    """A diamond whose second branch is bound last, on the actor that waits for the first."""
    a, b, c = actors(3)
    with InputNode() as x:
        top = a.forward.bind(x)
        joined = a.update.bind(b.forward.bind(top), top)
        return c.update.bind(joined, c.forward.bind(a.forward.bind(top)))


@dag
def one_forward_one_backward() -> Any:
    """Four micro-batches forward and back through three stages, each bound to its end before the next."""
    stages = actors(3)
    outputs = []
    with InputNode() as x:
        for i in range(4):
            node: Any = x[i]
            for stage in stages:
                node = stage.forward.bind(node)
            for stage in reversed(stages):
                node = stage.update.bind(node)
            outputs.append(node)
    return MultiOutputNode(outputs)


#: Planned once more with the order "free"; the rounds that either takes, see test_the_free_order_beats_that_of_bind.
FREE = {"interleaved": (41, 29), "late_branch": (18, 14), "one_forward_one_backward": (62, 32)}
PLANS = {**{name: (name, "bind") for name in DAGS}, **{f"{name}_free": (name, "free") for name in FREE}}


@pytest.mark.parametrize("file", sorted(PLANS))
def test_the_plan_is_as_it_was(file: str) -> None:
    name, order = PLANS[file]
    output = DAGS[name]()
    plan = plan_of(output, name=name, order=order)
    text = "".join(f"# {line}\n" for line in str(build_graph(output)).splitlines()) + f"\n{plan}"
    path = HERE / f"{file}.plan"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"there is no {path.name}; write it with UPDATE_GOLDEN=1"
    assert text == path.read_text(encoding="utf-8")
    assert Plan.parse(text) == plan


def test_every_golden_plan_has_its_dag() -> None:
    assert {path.stem for path in HERE.glob("*.plan")} == set(PLANS)


@pytest.mark.parametrize("name", FREE)
def test_the_free_order_beats_that_of_bind(name: str) -> None:
    """In the simulator, where every party that can take a step does so in every round."""
    plans = [Plan.parse((HERE / f"{file}.plan").read_text(encoding="utf-8")) for file in (name, f"{name}_free")]
    bind, free = (simulate(plan.schedule, plan.channels) for plan in plans)
    assert free < bind
    assert (bind, free) == FREE[name]
