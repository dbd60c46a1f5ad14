"""How many messages a channel has to hold, and that so many are enough and fewer are not."""

from __future__ import annotations

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.errors import DeadlockError
from dagc.passes.buffers import plan_buffers
from dagc.passes.simulate import simulate
from dagc.plan import Channel, Plan
from tests.fakes import actor, actors, plan_of

LOOP = """\
plan loop: 8 in flight, bind order

channels:
  in    driver  ->  A       shm  8 x 64
  ask   A       ->  B       shm  8 x 64
  tell  B       ->  A       shm  8 x 64
  out   A       ->  driver  shm  8 x 64

driver:
  send in
  recv out

A:
  recv in
  run  A.a
  send ask
  recv tell
  run  A.b
  send out

B:
  recv ask
  run  B.c
  send tell
"""


def slots_of(plan: Plan) -> dict[str, int]:
    return {channel.name: channel.slots for channel in plan.channels}


def planned(text: str, most: int = 8) -> dict[str, int]:
    plan = Plan.parse(text)
    return {channel.name: channel.slots for channel in plan_buffers(plan.schedule, plan.channels, most)}


def test_a_pipeline_needs_a_slot_for_every_execution() -> None:
    a, b = actors(2)
    assert set(slots_of(plan_of(b.forward.bind(a.forward.bind(InputNode())))).values()) == {8}


def test_a_question_that_is_answered_needs_one() -> None:
    assert planned(LOOP) == {"in": 8, "ask": 1, "tell": 1, "out": 8}


def test_an_answer_that_is_given_an_execution_late_needs_two() -> None:
    """B answers before it is asked: it may be an answer ahead, and A a question."""
    late = LOOP.replace("  recv ask\n  run  B.c\n  send tell\n", "  send tell\n  run  B.c\n  recv ask\n")
    assert planned(late) == {"in": 8, "ask": 2, "tell": 2, "out": 8}


def test_a_reader_outside_of_the_circle_needs_them_all() -> None:
    a, b, c = actors(3)
    x = InputNode()
    asked = a.forward.bind(x)
    node = a.update.bind(b.forward.bind(asked))
    plan = plan_of(MultiOutputNode([node, c.forward.bind(asked)]))
    assert slots_of(plan)["Stage_0.forward"] == 8
    assert slots_of(plan)["Stage_1.forward"] == 1


def test_free_actors_are_held_back_by_nothing() -> None:
    a, b = actors(2)
    node = a.update.bind(b.forward.bind(a.forward.bind(InputNode())))
    assert set(slots_of(plan_of(node, order="free")).values()) == {8}


def test_a_very_large_circle_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagc.passes.buffers._MOST_WORK", 1)
    assert set(planned(LOOP).values()) == {8}


@pytest.mark.parametrize("inflight", [1, 2, 3, 8])
def test_the_slots_are_enough_with_all_executions_under_way(inflight: int) -> None:
    workers, gather = actors(3), actor("Gather")
    node = InputNode()
    for _ in range(3):
        node = gather.update.bind([worker.forward.bind(node) for worker in workers])  # type: ignore[assignment]
    plan = plan_of(node, max_inflight=inflight)
    assert simulate(plan.schedule, plan.channels, ahead=inflight) > 0


def test_an_output_with_fewer_slots_than_executions_ahead_would_deadlock() -> None:
    """What the window relies on, and why an output channel is never made smaller."""
    plan = Plan.parse(LOOP)
    small = tuple(c._replace(slots=1) if c.name in ("in", "out") else c for c in plan.channels)
    assert simulate(plan.schedule, small, ahead=1) > 0
    with pytest.raises(DeadlockError):
        simulate(plan.schedule, small, ahead=8)


def test_channels_that_hold_nothing_stay_so() -> None:
    channel = Channel("c", "A", ("B",), "nccl", 0, 64)
    assert plan_buffers({"A": (), "B": ()}, [channel], 8) == (channel,)


def test_actors_that_all_ask_each_other_are_planned_quickly() -> None:
    """60 channels of 60 readers each: a search for each reader, instead of one for all, took 20 s."""
    handles = actors(60)
    with InputNode() as x:
        first = [handle.forward.bind(x) for handle in handles]
        output = MultiOutputNode([handle.update.bind(*first) for handle in handles])
    assert set(slots_of(plan_of(output)).values()) <= {1, 2, 4, 8}
