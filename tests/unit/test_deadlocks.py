"""The graphs that are known to deadlock, or not, when values travel by unbuffered NCCL sends.

The cases are those of Ray's test_detect_deadlock_dag.py. Each is written by hand as a plan with rendezvous channels;
where InputNode and bind can say it, it is also bound. Then a value that stays with its actor is passed by reference
and has no channel, and all communication is in one order.
"""

from __future__ import annotations

from typing import Any

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.errors import DeadlockError
from dagc.passes.order import order_calls
from dagc.passes.overlap import post_receives
from dagc.passes.schedule import order_ops
from dagc.passes.simulate import simulate
from dagc.plan import Plan
from tests.fakes import actor, actors, plan_of


def plan(text: str, max_inflight: int = 1) -> Plan:
    return Plan.parse(f"plan case: {max_inflight} in flight, bind order\n{text}")


def run(found: Plan) -> int:
    return simulate(found.schedule, found.channels, found.groups, ahead=found.max_inflight)


def deadlock(found: Plan) -> str:
    with pytest.raises(DeadlockError) as caught:
        run(found)
    return str(caught.value)


def bound(output: Any) -> Plan:
    """The plan of a graph, and the proof that it would finish too if its actors met at rendezvous."""
    made = plan_of(output)
    graph = build_graph(output)
    met = tuple(
        c if "driver" in (c.writer, *c.readers) else c._replace(transport="nccl", slots=0) for c in made.channels
    )
    ops = order_ops(graph, order_calls(graph, "bind"), met)
    simulate(ops, met, ahead=8)
    simulate(post_receives(ops, met), met, ahead=8)
    return made


def between_actors(made: Plan) -> list[str]:
    return [c.name for c in made.channels if "driver" not in (c.writer, *c.readers)]


ONE_ACTOR = """
channels:
  input  driver -> A       shm   1 x 64
  a1     A      -> A       nccl  0 x 64
  a2     A      -> driver  shm   1 x 64
driver:
  send input
  recv a2
A:
  recv input
  run  a1
  send a1
  recv a1
  run  a2
  send a2
"""


def test_an_actor_that_sends_to_itself() -> None:
    text = deadlock(plan(ONE_ACTOR))
    assert "A waits at 'send a1' for A\n" in text
    assert "a1 is a rendezvous, and A both writes and reads it: a party cannot meet itself." in text


def test_an_actor_that_sends_to_itself_as_bound() -> None:
    a, x = actor(), InputNode()
    assert between_actors(bound(a.forward.bind(a.forward.bind(x)))) == []


TWO_ACTORS = """
channels:
  input  driver -> A, B    shm   1 x 64
  a1     A      -> B       nccl  0 x 64
  b1     B      -> A       nccl  0 x 64
  a2     A      -> driver  shm   1 x 64
  b2     B      -> driver  shm   1 x 64
driver:
  send input
  recv a2
  recv b2
A:
  recv input
  run  a1
  send a1
  recv b1
  run  a2
  send a2
B:
  recv input
  run  b1
"""
BOTH_SEND_FIRST = f"{TWO_ACTORS}  send b1\n  recv a1\n  run  b2\n  send b2\n"
IN_ONE_ORDER = f"{TWO_ACTORS}  recv a1\n  send b1\n  run  b2\n  send b2\n"


def test_two_actors_that_exchange_values() -> None:
    text = deadlock(plan(BOTH_SEND_FIRST))
    assert "A waits at 'send a1' for B\n  B waits at 'send b1' for A\n" in text
    assert "3 of 3 parties are stuck. Let the parties make these sends and recvs in the same order" in text
    assert "send a1  <-- stuck  send b1  <-- stuck" in text
    assert run(plan(IN_ONE_ORDER)) == run(plan(IN_ONE_ORDER, max_inflight=3))


def test_two_actors_that_exchange_values_and_post_their_receives() -> None:
    posted = BOTH_SEND_FIRST.replace("  run  a1\n", "  post b1\n  run  a1\n")
    run(plan(posted))


def test_two_actors_that_exchange_values_as_bound() -> None:
    a, b = actors(2)
    x = InputNode()
    first, second = a.forward.bind(x), b.forward.bind(x)
    made = bound(MultiOutputNode([a.forward.bind(second), b.forward.bind(first)]))
    assert between_actors(made) == ["Stage_0.forward", "Stage_1.forward"]


def test_two_actors_that_pass_a_value_to_and_fro() -> None:
    lines = {"A": ["recv input"], "B": []}
    channels = ["input  driver -> A  shm  1 x 64", "v5  B -> driver  shm  1 x 64"]
    for i in range(6):
        own = "AB"[i % 2]
        if i:
            lines[own].append(f"recv v{i - 1}")
        lines[own] += [f"run v{i}", f"send v{i}"]
        if i < 5:
            channels.append(f"v{i}  {own} -> {'BA'[i % 2]}  nccl  0 x 64")
    parties = {"driver": ["send input", "recv v5"], **lines}
    text = "\n".join(f"{name}:\n" + "".join(f"  {line}\n" for line in own) for name, own in parties.items())
    found = plan("channels:\n" + "".join(f"  {c}\n" for c in channels) + text, max_inflight=2)
    # Input and output, the calls, and the five values between them: nothing happens at the same time.
    assert run(found) == 2 + 6 + 5 + 2
    assert run(Plan.parse(str(found))) == 15


def test_two_actors_that_pass_a_value_to_and_fro_as_bound() -> None:
    a, b = actors(2)
    x: Any = InputNode()
    for _ in range(3):
        x = b.forward.bind(a.forward.bind(x))
    assert len(between_actors(bound(x))) == 5


EACH_TO_ITSELF = """
channels:
  input  driver -> A, B    shm   1 x 64
  a1     A      -> A       nccl  0 x 64
  b1     B      -> B       nccl  0 x 64
  a2     A      -> driver  shm   1 x 64
  b2     B      -> driver  shm   1 x 64
driver:
  send input
  recv a2
  recv b2
A:
  recv input
  run  a1
  send a1
  recv a1
  run  a2
  send a2
B:
  recv input
  run  b1
  send b1
  recv b1
  run  b2
  send b2
"""


def test_two_actors_that_each_send_to_themselves() -> None:
    text = deadlock(plan(EACH_TO_ITSELF))
    assert "a1 is a rendezvous, and A both writes and reads it" in text
    assert "3 of 3 parties are stuck" in text
    one_mended = EACH_TO_ITSELF.replace("A      -> A       nccl  0", "A -> A shm 1")
    assert "b1 is a rendezvous, and B both writes and reads it" in deadlock(plan(one_mended))


def test_two_actors_that_each_send_to_themselves_as_bound() -> None:
    a, b = actors(2)
    x = InputNode()
    made = bound(MultiOutputNode([a.forward.bind(a.forward.bind(x)), b.forward.bind(b.forward.bind(x))]))
    assert between_actors(made) == []


READ_BY_BOTH = """
channels:
  input  driver -> A       shm   1 x 64
  a1     A      -> A, B    nccl  0 x 64
  a2     A      -> driver  shm   1 x 64
  b1     B      -> driver  shm   1 x 64
driver:
  send input
  recv a2
  recv b1
A:
  recv input
  run  a1
  send a1
  recv a1
  run  a2
  send a2
B:
  recv a1
  run  b1
  send b1
"""


def test_a_value_that_its_writer_and_another_read() -> None:
    assert "a1 is a rendezvous, and A both writes and reads it" in deadlock(plan(READ_BY_BOTH))
    run(plan(READ_BY_BOTH.replace("A, B    nccl", "B nccl").replace("  send a1\n  recv a1\n", "  send a1\n")))


def test_a_value_that_its_writer_and_another_read_as_bound() -> None:
    a, b = actors(2)
    value = a.forward.bind(InputNode())
    made = bound(MultiOutputNode([a.forward.bind(value), b.forward.bind(value)]))
    assert between_actors(made) == ["Stage_0.forward"]
    assert made.by_name["Stage_0.forward"].readers == ("Stage_1",)


RING = """
channels:
  input  driver -> A, B, C  shm   1 x 64
  a1     A      -> B        nccl  0 x 64
  b1     B      -> C        nccl  0 x 64
  c1     C      -> A        nccl  0 x 64
  a2     A      -> driver   shm   1 x 64
  b2     B      -> driver   shm   1 x 64
  c2     C      -> driver   shm   1 x 64
driver:
  send input
  recv a2
  recv b2
  recv c2
A:
  recv input
  run  a1
  send a1
  recv c1
  run  a2
  send a2
B:
  recv input
  run  b1
  send b1
  recv a1
  run  b2
  send b2
C:
  recv input
  run  c1
  send c1
  recv b1
  run  c2
  send c2
"""


def test_a_ring_of_three() -> None:
    text = deadlock(plan(RING))
    assert "A waits at 'send a1' for B\n  B waits at 'send b1' for C\n  C waits at 'send c1' for A\n" in text
    assert "4 of 4 parties are stuck" in text
    run(plan(RING.replace("  send c1\n  recv b1\n", "  recv b1\n  send c1\n")))
    in_order = RING.replace("  send b1\n  recv a1\n", "  recv a1\n  send b1\n")
    run(plan(in_order.replace("  send c1\n  recv b1\n", "  recv b1\n  send c1\n"), max_inflight=3))


def test_a_ring_of_three_as_bound() -> None:
    a, b, c = actors(3)
    x = InputNode()
    first, second, third = (each.forward.bind(x) for each in (a, b, c))
    made = bound(MultiOutputNode([a.forward.bind(third), b.forward.bind(first), c.forward.bind(second)]))
    assert len(between_actors(made)) == 3


DIAMOND = """
channels:
  input  driver -> A       shm   1 x 64
  a1     A      -> B, C    nccl  0 x 64
  b1     B      -> A       nccl  0 x 64
  c1     C      -> A       nccl  0 x 64
  a2     A      -> driver  shm   1 x 64
driver:
  send input
  recv a2
A:
  recv input
  run  a1
  send a1
  recv b1
  recv c1
  run  a2
  send a2
B:
  recv a1
  run  b1
  send b1
C:
  recv a1
  run  c1
  send c1
"""


def test_a_diamond() -> None:
    assert run(plan(DIAMOND)) == 10
    assert run(plan(DIAMOND.replace("  recv b1\n  recv c1\n", "  recv c1\n  recv b1\n"))) == 10
    assert (
        run(plan(DIAMOND.replace("nccl  0", "shm  1"), max_inflight=3)) == 12
    )  # a message is there a round after it is sent


def test_a_diamond_as_bound() -> None:
    a, b, c = actors(3)
    value = a.forward.bind(InputNode())
    made = bound(a.update.bind(b.forward.bind(value), c.forward.bind(value)))
    assert between_actors(made) == ["Stage_0.forward", "Stage_1.forward", "Stage_2.forward"]


COLLECTIVES = """
channels:
  input  driver -> Rank_0, Rank_1  shm  4 x 64
  out    Rank_0 -> driver          shm  4 x 64
groups:
  grads  allreduce  Rank_0, Rank_1
  loss   allgather  Rank_0, Rank_1
driver:
  send input
  recv out
Rank_0:
  recv input
  join grads
  join loss
  send out
Rank_1:
  recv input
"""


def test_collectives_in_the_same_order_finish_and_in_another_do_not() -> None:
    assert run(plan(f"{COLLECTIVES}  join grads\n  join loss\n", max_inflight=4)) == 6
    text = deadlock(plan(f"{COLLECTIVES}  join loss\n  join grads\n", max_inflight=4))
    assert (
        "  Rank_0 waits at 'join grads' for Rank_1 (is at 'join loss')\n"
        "  Rank_1 waits at 'join loss' for Rank_0 (is at 'join grads')\n"
        "3 of 3 parties are stuck. "
        "Let all members of grads and loss make their joins, sends and recvs in the same order."
    ) in text


def test_a_collective_that_crosses_a_rendezvous_does_not_finish() -> None:
    text = deadlock(
        plan("""
channels:
  x  Rank_0 -> Rank_1  nccl  0 x 64
groups:
  grads  allreduce  Rank_0, Rank_1
Rank_0:
  send x
  join grads
Rank_1:
  join grads
  recv x
""")
    )
    assert "Rank_0 waits at 'send x' for Rank_1\n  Rank_1 waits at 'join grads' for Rank_0 (is at 'send x')\n" in text
    assert "Let all members of grads make their joins, sends and recvs in the same order." in text


def test_a_rank_that_does_not_join_is_missed() -> None:
    text = deadlock(plan(f"{COLLECTIVES}  join grads\n"))
    assert "Rank_0 waits at 'join loss' for Rank_1 (has no more ops)\n" in text
    assert "Rank_1 has no more ops; give it one that joins loss." in text


LATE_DRIVER = """
channels:
  input  driver -> A       shm  2 x 64
  out    A      -> driver  shm  2 x 64
driver:
  send input
  recv out
A:
  recv input
  run  f
  send out
"""


def test_a_driver_that_takes_results_later_than_the_channels_have_room() -> None:
    assert run(plan(LATE_DRIVER, max_inflight=1)) == 5
    assert run(plan(LATE_DRIVER, max_inflight=5)) == 5
    text = deadlock(plan(LATE_DRIVER, max_inflight=8))
    assert "with 8 executions begun before the first result is taken, this schedule deadlocks:\n" in text
    assert "  driver waits at 'send input' of execution 6 for A\n" in text
    assert "  A waits at 'send out' of execution 3 for driver\n" in text
    assert "Begin at most 5 (max_inflight=5), or give input 8 slots." in text
    assert run(plan(LATE_DRIVER.replace("driver -> A       shm  2", "driver -> A shm 8"), max_inflight=8)) == 5


def test_the_plan_of_a_graph_has_room_for_all_that_are_in_flight() -> None:
    made = plan_of(actor().forward.bind(InputNode()), max_inflight=8)
    assert made.max_inflight == 8
    assert run(made) == 5
