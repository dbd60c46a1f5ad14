"""Which neighbouring calls become one op."""

from __future__ import annotations

from typing import Any

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.emit import emit
from dagc.passes.lower import lower
from tests.fakes import actors, ops_of, plan_of


def runs(output: Any, **options: Any) -> list[str]:
    """What Stage_0 runs."""
    return [op[4:] for op in ops_of(plan_of(output, **options))["Stage_0"] if op.startswith("run ")]


def test_a_chain_on_one_actor_is_one_op() -> None:
    a, _ = actors(2)
    node: Any = InputNode()
    for _ in range(3):
        node = a.forward.bind(node)
    assert runs(node) == ["Stage_0.forward+Stage_0.forward#1+Stage_0.forward#2"]
    assert runs(node, trace=True) == ["Stage_0.forward", "Stage_0.forward#1", "Stage_0.forward#2"]


def test_calls_that_do_not_depend_on_each_other_stay_apart() -> None:
    """The first may raise, and the second is made all the same."""
    a, _ = actors(2)
    x = InputNode()
    assert len(runs(MultiOutputNode([a.forward.bind(x), a.update.bind(x)]))) == 2


def test_a_call_that_needs_more_than_the_first_stays_apart() -> None:
    """What else it needs may be a failure, and the first call is made all the same."""
    a, b = actors(2)
    x = InputNode()
    first, other = a.forward.bind(x[0]), b.forward.bind(x[1])
    assert len(runs(a.update.bind(a.forward.bind(first), other, x[1]))) == 2
    assert len(runs(a.update.bind(a.update.bind(x[0], x[1]), x[1]))) == 1


def test_a_send_between_keeps_calls_apart() -> None:
    a, b = actors(2)
    first = a.forward.bind(InputNode())
    assert len(runs(MultiOutputNode([a.update.bind(first), b.forward.bind(first)]))) == 2


def test_a_call_after_another_without_its_value_is_fused_by_its_end() -> None:
    a, _ = actors(2)
    with InputNode() as x:
        first = a.forward.bind(x)
        second = a.update.bind(x).after(first)
    assert runs(second) == ["Stage_0.forward+Stage_0.update"]


def test_a_fused_op_is_checked_once_made_in_one_turn_and_says_who_raised() -> None:
    a, _ = actors(2)
    node = a.update.bind(a.forward.bind(InputNode()))
    program = lower(plan_of(node), build_graph(node)).programs["Stage_0"]
    assert emit(program).source == (
        "def loop(executions):\n"
        "    for n in executions:\n"
        "        v0 = recv_0(n)\n"
        "        if type(v0) is Failure:\n"
        "            v1 = v0\n"
        "        else:\n"
        "            made = 0\n"
        "            try:\n"
        "                with turn:\n"
        "                    v1 = call_1_0(v0)\n"
        "                    made = 1\n"
        "                    v0 = None\n"
        "                    v0 = call_1_1(v1)\n"
        "            except BaseException as error:\n"
        "                failure = (fail_1_0, fail_1_1)[made](error, n)\n"
        "                if made <= 0: v1 = failure\n"
        "                if made <= 1: v0 = failure\n"
        "                failure = None\n"
        "        v1 = None\n"
        "        try:\n"
        "            send_2(v0, n)\n"
        "        except Ended:\n"
        "            raise\n"
        "        except Exception as error:\n"
        "            send_2(unsent_2(error, n), n)\n"
        "        v0 = None\n"
    )


@pytest.mark.parametrize("length", [1, 2, 100])
def test_a_fused_chain_holds_two_values_however_long(length: int) -> None:
    a, _ = actors(2)
    node: Any = InputNode()
    for _ in range(length):
        node = a.forward.bind(node)
    assert lower(plan_of(node), build_graph(node)).programs["Stage_0"].slots == 2


def test_a_very_long_chain_is_compiled() -> None:
    """Python's compiler and parser are recursive; the source is not deep."""
    a, _ = actors(2)
    node: Any = InputNode()
    for _ in range(5000):
        node = a.forward.bind(node)
    source = emit(lower(plan_of(node), build_graph(node)).programs["Stage_0"]).source
    compile(source, "loop", "exec")
