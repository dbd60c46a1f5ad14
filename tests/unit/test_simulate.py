from __future__ import annotations

import pytest

from dagc.errors import DeadlockError, GraphError
from dagc.passes.simulate import simulate
from dagc.plan import Channel, Group, Op, Schedule
from tests.interleavings import channel, schedule

# The example of Ray's `_detect_deadlock` docstring: one writer, two reads in the order of bind.
CROSSED = schedule(
    driver="send in; recv out",
    A="recv in; run a; send to_f2; send to_f1",
    B="recv to_f1; run f1; recv to_f2; run f2; send out",
)


def crossed(slots: int) -> list[Channel]:
    return [
        channel("in", "driver", "A", 1),
        channel("to_f1", "A", "B", slots),
        channel("to_f2", "A", "B", slots),
        channel("out", "B", "driver", 1),
    ]


def test_crossed_sends_finish_when_buffered() -> None:
    assert simulate(CROSSED, crossed(slots=1)) == 11


def test_crossed_sends_deadlock_on_rendezvous_and_the_error_shows_where() -> None:
    with pytest.raises(DeadlockError) as caught:
        simulate(CROSSED, crossed(slots=0))
    assert str(caught.value) == (
        "this schedule deadlocks in round 3:\n"
        "  B waits at 'recv to_f1' for A\n"
        "  A waits at 'send to_f2' for B\n"
        "3 of 3 parties are stuck. Let the parties make these sends and recvs in the same order, "
        "or give the channels slots.\n"
        "\n"
        "step  driver               A                      B\n"
        "0     send in              recv in                recv to_f1  <-- stuck\n"
        "1     recv out  <-- stuck  run a                  run f1\n"
        "2                          send to_f2  <-- stuck  recv to_f2\n"
        "3                          send to_f1             run f2\n"
        "4                                                 send out"
    )


def test_a_rendezvous_waits_for_every_reader() -> None:
    assert simulate(schedule(A="run a; send c", B="recv c", C="recv c"), [channel("c", "A", "B C", 0)]) == 2


def test_a_full_channel_waits_for_its_slowest_reader() -> None:
    ops = schedule(A="send c; send c", B="recv c; recv c", C="run a; run b; recv c; recv c")
    assert simulate(ops, [channel("c", "A", "B C", 2)]) == 4
    assert simulate(ops, [channel("c", "A", "B C", 1)]) == 5


def test_no_ops_take_no_rounds() -> None:
    assert simulate({}, []) == 0
    assert simulate({"A": ()}, []) == 0


@pytest.mark.parametrize(
    ("ops", "slots", "advice"),
    [
        (schedule(A="recv b; send a", B="recv a; send b"), 1, "let one of them send before it receives"),
        (schedule(A="send a; send a; recv b", B="send b; send b; recv a; recv a"), 1, "give the channels more slots"),
        (schedule(A="run f; recv b", B="recv a; send b"), 1, "let one of them send before it receives"),
        (schedule(A="run f", B="recv a"), 1, "A has no more ops; give it one that sends a"),
        (schedule(A="send a; send a", B="run f"), 1, "B has no more ops; give it one that receives a"),
        (schedule(A="send a; send a", B="recv a"), 2, "sends 2 messages and B receives 1; expected as many"),
    ],
)
def test_the_error_says_what_to_change(ops: Schedule, slots: int, advice: str) -> None:
    channels = [channel("a", "A", "B", slots), channel("b", "B", "A", slots)]
    with pytest.raises(DeadlockError) as caught:
        simulate(ops, channels)
    assert advice in str(caught.value)


def test_a_posted_receive_lets_the_sender_go_on() -> None:
    c = [channel("c", "A", "B", 0)]
    assert simulate(schedule(A="send c; run a", B="run f; recv c; run g"), c) == 3
    assert simulate(schedule(A="send c; run a", B="post c; run f; recv c; run g"), c) == 3
    assert simulate(schedule(A="send c; run a; run b", B="run f; recv c"), c) == 4
    assert simulate(schedule(A="send c; run a; run b", B="post c; run f; recv c"), c) == 3


def test_posts_are_taken_by_the_recvs_in_order() -> None:
    c = [channel("c", "A", "B", 0)]
    assert simulate(schedule(A="send c; send c", B="post c; post c; run f; run g; recv c; recv c"), c) == 4
    assert simulate(schedule(A="send c; send c", B="post c; run f; run g; recv c; recv c"), c) == 4
    with pytest.raises(DeadlockError, match="A waits at 'send c' for B"):
        simulate(
            schedule(A="send c; send c; send d", B="post c; recv d; recv c; recv c"), [*c, channel("d", "A", "B", 1)]
        )


def test_a_party_that_has_posted_can_meet_itself() -> None:
    assert simulate(schedule(A="post c; send c; recv c"), [channel("c", "A", "A", 0)]) == 2


def test_a_send_waits_for_every_reader_to_have_posted_or_come() -> None:
    ops = schedule(A="send c", B="post c; run f; recv c", C="run f; run g; recv c")
    assert simulate(ops, [channel("c", "A", "B C", 0)]) == 3


def test_a_collective_waits_for_every_member() -> None:
    ops = schedule(A="join g; run a", B="run b; join g", C="run b; run c; join g")
    assert simulate(ops, [], [Group("g", "allreduce", ("A", "B", "C"))]) == 4


def test_collectives_in_another_order_deadlock_and_the_error_says_what_the_missing_do_instead() -> None:
    groups = [Group("sum", "allreduce", ("A", "B", "C")), Group("all", "allgather", ("A", "B"))]
    with pytest.raises(DeadlockError) as caught:
        simulate(schedule(A="join sum; join all", B="join all; join sum", C="join sum"), [], groups)
    assert str(caught.value) == (
        "this schedule deadlocks in round 0:\n"
        "  A waits at 'join sum' for B (is at 'join all')\n"
        "  B waits at 'join all' for A (is at 'join sum')\n"
        "3 of 3 parties are stuck. "
        "Let all members of sum and all make their joins, sends and recvs in the same order.\n"
        "\n"
        "step  A                    B                    C\n"
        "0     join sum  <-- stuck  join all  <-- stuck  join sum  <-- stuck\n"
        "1     join all             join sum"
    )


def test_a_member_that_does_not_join_is_named() -> None:
    with pytest.raises(DeadlockError, match=r"A waits at 'join g' for B \(has no more ops\)") as caught:
        simulate(schedule(A="join g", B="run f", C="join g"), [], [Group("g", "broadcast", ("A", "B", "C"))])
    assert "B has no more ops; give it one that joins g." in str(caught.value)


def test_of_many_missing_members_some_are_named() -> None:
    n = 20
    ops = {"first": (Op.parse("join g"),), **{f"m{i}": (Op.parse("run f"),) for i in range(n)}}
    with pytest.raises(DeadlockError) as caught:
        simulate(ops, [], [Group("g", "allreduce", tuple(ops))])
    assert "m4 (has no more ops), m5 (has no more ops) and 14 more\n" in str(caught.value)


def test_a_party_cannot_meet_itself() -> None:
    for ops in ("send c; recv c", "recv c; send c"):
        with pytest.raises(DeadlockError, match=f"A waits at '{ops[:6]}' for A") as caught:
            simulate(schedule(A=ops), [channel("c", "A", "A", 0)])
        assert (
            "c is a rendezvous, and A both writes and reads it: a party cannot meet itself. "
            "Pass the value by reference inside A, or give c slots."
        ) in str(caught.value)
    assert simulate(schedule(A="send c; recv c"), [channel("c", "A", "A", 1)]) == 2


def test_that_it_would_meet_itself_is_said_though_it_waits_for_others_too() -> None:
    ops = schedule(A="send c; recv c; send d", C="recv d; recv c")
    with pytest.raises(DeadlockError, match="A both writes and reads it"):
        simulate(ops, [channel("c", "A", "C A", 0), channel("d", "A", "C", 1)])


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (schedule(A="send x"), "A has the op 'send x', but the plan has no channel x"),
        (schedule(A="post x"), "A has the op 'post x', but the plan has no channel x"),
        (schedule(B="send c"), "B has the op 'send c'; expected only of A"),
        (schedule(A="recv c"), "A has the op 'recv c'; expected only of B, C"),
        (schedule(A="post r"), "A has the op 'post r'; expected only of B, C"),
        (
            schedule(B="post c; recv c"),
            "B has the op 'post c', but that channel has 2 slots; expected only of a rendezvous, which has none",
        ),
        (
            schedule(B="post r"),
            "B has 1 x 'post r' and 0 x 'recv r', and 1 of the posts without a recv that follows; expected",
        ),
        (schedule(B="recv r; post r"), "B has 1 x 'post r' and 1 x 'recv r', and 1 of the posts without a recv"),
        (schedule(B="post r; post r; run f; recv r"), "B has 2 x 'post r' and 1 x 'recv r', and 1 of the posts"),
        (schedule(A="join x"), "A has the op 'join x', but the plan has no group x; its groups are g"),
        (schedule(B="join g"), "B has the op 'join g'; expected only of the members A, C"),
    ],
)
def test_an_op_that_means_nothing_is_refused(ops: Schedule, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        simulate(
            ops,
            [channel("c", "A", "B C", 2), channel("r", "A", "B C", 0)],
            [Group("g", "allreduce", ("A", "C"))],
        )
    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value, DeadlockError)


def test_a_plan_without_groups_says_so() -> None:
    with pytest.raises(GraphError, match="A has the op 'join x', but the plan has no group x, it has none"):
        simulate(schedule(A="join x"), [])


@pytest.mark.parametrize(
    ("channels", "groups", "message"),
    [
        ([channel("c", "A", "B", 1), channel("c", "B", "A", 1)], [], "the plan has 2 channels c; expected one of each"),
        ([], [Group("g", "allreduce", ("A",))] * 3, "the plan has 3 groups g; expected one of each name"),
        ([channel("c", "A", "B B", 1)], [], "channel c has the readers B, B; expected each party once"),
        ([], [Group("g", "allgather", ("A", "B", "A"))], "group g has the members A, B, A; expected each party once"),
    ],
)
def test_what_stands_twice_is_refused(channels: list[Channel], groups: list[Group], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        simulate({}, channels, groups)


def test_posts_out_of_the_order_of_the_sends_are_refused() -> None:
    channels = [channel("x", "A", "B", 0), channel("y", "A", "B", 0)]
    assert simulate(schedule(A="send x; send y", B="post x; post y; run f; recv y; recv x"), channels) == 3
    with pytest.raises(GraphError) as caught:
        simulate(schedule(A="send x; send y", B="post y; run f; recv x; recv y"), channels)
    assert str(caught.value) == (
        "B begins to receive y of A when A sends x; expected its posts and recvs in the order of the sends, "
        "for messages from one party to another are matched by order"
    )


# The driver sends all inputs that it may before it takes a result.
STREAM = schedule(driver="send in; recv out", A="recv in; run f; send out")


def stream(inputs: int, outputs: int) -> list[Channel]:
    return [channel("in", "driver", "A", inputs), channel("out", "A", "driver", outputs)]


@pytest.mark.parametrize(
    ("inputs", "outputs", "most"), [(1, 1, 3), (2, 1, 4), (1, 2, 4), (0, 1, 2), (0, 0, 1), (8, 1, 10)]
)
def test_a_chain_has_room_for_so_many_executions(inputs: int, outputs: int, most: int) -> None:
    # One in each slot, and one in the hands of A: of those that the driver has sent, none has come back.
    assert simulate(STREAM, stream(inputs, outputs), ahead=most) == simulate(STREAM, stream(inputs, outputs))
    with pytest.raises(DeadlockError, match=f"Begin at most {most} "):
        simulate(STREAM, stream(inputs, outputs), ahead=most + 1)


def test_one_slot_less_than_executions_may_be_too_few() -> None:
    # A takes its input only when the driver has taken the output of C.
    ops = schedule(driver="send in; recv out", A="recv s; recv in", C="send out; send s")
    channels = [channel("out", "C", "driver", 0), channel("s", "C", "A", 1)]
    for slots in (1, 2, 3):
        assert simulate(ops, [*channels, channel("in", "driver", "A", slots)], ahead=slots) == 5
        with pytest.raises(DeadlockError, match=rf"Begin at most {slots} .*, or give in {slots + 1} slots\."):
            simulate(ops, [*channels, channel("in", "driver", "A", slots)], ahead=slots + 1)


def test_an_input_channel_with_a_slot_for_each_execution_holds_nothing_up() -> None:
    assert simulate(STREAM, stream(8, 1), ahead=8) == simulate(STREAM, stream(1, 1))
    assert simulate(STREAM, stream(2**20, 1), ahead=2**20) == simulate(STREAM, stream(1, 1))  # and is quick


def test_what_stops_a_driver_that_is_too_far_ahead_is_shown() -> None:
    with pytest.raises(DeadlockError) as caught:
        simulate(STREAM, stream(1, 1), ahead=8)
    assert str(caught.value) == (
        "with 8 executions begun before the first result is taken, this schedule deadlocks:\n"
        "  driver waits at 'send in' of execution 4 for A\n"
        "  A waits at 'send out' of execution 2 for driver\n"
        "2 of 2 parties are stuck. Begin at most 3 (max_inflight=3), or give in 8 slots.\n"
        "\n"
        "step  driver              A\n"
        "0     send in  <-- stuck  recv in\n"
        "1     recv out            run f\n"
        "2                         send out  <-- stuck"
    )


def test_a_driver_that_takes_nothing_back_is_never_too_far_ahead() -> None:
    ops = schedule(driver="send in", A="recv in; run f")
    assert simulate(ops, [channel("in", "driver", "A", 1)], ahead=100) == 3
    assert simulate(schedule(A="send c", B="recv c"), [channel("c", "A", "B", 1)], ahead=100) == 2


def test_several_inputs_need_slots_for_all_their_messages() -> None:
    ops = schedule(driver="send a; send b; send a; recv out", A="recv a; recv b; recv a; run f; send out")
    channels = [channel("a", "driver", "A", 2), channel("b", "driver", "A", 1), channel("out", "A", "driver", 1)]
    with pytest.raises(DeadlockError, match=r"Begin at most 3 .* or give a 8 slots and b 4 slots\."):
        simulate(ops, channels, ahead=4)


@pytest.mark.parametrize(
    ("driver", "op"),
    [("recv out; send in", "send in"), ("send in; run f; recv out", "run f"), ("send in; join g; recv out", "join g")],
)
def test_a_driver_that_does_not_send_first_cannot_be_ahead(driver: str, op: str) -> None:
    ops = schedule(driver=driver, A="send out; join g; recv in" if "join" in driver else "send out; recv in")
    channels, groups = stream(1, 1), [Group("g", "allreduce", ("driver", "A"))]
    simulate(ops, channels, groups)
    with pytest.raises(GraphError, match=f"with 2 executions under way the driver has the op '{op}' out of place"):
        simulate(ops, channels, groups, ahead=2)


def test_at_least_one_execution_is_begun() -> None:
    with pytest.raises(GraphError, match="ahead=0; expected at least one execution"):
        simulate(STREAM, stream(1, 1), ahead=0)


def test_a_large_circle_is_shown_in_part() -> None:
    n = 1000
    ring = {f"p{i}": (Op.parse(f"recv c{i}"), Op.parse(f"send c{(i + 1) % n}")) for i in range(n)}
    with pytest.raises(DeadlockError) as caught:
        simulate(ring, [channel(f"c{i}", f"p{(i - 1) % n}", f"p{i}", 1) for i in range(n)])
    text = str(caught.value)
    assert "... and 994 more, the last for p0" in text
    assert "1000 of 1000 parties are stuck" in text
    assert len(text) < 2000
