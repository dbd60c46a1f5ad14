from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.errors import DeadlockError, GraphError
from dagc.passes.simulate import simulate
from dagc.plan import Channel, Op, OpKind, Schedule


def schedule(**parties: str) -> Schedule:
    return {party: tuple(Op.parse(op) for op in text.split(";")) for party, text in parties.items()}


def channel(name: str, writer: str, readers: str, slots: int) -> Channel:
    return Channel(name, writer, tuple(readers.split()), "shm", slots, 64)


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


def test_a_party_cannot_meet_itself() -> None:
    with pytest.raises(DeadlockError, match="A waits at 'send c' for A"):
        simulate(schedule(A="send c; recv c"), [channel("c", "A", "A", 0)])
    assert simulate(schedule(A="send c; recv c"), [channel("c", "A", "A", 1)]) == 2


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (schedule(A="send x"), "A has the op 'send x', but the plan has no channel x"),
        (schedule(B="send c"), "B has the op 'send c'; expected only of A"),
        (schedule(A="recv c"), "A has the op 'recv c'; expected only of B, C"),
    ],
)
def test_an_op_on_a_channel_that_its_party_has_no_end_of_is_refused(ops: Schedule, message: str) -> None:
    with pytest.raises(GraphError, match=message.replace("(", r"\(")):
        simulate(ops, [channel("c", "A", "B C", 1)])


def test_a_large_circle_is_shown_in_part() -> None:
    n = 1000
    ring = {f"p{i}": (Op.parse(f"recv c{i}"), Op.parse(f"send c{(i + 1) % n}")) for i in range(n)}
    with pytest.raises(DeadlockError) as caught:
        simulate(ring, [channel(f"c{i}", f"p{(i - 1) % n}", f"p{i}", 1) for i in range(n)])
    text = str(caught.value)
    assert "... and 994 more, the last for p0" in text
    assert "1000 of 1000 parties are stuck" in text
    assert len(text) < 2000


@st.composite
def random_schedules(draw: st.DrawFn) -> tuple[Schedule, list[Channel]]:
    parties = [f"a{i}" for i in range(draw(st.integers(2, 4)))]
    channels = []
    ops: dict[str, list[Op]] = {party: [Op(OpKind.RUN, "f")] for party in parties}
    for i in range(draw(st.integers(1, 4))):
        writer = draw(st.sampled_from(parties))
        others = [party for party in parties if party != writer]
        readers = draw(st.lists(st.sampled_from(others), min_size=1, unique=True))
        channels.append(channel(f"c{i}", writer, " ".join(readers), draw(st.integers(0, 2))))
        for _ in range(draw(st.integers(1, 2))):
            ops[writer].append(Op(OpKind.SEND, f"c{i}"))
            for reader in readers:
                ops[reader].append(Op(OpKind.RECV, f"c{i}"))
    return {party: tuple(draw(st.permutations(ops[party]))) for party in parties}, channels


@given(random_schedules(), st.integers(0, 2**32))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_the_verdict_is_that_of_one_move_at_a_time(drawn: tuple[Schedule, list[Channel]], seed: int) -> None:
    ops, channels = drawn
    try:
        rounds = simulate(ops, channels)
    except DeadlockError:
        rounds = None
    assert rounds == all_at_once(ops, channels)
    rng = random.Random(seed)
    for _ in range(3):
        assert one_at_a_time(ops, channels, rng) == (rounds is not None)
    if rounds is not None:  # and three executions, every party free to run ahead
        assert one_at_a_time({party: 3 * own for party, own in ops.items()}, channels, rng)


class Reference:
    """The slow reference: tokens, and a look at every party before every move."""

    def __init__(self, ops: Schedule, channels: list[Channel]) -> None:
        self.ops, self.channels = ops, {c.name: c for c in channels}
        self.at = dict.fromkeys(ops, 0)
        self.sent = dict.fromkeys(self.channels, 0)
        self.read = {(c.name, reader): 0 for c in channels for reader in c.readers}

    def head(self, party: str) -> Op | None:
        return self.ops[party][self.at[party]] if self.at[party] < len(self.ops[party]) else None

    def ready(self, party: str) -> bool:
        op = self.head(party)
        if op is None or op.kind is OpKind.RUN:
            return op is not None
        c = self.channels[op.target]
        if c.slots == 0:
            meeting = all(self.head(r) == Op(OpKind.RECV, c.name) for r in c.readers)
            return meeting and self.head(c.writer) == Op(OpKind.SEND, c.name)
        if op.kind is OpKind.RECV:
            return self.sent[c.name] > self.read[c.name, party]
        return self.sent[c.name] - min(self.read[c.name, r] for r in c.readers) < c.slots

    def group(self, party: str) -> tuple[str, ...]:
        """Those that move together with a party."""
        op = self.head(party)
        assert op is not None
        if op.kind is OpKind.RUN or self.channels[op.target].slots:
            return (party,)
        return (self.channels[op.target].writer, *self.channels[op.target].readers)

    def step(self, parties: tuple[str, ...]) -> None:
        for party in parties:
            op = self.head(party)
            assert op is not None
            if op.kind is OpKind.SEND:
                self.sent[op.target] += 1
            elif op.kind is OpKind.RECV:
                self.read[op.target, party] += 1
            self.at[party] += 1

    def moving(self) -> list[str]:
        return [party for party in self.ops if self.ready(party)]

    def finished(self) -> bool:
        return all(self.head(party) is None for party in self.ops)


def all_at_once(ops: Schedule, channels: list[Channel]) -> int | None:
    run, rounds = Reference(ops, channels), 0
    while moving := run.moving():
        run.step(tuple(moving))
        rounds += 1
    return rounds if run.finished() else None


def one_at_a_time(ops: Schedule, channels: list[Channel], rng: random.Random) -> bool:
    run = Reference(ops, channels)
    while moving := run.moving():
        run.step(run.group(rng.choice(moving)))
    return run.finished()
