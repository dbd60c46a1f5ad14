from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.errors import DeadlockError, GraphError
from dagc.passes.overlap import post_receives
from dagc.passes.simulate import simulate
from dagc.plan import Channel, Group, Op, OpKind, Schedule
from tests.interleavings import channel, schedule


def posted(ops: Schedule, channels: list[Channel], groups: tuple[Group, ...] = ()) -> dict[str, str]:
    """The schedule with posts, as text; and it finishes."""
    found = post_receives(ops, channels, groups)
    simulate(found, channels, groups)
    return {party: "; ".join(map(str, own)) for party, own in found.items()}


def test_a_receive_is_posted_in_front_of_the_call_before_it() -> None:
    ops = schedule(
        A="run a1; send x1; run a2; send x2; run a3; send x3",
        B="recv x1; run b1; send y1; recv x2; run b2; send y2; recv x3; run b3; send y3",
        C="recv y1; run c1; recv y2; run c2; recv y3; run c3",
    )
    names = ("x1", "x2", "x3", "y1", "y2", "y3")
    channels = [channel(name, "A" if name[0] == "x" else "B", "B" if name[0] == "x" else "C", 0) for name in names]
    assert posted(ops, channels) == {
        "A": "run a1; send x1; run a2; send x2; run a3; send x3",
        "B": ("recv x1; post x2; run b1; send y1; recv x2; post x3; run b2; send y2; recv x3; run b3; send y3"),
        "C": "recv y1; post y2; run c1; recv y2; post y3; run c2; recv y3; run c3",
    }


def test_a_sender_is_no_longer_held_up_by_the_call_of_its_reader() -> None:
    ops = schedule(A="send x; run a1; run a2", B="run b; recv x")
    channels = [channel("x", "A", "B", 0)]
    assert simulate(ops, channels) == 4
    assert simulate(post_receives(ops, channels), channels) == 3


def test_messages_in_slots_arrive_by_themselves() -> None:
    ops = schedule(A="send x; send y", B="run b; recv x; recv y")
    channels = [channel("x", "A", "B", 1), channel("y", "A", "B", 0)]
    assert posted(ops, channels)["B"] == "post y; run b; recv x; recv y"
    assert post_receives(ops, [c._replace(slots=1) for c in channels]) == ops


def test_neighbouring_calls_are_not_parted() -> None:
    ops = schedule(A="send x", B="run a; run b+c; run d; recv x")
    assert posted(ops, [channel("x", "A", "B", 0)])["B"] == "post x; run a; run b+c; run d; recv x"


def test_all_receives_of_the_next_call_are_posted_in_their_order() -> None:
    ops = schedule(A="send x; send z", C="send y", B="run a; recv x; recv y; recv z; run b")
    channels = [channel("x", "A", "B", 0), channel("y", "C", "B", 0), channel("z", "A", "B", 0)]
    assert posted(ops, channels)["B"] == "post x; post y; post z; run a; recv x; recv y; recv z; run b"


def test_a_receive_is_not_posted_further_ahead_than_one_call() -> None:
    ops = schedule(A="send x", C="send y", B="run a; recv y; run b; recv x")
    channels = [channel("x", "A", "B", 0), channel("y", "C", "B", 0)]
    assert posted(ops, channels)["B"] == "post y; run a; recv y; post x; run b; recv x"


def test_one_message_of_a_channel_is_on_its_way() -> None:
    ops = schedule(A="send x; send x; send x", B="run a; recv x; recv x; run b; recv x")
    assert posted(ops, [channel("x", "A", "B", 0)])["B"] == "post x; run a; recv x; recv x; post x; run b; recv x"


def test_a_post_does_not_cross_an_op_on_its_channel() -> None:
    # With a post B could meet itself: a schedule that deadlocks is not mended in this way.
    channels = [channel("x", "B", "B C", 0)]
    assert simulate(schedule(B="post x; run a; send x; recv x", C="recv x"), channels) == 3
    ops = schedule(B="run a; send x; recv x", C="recv x")
    assert post_receives(ops, channels) == ops


def test_a_message_that_depends_on_the_call_is_not_posted() -> None:
    ops = schedule(A="recv fwd; run head; send bwd", B="run f; send fwd; recv bwd; run g; recv late", C="send late")
    channels = [channel("fwd", "B", "A", 0), channel("bwd", "A", "B", 0), channel("late", "C", "B", 0)]
    assert posted(ops, channels) == {
        "A": "recv fwd; run head; send bwd",
        "B": "run f; send fwd; recv bwd; post late; run g; recv late",
        "C": "send late",
    }


@pytest.mark.parametrize("order", [("A", "B"), ("B", "A")])
def test_of_two_posts_in_a_circle_that_of_the_later_message_is_given_up(order: tuple[str, ...]) -> None:
    # b depends on what A does after its call; a could be received before B's.
    texts = {"A": "run f; send a; recv b", "B": "run g; recv a; run h; send b"}
    ops = schedule(**{party: texts[party] for party in order})
    assert posted(ops, [channel("a", "A", "B", 0), channel("b", "B", "A", 0)]) == {
        "A": "run f; send a; recv b",
        "B": "post a; run g; recv a; run h; send b",
    }


def test_which_message_is_later_is_asked_of_each_message_of_a_channel() -> None:
    ops = schedule(A="recv b; run f; send a; recv b", B="send b; run g; recv a; run h; send b")
    assert posted(ops, [channel("a", "A", "B", 0), channel("b", "B", "A", 0)]) == {
        "A": "recv b; run f; send a; recv b",
        "B": "send b; post a; run g; recv a; run h; send b",
    }


def test_a_receive_whose_post_was_given_up_is_waited_for_by_others() -> None:
    # x depends on go; so B is at its recv of x only after it has k; so C must not wait for z, which comes after x.
    ops = schedule(
        A="recv go; send x; send z",
        B="run f; send go; recv k; recv x",
        C="run p; send k; recv z; run q; recv y",
        D="send y",
    )
    channels = [channel("go", "B", "A", 1), channel("k", "C", "B", 1), channel("x", "A", "B", 0)]
    channels += [channel("z", "A", "C", 0), channel("y", "D", "C", 0)]
    found = posted(ops, channels)
    assert found["B"] == "run f; send go; recv k; recv x"
    assert found["C"] == "run p; send k; recv z; post y; run q; recv y"


def test_with_a_post_that_is_given_up_go_later_ones_of_the_same_sender() -> None:
    ops = schedule(A="recv go; send x; send y", B="run f; send go; recv x; recv y; run g")
    channels = [channel("go", "B", "A", 1), channel("x", "A", "B", 0), channel("y", "A", "B", 0)]
    assert posted(ops, channels)["B"] == "run f; send go; recv x; recv y; run g"
    ops = {**ops, **schedule(B="run f; send go; recv x; recv y; recv z; run g", C="send z")}
    channels.append(channel("z", "C", "B", 0))
    assert posted(ops, channels)["B"] == "post z; run f; send go; recv x; recv y; recv z; run g"


def test_a_post_goes_over_collectives_and_other_sends_where_the_receive_could() -> None:
    groups = (Group("g", "allreduce", ("A", "B")),)
    channels = [channel("x", "C", "B", 0), channel("y", "B", "C", 1)]
    ops = schedule(A="join g", B="run f; join g; send y; recv x", C="send x; recv y")
    assert posted(ops, channels, groups)["B"] == "post x; run f; join g; send y; recv x"
    ops = schedule(A="join g; send x", B="run f; join g; recv x", C="")
    channels = [channel("x", "A", "B", 0)]
    assert posted(ops, channels, groups)["B"] == "run f; join g; recv x"


def test_every_reader_of_a_message_decides_for_itself() -> None:
    ops = schedule(A="recv go; send x", B="run f; send go; recv x", C="run g; recv x")
    channels = [channel("go", "B", "A", 0), channel("x", "A", "B C", 0)]
    assert posted(ops, channels) == {
        "A": "recv go; send x",
        "B": "run f; send go; recv x",
        "C": "post x; run g; recv x",
    }


def test_what_has_posts_or_deadlocks_comes_back_as_it_is() -> None:
    channels = [channel("x", "A", "B", 0), channel("y", "A", "B", 0), channel("z", "B", "A", 0)]
    has_posts = schedule(A="send x; send y", B="post x; run f; recv x; run g; recv y")
    assert post_receives(has_posts, channels) == has_posts
    deadlocks = schedule(A="run f; send x; recv z", B="run g; send z; recv x")
    assert post_receives(deadlocks, channels) == deadlocks


def test_a_schedule_that_means_nothing_is_refused() -> None:
    with pytest.raises(GraphError, match="A has the op 'recv x'; expected only of B"):
        post_receives(schedule(A="run f; recv x"), [channel("x", "A", "B", 0)])


def test_a_long_pipeline_gets_a_post_for_each_message_but_the_first() -> None:
    stages, batches = 50, 20
    channels, ops = [], {}
    for s in range(stages):
        own = []
        for b in range(batches):
            if s:
                own.append(Op(OpKind.RECV, f"x{s - 1}.{b}"))
                channels.append(channel(f"x{s - 1}.{b}", f"p{s - 1}", f"p{s}", 0))
            own.append(Op(OpKind.RUN, f"f{s}.{b}"))
            if s + 1 < stages:
                own.append(Op(OpKind.SEND, f"x{s}.{b}"))
        ops[f"p{s}"] = tuple(own)
    found = post_receives(ops, channels)
    assert [sum(op.kind is OpKind.POST for op in own) for own in found.values()] == [0] + [batches - 1] * (stages - 1)
    assert simulate(found, channels) <= simulate(ops, channels)


@st.composite
def random_schedules(draw: st.DrawFn) -> tuple[Schedule, list[Channel], list[Group]]:
    """Messages, collectives and calls, in an order that works."""
    parties = [f"a{i}" for i in range(draw(st.integers(2, 4)))]
    ops: dict[str, list[Op]] = {party: [] for party in parties}
    channels = []
    for i in range(draw(st.integers(1, 5))):
        writer = draw(st.sampled_from(parties))
        others = [party for party in parties if party != writer]
        readers = draw(st.lists(st.sampled_from(others), min_size=1, max_size=2, unique=True))
        channels.append(channel(f"c{i}", writer, " ".join(readers), draw(st.sampled_from([0, 0, 0, 1]))))
    members = tuple(draw(st.lists(st.sampled_from(parties), min_size=2, unique=True)))
    groups = [Group("g", "allreduce", members)] if draw(st.booleans()) else []
    again = draw(st.lists(st.sampled_from(channels), max_size=2))
    for event in draw(st.permutations([*channels, *again, *groups, *parties, *parties])):
        if isinstance(event, Channel):
            ops[event.writer].append(Op(OpKind.SEND, event.name))
            for reader in event.readers:
                ops[reader].append(Op(OpKind.RECV, event.name))
        elif isinstance(event, Group):
            for member in event.members:
                ops[member].append(Op(OpKind.JOIN, event.name))
        else:
            ops[event].append(Op(OpKind.RUN, "f"))
    return {party: tuple(own) for party, own in ops.items()}, channels, groups


def test_posts_keep_what_they_promise() -> None:
    seen = Counter[str]()

    @given(random_schedules())
    @settings(derandomize=True, max_examples=150, deadline=None)
    def check(drawn: tuple[Schedule, list[Channel], list[Group]]) -> None:
        ops, channels, groups = drawn
        found = post_receives(ops, channels, groups)
        assert {p: tuple(op for op in own if op.kind is not OpKind.POST) for p, own in found.items()} == dict(ops)
        for own in found.values():
            check_places(own)
        # simulate also refuses messages of two parties that are not received in the order of their sends.
        assert simulate(found, channels, groups) <= simulate(ops, channels, groups)
        # It also ends if each posted receive is over before the reader goes on.
        simulate({party: received_where_posted(own) for party, own in found.items()}, channels, groups)
        assert post_receives(found, channels, groups) == found
        seen["posts"] += sum(op.kind is OpKind.POST for own in found.values() for op in own)
        seen.update("needed" if deadlocks else "needless" for deadlocks in given_up(found, channels, groups))

    check()
    assert seen["posts"] > 50, seen
    # Nearly every post that is not there would let the schedule deadlock, if receives were over where they are posted.
    assert seen["needed"] > 10, seen
    assert seen["needless"] * 20 < seen["needed"], seen


def check_places(own: tuple[Op, ...]) -> None:
    """A post stands in front of calls, and only they and ops of other channels, but no other call, before its recv."""
    for i, op in enumerate(own):
        if op.kind is OpKind.POST:
            behind = [other for other in own[i:] if other.kind is not OpKind.POST]
            assert behind[0].kind is OpKind.RUN
            between = behind[: behind.index(Op(OpKind.RECV, op.target))]
            calls = [other.kind is OpKind.RUN for other in between]
            assert calls == sorted(calls, reverse=True)
            assert not [other for other in between if other.target == op.target]


def received_where_posted(own: tuple[Op, ...]) -> tuple[Op, ...]:
    found, early = [], Counter[str]()
    for op in own:
        if op.kind is OpKind.POST:
            early[op.target] += 1
            found.append(Op(OpKind.RECV, op.target))
        elif op.kind is OpKind.RECV and early[op.target]:
            early[op.target] -= 1
        else:
            found.append(op)
    return tuple(found)


def given_up(found: Schedule, channels: list[Channel], groups: list[Group]) -> Iterator[bool]:
    """For each receive that could have a post and has none: whether receiving there would be a deadlock."""
    rendezvous = {c.name for c in channels if c.slots == 0}
    for party, own in found.items():
        for i, op in enumerate(own):
            calls = [j for j in range(i) if own[j].kind is OpKind.RUN]
            if op.kind is not OpKind.RECV or op.target not in rendezvous or not calls:
                continue
            first = calls[-1]
            while first and own[first - 1].kind is OpKind.RUN:
                first -= 1
            posts = first
            while posts and own[posts - 1].kind is OpKind.POST:
                posts -= 1
            if any(other.target == op.target and other.kind is not OpKind.JOIN for other in own[posts:i]):
                continue
            received = [other.target for other in own[first:i]]
            at = next((j for j in range(posts, first) if own[j].target not in received), first)
            tried = {**found, party: (*own[:at], Op(OpKind.POST, op.target), *own[at:])}
            try:
                simulate({p: received_where_posted(ops) for p, ops in tried.items()}, channels, groups)
            except DeadlockError:
                yield True
            else:
                yield False


def test_the_result_is_the_same_however_the_parties_stand() -> None:
    ops = {
        f"p{i}": schedule(p=f"recv c{i}; run f; send c{i + 1}; recv d{i}; run g; send d{i + 1}")["p"] for i in range(6)
    }
    ops = {**ops, "p0": schedule(p="run f; send c1; run g; send d1")["p"]}
    ops["p5"] = schedule(p="recv c5; run f; recv d5; run g")["p"]
    channels = [channel(f"{n}{i + 1}", f"p{i}", f"p{i + 1}", 0) for i in range(5) for n in "cd"]
    expected = post_receives(ops, channels)
    assert sum(op.kind is OpKind.POST for own in expected.values() for op in own) == 5
    rng = random.Random(0)
    for _ in range(5):
        parties = rng.sample(sorted(ops), len(ops))
        assert post_receives({party: ops[party] for party in parties}, channels) == expected
