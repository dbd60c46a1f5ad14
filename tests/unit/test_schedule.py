from __future__ import annotations

from typing import Any

from dagc.bind import InputNode, MultiOutputNode
from tests.fakes import actor, actors, ops_of, plan_of


def test_a_value_is_received_right_before_its_first_use_and_sent_right_after_it_is_made() -> None:
    a, b = actors(2)
    x = InputNode()
    first = a.forward.bind(x[0])
    second = b.update.bind(first, x[1])
    third = a.update.bind(first, second, x[1])
    assert ops_of(plan_of(third)) == {
        "driver": ["send input[0]", "send input[1]", "recv Stage_0.update"],
        "Stage_0": [
            "recv input[0]",
            "run Stage_0.forward",
            "send Stage_0.forward",
            "recv Stage_1.update",
            "recv input[1]",
            "run Stage_0.update",
            "send Stage_0.update",
        ],
        "Stage_1": ["recv Stage_0.forward", "recv input[1]", "run Stage_1.update", "send Stage_1.update"],
    }


def test_a_value_that_two_calls_use_is_received_once() -> None:
    a, x = actor(), InputNode()
    ops = ops_of(plan_of(MultiOutputNode([a.forward.bind(x), a.forward.bind(x)])))["Stage_0"]
    assert ops.count("recv input") == 1


def test_the_driver_sends_everything_then_receives_everything_once() -> None:
    a, b = actors(2)
    x = InputNode()
    first, second = a.forward.bind(x[0]), b.forward.bind(x.k)
    assert ops_of(plan_of(MultiOutputNode([second, first, second, x[0]])))["driver"] == [
        "send input[0]",
        "send input.k",
        "recv Stage_1.forward",
        "recv Stage_0.forward",
    ]


def test_an_actor_makes_its_calls_in_the_order_of_the_graph() -> None:
    a, b = actors(2)
    x = InputNode()
    micro_batches: list[Any] = [b.forward.bind(a.forward.bind(x[i])) for i in range(3)]
    ops = ops_of(plan_of(MultiOutputNode(micro_batches)))
    runs = [op for op in ops["Stage_1"] if op.startswith("run")]
    assert runs == ["run Stage_1.forward", "run Stage_1.forward#1", "run Stage_1.forward#2"]


def test_an_actor_that_would_wait_for_nothing_is_sent_a_tick() -> None:
    a, b = actors(2)
    assert ops_of(plan_of(MultiOutputNode([a.update.bind(), b.update.bind(1)]))) == {
        "driver": ["send tick", "recv Stage_0.update", "recv Stage_1.update"],
        "Stage_0": ["recv tick", "run Stage_0.update", "send Stage_0.update"],
        "Stage_1": ["recv tick", "run Stage_1.update", "send Stage_1.update"],
    }


def test_an_actor_that_was_started_by_a_receive_needs_no_tick() -> None:
    a, x = actor(), InputNode()
    ops = ops_of(plan_of(MultiOutputNode([a.forward.bind(x), a.update.bind()])))
    assert ops["driver"][0] == "send input"
    assert "recv tick" not in ops["Stage_0"]


def test_an_actor_whose_first_call_receives_nothing_needs_a_tick_though_a_later_one_does() -> None:
    a, x = actor(), InputNode()
    ops = ops_of(plan_of(MultiOutputNode([a.update.bind(), a.forward.bind(x)])))
    assert ops["driver"][:2] == ["send tick", "send input"]
    assert ops["Stage_0"][:2] == ["recv tick", "run Stage_0.update"]


def test_values_that_stay_on_their_actor_are_not_sent() -> None:
    a = actor()
    ops = ops_of(plan_of(a.forward.bind(a.forward.bind(InputNode()))))["Stage_0"]
    assert ops == ["recv input", "run Stage_0.forward+Stage_0.forward#1", "send Stage_0.forward#1"]
