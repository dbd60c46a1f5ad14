"""simulate is right: its verdict is that of every order in which the parties can move, over several executions too."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.errors import DeadlockError, GraphError
from dagc.passes.simulate import simulate
from dagc.plan import Channel, Group, Op, OpKind, Schedule
from tests.interleavings import Interleavings, channel, free_run

Drawn = tuple[Schedule, list[Channel], list[Group]]


@st.composite
def random_schedules(draw: st.DrawFn, *, swaps: int = 5, once: bool = False) -> Drawn:
    """A few messages, collectives and calls in an order that works; then up to `swaps` times two neighbouring ops are
    swapped, and posts put anywhere. `once`: one message a channel, and no posts."""
    parties = [f"a{i}" for i in range(draw(st.integers(2, 3)))]
    ops: dict[str, list[Op]] = {party: [] for party in parties}
    channels = [
        channel(f"c{i}", draw(st.sampled_from(parties)), "", draw(st.sampled_from([0, 0, 1, 2])))
        for i in range(draw(st.integers(1, 3)))
    ]
    for i, c in enumerate(channels):
        others = [party for party in parties if party != c.writer or c.slots or draw(st.integers(0, 7)) == 5]
        channels[i] = c._replace(readers=tuple(draw(st.lists(st.sampled_from(others), min_size=1, unique=True))))
    members = draw(st.lists(st.sampled_from(parties), min_size=2, unique=True))
    groups = [Group(f"g{i}", "allreduce", tuple(members)) for i in range(draw(st.integers(0, 2)))]
    events = [*channels, *([] if once else draw(st.lists(st.sampled_from(channels), max_size=2))), *groups, *parties]
    for event in draw(st.permutations(events)):
        if isinstance(event, Channel):
            ops[event.writer].append(Op(OpKind.SEND, event.name))
            for reader in event.readers:
                ops[reader].append(Op(OpKind.RECV, event.name))
        elif isinstance(event, Group):
            for member in event.members:
                ops[member].append(Op(OpKind.JOIN, event.name))
        else:
            ops[event].append(Op(OpKind.RUN, "f"))
    for _ in range(draw(st.integers(0, swaps))):
        own = ops[draw(st.sampled_from(parties))]
        if len(own) > 1:
            i = draw(st.integers(0, len(own) - 2))
            own[i], own[i + 1] = own[i + 1], own[i]
    if not once:
        for c in channels:
            for reader in c.readers if c.slots == 0 else ():
                for _ in range(draw(st.integers(0, 2))):
                    ops[reader].insert(draw(st.integers(0, len(ops[reader]))), Op(OpKind.POST, c.name))
    return {party: without_vain_posts(own) for party, own in ops.items()}, channels, groups


def without_vain_posts(own: list[Op]) -> tuple[Op, ...]:
    kept, recvs = [], Counter[str]()
    for op in reversed(own):
        if op.kind is OpKind.POST:
            recvs[op.target] -= 1
        if op.kind is OpKind.RECV:
            recvs[op.target] += 1
        if op.kind is OpKind.POST and recvs[op.target] < 0:
            recvs[op.target] = 0
        else:
            kept.append(op)
    return tuple(reversed(kept))


def rounds_of(ops: Schedule, channels: list[Channel], groups: list[Group], ahead: int = 1) -> int | None:
    """What simulate returns, None for a deadlock, -1 for posts in the wrong order."""
    try:
        return simulate(ops, channels, groups, ahead=ahead)
    except DeadlockError:
        return None
    except GraphError as error:
        if "in the order of the sends" not in str(error):
            raise
        return -1


def matched(ops: Schedule, channels: list[Channel]) -> bool:
    """Whether every party begins to receive rendezvous messages of each other in the order of their sends."""
    for writer in ops:
        for reader in ops:
            names = {c.name for c in channels if c.slots == 0 and c.writer == writer and reader in c.readers}
            sent = [op.target for op in ops[writer] if op.kind is OpKind.SEND and op.target in names]
            begun, posted = [], Counter[str]()
            for op in ops[reader]:
                if op.target in names and op.kind in (OpKind.POST, OpKind.RECV):
                    if op.kind is OpKind.RECV and posted[op.target]:
                        posted[op.target] -= 1
                    else:
                        begun.append(op.target)
                        posted[op.target] += op.kind is OpKind.POST
            if sent != begun:
                return False
    return True


def test_the_verdict_is_that_of_every_interleaving() -> None:
    seen = Counter[str]()

    @given(random_schedules())
    @settings(derandomize=True, max_examples=250, deadline=None)
    def check(drawn: Drawn) -> None:
        ops, channels, groups = drawn
        reference = Interleavings(ops, channels, groups)
        (end,) = reference.ends()
        rounds = reference.rounds()
        assert (rounds is not None) == reference.finished(end)
        if rounds is None or matched(ops, channels):
            assert rounds_of(ops, channels, groups) == rounds
            seen["deadlock" if rounds is None else "end"] += 1
        else:
            assert rounds_of(ops, channels, groups) == -1
            seen["mismatch"] += 1

    check()
    assert seen["end"] > 30, seen
    assert seen["deadlock"] > 30, seen


@given(random_schedules(), st.randoms(use_true_random=False))
@settings(derandomize=True, max_examples=120, deadline=None)
def test_one_execution_is_enough_if_each_party_makes_them_one_after_the_other(drawn: Drawn, rng: random.Random) -> None:
    ops, channels, groups = drawn
    ends = rounds_of(ops, channels, groups) is not None
    three = Interleavings({party: 3 * own for party, own in ops.items()}, channels, groups)
    assert three.finished(three.random_end(rng)) == ends


@given(random_schedules(once=True), st.randoms(use_true_random=False))
@settings(derandomize=True, max_examples=120, deadline=None)
def test_ops_of_the_next_execution_that_need_not_wait_change_nothing(drawn: Drawn, rng: random.Random) -> None:
    ops, channels, groups = drawn
    assert free_run(ops, channels, groups, 4, rng) or rounds_of(ops, channels, groups) is None


@st.composite
def random_streams(draw: st.DrawFn) -> tuple[Drawn, int]:
    """As random_schedules, with inputs of a driver in front and outputs behind, and the executions that are ahead."""
    ops, channels, groups = draw(random_schedules(swaps=1, once=True))
    begin, end = [], []
    slots = st.integers(0, 2)
    for i in range(draw(st.integers(1, 2))):
        reader = draw(st.sampled_from(sorted(ops)))
        channels.append(channel(f"in{i}", "driver", reader, draw(slots)))
        ops = {**ops, reader: (Op(OpKind.RECV, f"in{i}"), *ops[reader])}
        begin.append(Op(OpKind.SEND, f"in{i}"))
    for i in range(draw(st.integers(1, 2))):
        writer = draw(st.sampled_from(sorted(ops)))
        channels.append(channel(f"out{i}", writer, "driver", draw(slots)))
        ops = {**ops, writer: (*ops[writer], Op(OpKind.SEND, f"out{i}"))}
        end.append(Op(OpKind.RECV, f"out{i}"))
    return ({"driver": (*begin, *end), **ops}, channels, groups), draw(st.integers(2, 6))


def test_so_many_executions_as_are_ahead_are_enough() -> None:
    seen = Counter[bool | None]()

    @given(random_streams(), st.randoms(use_true_random=False))
    @settings(derandomize=True, max_examples=120, deadline=None)
    def check(drawn: tuple[Drawn, int], rng: random.Random) -> None:
        (ops, channels, groups), ahead = drawn
        alone = rounds_of(ops, channels, groups)
        begin = tuple(op for op in ops["driver"] if op.kind is OpKind.SEND)
        end = ops["driver"][len(begin) :]
        executions = 2 * ahead + 1
        many = {party: executions * own for party, own in ops.items()}
        many["driver"] = ahead * begin + (executions - ahead) * (*end, *begin) + ahead * end
        reference = Interleavings(many, channels, groups)
        finishes = reference.finished(reference.random_end(rng))
        assert rounds_of(ops, channels, groups, ahead) == (alone if finishes else None)
        seen[finishes if alone is not None else None] += 1

    check()
    assert seen[True] > 10, seen
    assert seen[False] > 10, seen
