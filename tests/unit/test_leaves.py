"""Calls that reach no output, order without data, and where the calls of functions are made."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.errors import GraphError
from dagc.explain import explain
from dagc.graph import Call, Done
from runtime import remote
from tests.fakes import actor, actors, ops_of, plan_of


@remote
def double(x: int) -> int:
    return 2 * x


@remote(num_returns=2)
def halves(x: int) -> tuple[int, int]:
    return x // 2, x - x // 2


@remote(num_cpus=1)
def heavy(x: int) -> int:
    return x


@remote
def several() -> Any:
    yield 1


def call_named(output: Any, name: str) -> Call:
    call = build_graph(output).by_name[name]
    assert isinstance(call, Call)
    return call


# ---- leaves ----


def test_a_call_in_the_with_block_is_made_though_nobody_reads_it() -> None:
    a, log = actor(), actor("Log")
    with InputNode() as x:
        y = a.forward.bind(x)
        log.update.bind(y)
    graph = build_graph(y)
    assert graph.output.leaves == ("Log_0.update.done",)
    ops = ops_of(plan_of(y))
    assert ops["driver"] == ["send input", "recv Stage_0.forward", "recv Log_0.update.done"]
    assert ops["Log_0"] == ["recv Stage_0.forward", "run Log_0.update", "send Log_0.update.done"]
    assert "note: nobody reads what these return: Log_0.update;" in explain(graph, plan_of(y))


def test_a_call_outside_of_any_with_block_is_made_only_if_it_is_needed() -> None:
    a, log = actor(), actor("Log")
    x = InputNode()
    y = a.forward.bind(x)
    log.update.bind(y)
    assert build_graph(y).output.leaves == ()


def test_a_leaf_that_a_leaf_needs_is_none() -> None:
    a, b, c = actors(3)
    with InputNode() as x:
        y = a.forward.bind(x)
        c.forward.bind(b.forward.bind(y))
    assert build_graph(y).output.leaves == ("Stage_2.forward.done",)


def test_a_leaf_without_arguments_is_in_the_block_too() -> None:
    a, b = actors(2)
    with InputNode() as x:
        b.update.bind()
        y = a.forward.bind(x)
    assert build_graph(y).output.leaves == ("Stage_0.update.done",)
    assert ops_of(plan_of(y))["Stage_0"][0] == "recv tick"


def test_a_leaf_with_several_values_ends_once() -> None:
    a, b = actors(2)
    with InputNode() as x:
        y = a.forward.bind(x)
        b.split.bind(y)
    assert build_graph(y).output.leaves == ("Stage_1.split.done",)


def test_the_order_of_bind_holds_for_leaves() -> None:
    a, b = actors(2)
    with InputNode() as x:
        y = b.forward.bind(x)
        a.update.bind(y)
        z = a.forward.bind(y)
    assert ops_of(plan_of(z))["Stage_1"][1] == "run Stage_1.update"


def test_an_inner_block_has_its_own_calls() -> None:
    a, b = actors(2)
    with InputNode() as x:
        with InputNode() as inner:
            b.forward.bind(inner)
        y = a.forward.bind(x)
    assert build_graph(y).output.leaves == ()


def test_a_block_that_raised_records_no_more() -> None:
    a, b = actors(2)
    x = InputNode()
    with contextlib.suppress(RuntimeError), x:
        y = a.forward.bind(x)
        raise RuntimeError
    b.forward.bind(y)
    assert build_graph(y).output.leaves == ()


def test_calls_that_are_made_now_are_no_leaves() -> None:
    """`remote` makes the same record as `bind`."""
    a = actor()
    with InputNode() as x:
        a.forward._call((1,), {})
        y = a.forward.bind(x)
    assert len(build_graph(y).calls) == 1


# ---- after ----


def test_after_orders_without_data() -> None:
    a, b = actors(2)
    with InputNode() as x:
        first = a.forward.bind(x)
        second = b.forward.bind(x).after(first)
    call = call_named(second, "Stage_1.forward")
    assert (call.uses, call.after) == (("input", "Stage_0.forward.done"), ("Stage_0.forward.done",))
    assert str(call) == "Stage_1.forward(input) after Stage_0.forward"
    plan = plan_of(second)
    assert plan.by_name["Stage_0.forward.done"].buffer_bytes == 64
    assert ops_of(plan)["Stage_1"] == [
        "recv input",
        "recv Stage_0.forward.done",
        "run Stage_1.forward",
        "send Stage_1.forward",
    ]


def test_after_as_a_statement_means_the_same() -> None:
    a, b = actors(2)
    with InputNode() as x:
        first, second = a.forward.bind(x), b.forward.bind(x)
        assert second.after(first) is second
    assert call_named(second, "Stage_1.forward").after == ("Stage_0.forward.done",)


def test_after_a_call_whose_value_is_used_says_nothing_new() -> None:
    a, b = actors(2)
    first = a.forward.bind(InputNode())
    assert call_named(b.forward.bind(first).after(first, first), "Stage_1.forward").after == ()


def test_after_one_value_of_several_is_after_the_call() -> None:
    a, b = actors(2)
    x = InputNode()
    left, right = a.split.bind(x)
    node = b.forward.bind(left)
    other = a.forward.bind(x).after(right)
    graph = build_graph(MultiOutputNode([node, other]))
    assert Done("Stage_0.split").name in graph.by_name
    assert call_named(MultiOutputNode([node, other]), "Stage_0.forward").after == ("Stage_0.split.done",)


def test_after_puts_an_earlier_call_later() -> None:
    a, x = actor(), InputNode()
    first, second = a.forward.bind(x), a.update.bind(x)
    first.after(second)
    assert [call.name for call in build_graph(MultiOutputNode([first, second])).calls] == [
        "Stage_0.update",
        "Stage_0.forward",
    ]


def test_a_cycle_of_afters_is_refused() -> None:
    a, b = actors(2)
    x = InputNode()
    first = a.forward.bind(x)
    second = b.forward.bind(first)
    first.after(second)
    with pytest.raises(GraphError, match=r"has a cycle: by after\(\.\.\.\)"):
        build_graph(second)


@pytest.mark.parametrize("other", [1, InputNode(), InputNode()[0], None])
def test_after_takes_calls(other: Any) -> None:
    with pytest.raises(GraphError, match="expected calls"):
        actor().forward.bind(1).after(other)


def test_a_call_cannot_come_after_itself() -> None:
    node = actor().forward.bind(1)
    with pytest.raises(GraphError, match="after itself"):
        node.after(node)


# ---- functions ----


def test_a_function_runs_beside_the_actor_that_makes_its_argument() -> None:
    a, b = actors(2)
    with InputNode() as x:
        y = double.bind(b.forward.bind(double.bind(a.forward.bind(x))))
    graph = build_graph(y)
    assert [call.actor for call in graph.calls] == ["Stage_0", "Stage_0", "Stage_1", "Stage_1"]
    assert graph.workers == {}


def test_the_first_argument_of_an_actor_decides() -> None:
    a, b = actors(2)
    x = InputNode()
    first, second = a.forward.bind(x), b.forward.bind(x)

    @remote
    def pair(*args: Any) -> Any:
        return args

    assert build_graph(pair.bind(x, [second], first)).calls[-1].actor == "Stage_1"


def test_what_a_function_only_comes_after_is_not_what_it_is_beside() -> None:
    a, x = actor(), InputNode()
    first = a.forward.bind(x)
    assert build_graph(double.bind(x).after(first)).calls[-1].actor == "double_0"


def test_functions_of_the_input_have_workers_of_their_own() -> None:
    with InputNode() as x:
        y = MultiOutputNode([double.bind(x), double.bind(x), double.bind(double.bind(x))])
    graph = build_graph(y)
    assert [call.name for call in graph.calls] == [
        "double_0.double",
        "double_1.double",
        "double_2.double",
        "double_2.double#1",
    ]
    assert list(graph.workers) == ["double_0", "double_1", "double_2"]
    assert list(plan_of(y).schedule) == ["driver", "double_0", "double_1", "double_2"]


def test_a_function_that_asks_for_resources_has_a_worker_of_its_own() -> None:
    a = actor()
    graph = build_graph(heavy.bind(a.forward.bind(InputNode())))
    assert dict(graph.workers) == {"heavy_0": heavy}
    assert str(graph.calls[-1]) == "heavy(Stage_0.forward)"


def test_the_name_of_a_worker_is_free() -> None:
    taken = actor("double")
    graph = build_graph(taken.update.bind(double.bind(InputNode()), taken.forward.bind(1)))
    assert sorted(graph.makers) == ["double_0", "double_1"]


def test_a_function_with_several_values_is_unpacked() -> None:
    left, right = halves.bind(InputNode())
    graph = build_graph(MultiOutputNode([left, right]))
    assert graph.output.values == ("halves_0.halves[0]", "halves_0.halves[1]")


def test_a_generator_is_refused_when_it_is_bound() -> None:
    with pytest.raises(GraphError, match=r"generator.*return a list"):
        several.bind()


def test_a_leaf_of_the_block_is_made_though_the_output_was_bound_outside_of_it() -> None:
    a, log = actor(), actor("Log")
    with InputNode() as x:
        log.update.bind(x)
    assert build_graph(a.forward.bind(x)).output.leaves == ("Log_0.update.done",)
    assert build_graph(x).output.leaves == ("Log_0.update.done",)


def test_the_name_of_a_function_may_be_anything() -> None:
    def odd(x: Any) -> Any:
        return x

    for name in ("a+b", "a b", "x\ny"):
        odd.__name__ = name
        plan = plan_of(remote(odd).bind(InputNode()))
        assert type(plan).parse(str(plan)) == plan
