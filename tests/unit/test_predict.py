"""`predict`: what a plan would do, from what its calls cost; against what is known of pipelines and of queues."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dagc.errors import DeadlockError, GraphError
from dagc.plan import Channel, Group, Op, OpKind, Plan
from dagc.prediction.predict import Prediction, predict
from dagc.prediction.replay import replay
from dagc.prediction.steady import Progress, State, Steady
from dagc.timing.costs import Costs, RunCost
from dagc.timing.trace import PartyTrace

MS = 1e-3
#: More than any plan here has parties.
PLENTY = 1000


def chain(stages: int, max_inflight: int, *, slots: int | None = None, order: str = "bind") -> Plan:
    """The driver sends to S0, S0 to S1 and so on; the last one sends back."""
    slots = max_inflight if slots is None else slots
    values = ["input", *(f"S{i}.f" for i in range(stages))]
    parties = ["driver", *(f"S{i}" for i in range(stages)), "driver"]
    channels = [Channel(value, parties[i], (parties[i + 1],), "shm", slots, 64) for i, value in enumerate(values)]
    schedule = {"driver": ops("send input", f"recv {values[-1]}")}
    for i in range(stages):
        schedule[f"S{i}"] = ops(f"recv {values[i]}", f"run S{i}.f", f"send S{i}.f")
    return Plan("chain", tuple(channels), schedule, (), max_inflight, order)


def ops(*texts: str) -> tuple[Op, ...]:
    return tuple(Op.parse(text) for text in texts)


def plan(
    channels: Sequence[str], max_inflight: int = 4, groups: Sequence[str] = (), order: str = "bind", **parties: str
) -> Plan:
    """`channels`: "name writer reader,reader slots"; parties: their ops with ";" between them."""
    found = []
    for text in channels:
        name, writer, readers, slots = text.split()
        found.append(Channel(name, writer, tuple(readers.split(",")), "shm", int(slots), 64))
    schedule = {party: ops(*listed.split(";")) for party, listed in parties.items()}
    return Plan("test", tuple(found), schedule, tuple(map(Group.parse, groups)), max_inflight, order)


def free(found: Plan, runs: Mapping[str, float | RunCost], **costs: float) -> Costs:
    """Costs in which nothing but runs takes time."""
    return Costs.of(found, runs, **{"send": 0, "recv": 0, "wake": 0, **costs})


def spans(prediction: Prediction, party: str, execution: int) -> dict[str, tuple[float, float]]:
    """Op -> (begin, end) in ms."""
    trace: PartyTrace = prediction.trace.parties[party]
    row = execution - 1
    return {str(op): (trace.begins[row, i] / 1e6, trace.ends[row, i] / 1e6) for i, op in enumerate(trace.ops)}


# -- pipelines


@pytest.mark.parametrize(("stages", "executions"), [(1, 5), (2, 1), (4, 8), (4, 32), (8, 3)])
def test_the_bubble_of_a_pipeline_is_that_of_gpipe(stages: int, executions: int) -> None:
    found = chain(stages, executions)
    costs = free(found, {f"S{i}.f": 2 * MS for i in range(stages)})
    figures = predict(found, costs, cores=PLENTY, executions=executions).figures
    bubble = (stages - 1) / (executions + stages - 1)
    assert figures.executions == executions
    assert figures.idle == pytest.approx({f"S{i}": bubble for i in range(stages)})
    assert figures.throughput == pytest.approx(executions / ((executions + stages - 1) * 2 * MS))


@settings(max_examples=30, deadline=None)
@given(times=st.lists(st.sampled_from([1.0, 2.0, 3.5, 7.0]), min_size=1, max_size=6), more=st.integers(0, 3))
def test_a_full_pipeline_runs_at_the_pace_of_its_slowest_stage(times: list[float], more: int) -> None:
    found = chain(len(times), 6 * len(times) + more)
    costs = free(found, {f"S{i}.f": time * MS for i, time in enumerate(times)})
    prediction = predict(found, costs, cores=PLENTY)
    assert prediction.figures.throughput == pytest.approx(1 / (max(times) * MS))
    assert prediction.alone == pytest.approx(sum(times) * MS)
    # Little's law: so many are under way all the time.
    assert prediction.figures.latency == pytest.approx(found.max_inflight * max(times) * MS)
    for i, time in enumerate(times):
        assert prediction.figures.idle[f"S{i}"] == pytest.approx(1 - time / max(times), abs=1e-6)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_window_that_is_too_small_for_the_pipeline_holds_it_up(window: int) -> None:
    found = chain(4, window)
    prediction = predict(found, free(found, {f"S{i}.f": MS for i in range(4)}), cores=PLENTY)
    assert prediction.figures.throughput == pytest.approx(window / (4 * MS))
    assert prediction.figures.idle["S2"] == pytest.approx(1 - window / 4)
    assert f"with more than {window} under way it may be faster" in str(prediction)


# -- any graph


@st.composite
def random_plans(draw: st.DrawFn) -> tuple[Plan, dict[str, float], dict[str, list[str]]]:
    """A plan as the compiler makes them, what its calls cost, and for each call the calls that it needs."""
    actors = [f"A{i}" for i in range(draw(st.integers(1, 4)))]
    calls = [f"c{i}" for i in range(draw(st.integers(1, 7)))]
    actor_of = {call: draw(st.sampled_from(actors)) for call in calls}
    needs: dict[str, list[str]] = {}
    for i, call in enumerate(calls):
        needs[call] = sorted(draw(st.sets(st.sampled_from(["input", *calls[:i]]), min_size=1, max_size=3)))
    window = draw(st.integers(1, 6))
    outputs = [call for call in calls if not any(call in needed for needed in needs.values())]
    schedule: dict[str, list[Op]] = {"driver": [], **{actor: [] for actor in dict.fromkeys(actor_of.values())}}
    readers: dict[str, list[str]] = {}
    for call in calls:
        own = schedule[actor_of[call]]
        for need in needs[call]:
            here = actor_of.get(need, "driver") == actor_of[call]
            if not here and actor_of[call] not in readers.get(need, []):
                readers.setdefault(need, []).append(actor_of[call])
                own.append(Op(OpKind.RECV, need))
        own.append(Op(OpKind.RUN, call))
        if call in outputs or any(call in needs[c] and actor_of[c] != actor_of[call] for c in calls):
            own.append(Op(OpKind.SEND, call))
    for actor, own in schedule.items():  # as the compiler does, so that nobody runs ahead
        if actor != "driver" and not any(op.kind is OpKind.RECV for op in own):
            own.insert(0, Op(OpKind.RECV, "tick"))
            readers.setdefault("tick", []).append(actor)
    schedule["driver"] += [Op(OpKind.SEND, value) for value in ("input", "tick") if value in readers]
    schedule["driver"] += [Op(OpKind.RECV, call) for call in outputs]
    for call in outputs:
        readers.setdefault(call, []).append("driver")
    channels = tuple(
        Channel(value, actor_of.get(value, "driver"), tuple(found), "shm", window, 64)
        for value, found in readers.items()
    )
    order = draw(st.sampled_from(["bind", "free"]))
    times = {call: draw(st.sampled_from([0.0, 1.0, 2.0, 5.0])) * MS for call in calls}
    made = Plan("random", channels, {p: tuple(o) for p, o in schedule.items()}, (), window, order)
    return made, times, needs


def longest_path(made: Plan, times: Mapping[str, float], needs: Mapping[str, Sequence[str]]) -> float:
    """When the last call ends if each begins when those that it needs and the one before it on its actor have ended."""
    ends: dict[str, float] = {}
    order = {party: [call for op in listed for call in op.calls] for party, listed in made.schedule.items()}
    before = {call: own[i - 1] for own in order.values() for i, call in enumerate(own) if i}
    received = {}  # a value is received before the call that is next then, also if only a later one uses it
    for listed in made.schedule.values():
        waiting: list[str] = []
        for op in listed:
            if op.kind is OpKind.RECV:
                waiting.append(op.target)
            elif op.kind is OpKind.RUN:
                received[op.target] = list(waiting)
    for call in times:
        first = [*needs[call], *received.get(call, ()), *([before[call]] if call in before else [])]
        ends[call] = times[call] + max(ends.get(need, 0.0) for need in first)
    return max(ends.values())


@settings(max_examples=150, deadline=None)
@given(made=random_plans())
def test_alone_is_the_longest_path_and_nobody_is_faster_than_its_work(
    made: tuple[Plan, dict[str, float], dict[str, list[str]]],
) -> None:
    found, times, needs = made
    assume(sum(times.values()) > 0)
    prediction = predict(found, free(found, times), cores=PLENTY)
    path = longest_path(found, times, needs)
    assert prediction.alone == pytest.approx(path, abs=1e-8)
    load = {
        party: sum(times[call] for op in listed for call in op.calls)
        for party, listed in found.schedule.items()
        if party != "driver"
    }
    assert 1 / prediction.figures.throughput >= max(*load.values(), path / found.max_inflight, 0) * (1 - 1e-6)
    assert prediction.figures.latency >= path * (1 - 1e-6)
    for actor, work in load.items():
        busy = 1 - prediction.figures.idle[actor]
        assert busy == pytest.approx(work * prediction.figures.throughput, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(made=random_plans(), cores=st.integers(1, 3), executions=st.integers(1, 12))
def test_fewer_cores_are_never_faster_and_all_work_is_done(
    made: tuple[Plan, dict[str, float], dict[str, list[str]]], cores: int, executions: int
) -> None:
    found, times, _ = made
    found = dataclasses.replace(found, order="bind")
    assume(sum(times.values()) > 0)
    few = predict(found, free(found, times), cores=cores, executions=executions).figures
    many = predict(found, free(found, times), cores=PLENTY, executions=executions).figures
    assert few.throughput <= many.throughput * (1 + 1e-6)
    assert few.throughput <= cores / sum(times.values()) * (1 + 1e-6)


@settings(max_examples=100, deadline=None)
@given(made=random_plans(), cores=st.sampled_from([1, 2, PLENTY]), executions=st.integers(1, 8))
def test_a_replay_does_every_op_of_every_execution_in_an_order_that_is_possible(
    made: tuple[Plan, dict[str, float], dict[str, list[str]]], cores: int, executions: int
) -> None:
    found, times, _ = made
    costs = Costs.of(found, times, between=1e-5)
    trace = predict(found, costs, cores=cores, executions=executions).trace
    for party in trace.parties.values():
        assert party.executions.tolist() == list(range(1, executions + 1))
        assert (party.begins <= party.ends).all()
        assert (party.begins[:, 1:] >= party.ends[:, :-1]).all()  # within an execution, in the order of the plan
        assert (party.begins[1:] >= party.ends[:-1]).all() or party.party == "driver" or found.order == "free"
        if party.party != "driver":
            flat = sorted(zip(party.begins.ravel().tolist(), party.ends.ravel().tolist(), strict=True))
            assert all(after[0] >= before[1] for before, after in pairwise(flat))
    for channel in found.channels:
        sent = trace.parties[channel.writer]
        column = sent.ops.index(Op(OpKind.SEND, channel.name))
        for reader in channel.readers:
            taken = trace.parties[reader]
            ends = taken.ends[:, taken.ops.index(Op(OpKind.RECV, channel.name))]
            assert (ends >= sent.ends[:, column]).all()
            if executions > channel.slots:
                assert (sent.ends[channel.slots :, column] >= ends[: -channel.slots]).all()
    driver = trace.parties["driver"]
    if executions > found.max_inflight:
        begun, ended = driver.begins.min(axis=1), driver.ends.max(axis=1)
        assert (begun[found.max_inflight :] >= ended[: -found.max_inflight]).all()


# -- the steady state


def ask(steady: Steady, ends: Sequence[float], states: Callable[[int], list[State]]) -> int:
    """How many executions have ended when it is enough."""
    progress = Progress()
    for count, end in enumerate(ends, start=1):
        progress.ends.append(end)
        progress.states = lambda count=count: states(count)  # type: ignore[misc]
        if steady(progress):
            return count
    raise AssertionError("never enough")


def state(lead: int, since: int) -> State:
    return State(lead, (1,), False, since)


def test_it_is_steady_when_everything_has_repeated_itself_for_a_period_and_a_window() -> None:
    steady = Steady(window=4, ops=10, shared=False)
    ends = [float(n + n // 3) for n in range(100)]
    # Up to the fifth execution a queue grows; from then on all is as it was three executions before.
    count = ask(steady, ends, lambda n: [state(min(n, 5), n % 3), state(0, 7)])
    assert count == 5 + 3 + 3 + 4
    assert steady.rows == (count - 1 - 6, count - 1)


def test_two_parties_with_cores_to_share_are_steady_when_blocks_take_the_same_time() -> None:
    # Nothing repeats itself to the nanosecond.
    ends = [n * 1.0 + 0.01 / n for n in range(1, 1000)]
    shared = Steady(window=4, ops=10, shared=True)
    assert ask(shared, ends, lambda n: [state(n % 2, n)]) == 3 * 8
    assert shared.rows == (7, 23)
    drifting = Steady(window=4, ops=10, shared=True)
    assert ask(drifting, ends, lambda n: [state(min(n // 8, 10), n)]) == 11 * 8


def test_what_never_becomes_steady_is_taken_as_it_is_without_its_beginning() -> None:
    steady = Steady(window=4, ops=3_000, shared=False)
    ends = [float(n) ** 1.1 for n in range(1, 1000)]
    assert ask(steady, ends, lambda n: [state(0, n)]) == 104  # the first block after 100 executions of 3,000 ops
    assert steady.rows == (104 - 1 - 64, 104 - 1)


# -- costs


def test_sends_recvs_wake_ups_and_sleep_take_their_time() -> None:
    found = chain(1, 1)
    costs = Costs.of(found, {"S0.f": RunCost(3 * MS, off=4 * MS)}, send=MS, recv=2 * MS, wake=5 * MS)
    prediction = predict(found, costs, cores=PLENTY, executions=2)
    assert prediction.alone == pytest.approx((1 + 5 + 2 + 3 + 4 + 1 + 5 + 2) * MS)
    assert spans(prediction, "S0", 1) == {
        "recv input": (0, 8),
        "run S0.f": (8, 15),
        "send S0.f": (15, 16),
    }
    assert spans(prediction, "driver", 1) == {"send input": (0, 1), "recv S0.f": (1, 23)}
    assert prediction.trace.parties["S0"].cpu[0].tolist() == [0, 3_000_000, 0]


def test_who_finds_the_message_there_is_not_woken() -> None:
    found = chain(1, 2)
    costs = Costs.of(found, {"S0.f": 10 * MS}, send=0, recv=MS, wake=5 * MS)
    prediction = predict(found, costs, cores=PLENTY, executions=2)
    assert spans(prediction, "S0", 2)["recv input"] == (16, 17)


def test_the_driver_s_own_code_is_between_its_executions() -> None:
    found = chain(1, 1)
    costs = free(found, {"S0.f": 3 * MS}, between=2 * MS)
    prediction = predict(found, costs, cores=PLENTY)
    assert prediction.alone == pytest.approx(3 * MS)
    assert prediction.figures.throughput == pytest.approx(1 / (5 * MS))
    busy = chain(1, 8)
    slow = predict(busy, free(busy, {"S0.f": MS}, between=2 * MS), cores=PLENTY)
    assert slow.figures.throughput == pytest.approx(1 / (2 * MS))
    assert "The driver is busy all the time: 2.00 ms in each execution." in str(slow)


def test_seconds_for_each_call_are_enough() -> None:
    found = chain(2, 4)
    prediction = predict(found, {"S0.f": MS, "S1.f": 2 * MS}, cores=PLENTY)
    assert prediction.costs == Costs.of(found, {"S0.f": MS, "S1.f": 2 * MS})
    assert prediction.figures.throughput == pytest.approx(1 / (2 * MS), rel=0.01)


def test_calls_that_were_fused_run_one_after_the_other() -> None:
    found = plan(["x driver A 4", "y A driver 4"], driver="send x;recv y", A="recv x;run f+g;send y")
    prediction = predict(found, free(found, {"f": MS, "g": 2 * MS}), cores=PLENTY, executions=1)
    assert spans(prediction, "A", 1) == {"recv x": (0, 0), "run f": (0, 1), "run g": (1, 3), "send y": (3, 3)}


# -- cores


def test_cores_are_shared_fairly_by_those_who_compute() -> None:
    found = plan(
        ["x driver A,B,C 1", "a A driver 1", "b B driver 1", "c C driver 1"],
        max_inflight=1,
        driver="send x;recv a;recv b;recv c",
        A="recv x;run f;send a",
        B="recv x;run g;send b",
        C="recv x;run h;send c",
    )
    costs = free(found, {"f": 2 * MS, "g": 4 * MS, "h": RunCost(4 * MS, off=10 * MS)})
    prediction = predict(found, costs, cores=2, executions=1)
    # Three on two cores: each at 2/3 of its speed, until A has done its 2 ms at 3 ms. The others then have a core each.
    assert spans(prediction, "A", 1)["run f"] == (0, 3)
    assert spans(prediction, "B", 1)["run g"] == (0, 5)
    # Sleep takes no core.
    assert spans(prediction, "C", 1)["run h"] == (0, 15)


def test_who_comes_later_shares_what_is_left() -> None:
    found = plan(
        ["x driver A,B,C 1", "a A driver 1", "b B driver 1", "c C driver 1"],
        max_inflight=1,
        driver="send x;recv a;recv b;recv c",
        A="recv x;run f;send a",
        B="recv x;run asleep;run g;send b",
        C="recv x;run longer;run h;send c",
    )
    asleep = {"asleep": RunCost(0.0, off=2 * MS), "longer": RunCost(0.0, off=4 * MS)}
    costs = free(found, {"f": 6 * MS, "g": 3 * MS, "h": 1 * MS, **asleep})
    prediction = predict(found, costs, cores=1, executions=1)
    # A has the core for 2 ms, then half of it, from 4 ms a third. Then 3 ms of A are left, 2 of B and 1 of C.
    assert spans(prediction, "C", 1)["run h"] == (4, 7)
    assert spans(prediction, "B", 1)["run g"] == (2, 9)
    assert spans(prediction, "A", 1)["run f"] == (0, 10)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_a_pipeline_of_more_stages_than_cores_is_as_fast_as_the_cores(cores: int) -> None:
    found = chain(4, 16)
    prediction = predict(found, free(found, {f"S{i}.f": MS for i in range(4)}), cores=cores)
    assert prediction.figures.throughput == pytest.approx(cores / (4 * MS), rel=0.02)
    assert "The cores are all busy: 4.00 ms of a core in each execution" in str(prediction)


def test_stages_that_sleep_need_no_cores() -> None:
    found = chain(4, 16)
    prediction = predict(found, free(found, {f"S{i}.f": RunCost(0.0, off=MS) for i in range(4)}), cores=1)
    assert prediction.figures.throughput == pytest.approx(1 / MS)


def test_the_cores_are_those_of_this_process_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5})
    found = chain(1, 1)
    assert predict(found, {"S0.f": MS}).cores == 3


# -- channels


def test_a_writer_waits_for_a_slot_until_all_readers_have_taken_the_message() -> None:
    found = plan(
        ["x driver A 4", "y A B,C 1", "b B driver 4", "c C driver 4"],
        driver="send x;recv b;recv c",
        A="recv x;run f;send y",
        B="recv y;run g;send b",
        C="recv y;run h;send c",
    )
    prediction = predict(found, free(found, {"f": MS, "g": 2 * MS, "h": 5 * MS}), cores=PLENTY, executions=4)
    sends = [spans(prediction, "A", n)["send y"] for n in (1, 2, 3, 4)]
    # C takes the messages at 1, 6, 11 and 16, and one more lies in the slot.
    assert sends == [(1, 1), (2, 2), (3, 6), (7, 11)]
    assert prediction.figures.idle["A"] == pytest.approx(1 - 4 / 21)
    # As a reader, a writer that waited sleeps and has to be woken.
    sleepy = predict(found, free(found, {"f": MS, "g": MS, "h": 5 * MS}, wake=0.5 * MS), cores=PLENTY, executions=4)
    c_took = spans(sleepy, "C", 2)["recv y"][1]
    assert spans(sleepy, "A", 3)["send y"][1] == c_took + 0.5


def test_a_rendezvous_begins_when_all_are_there_and_nobody_is_woken() -> None:
    found = plan(
        ["x driver A,B,C 1", "y A B,C 0", "b B driver 1", "c C driver 1"],
        max_inflight=1,
        driver="send x;recv b;recv c",
        A="recv x;run f;send y",
        B="recv x;run g;recv y;send b",
        C="recv x;run h;recv y;send c",
    )
    costs = Costs.of(found, {"f": MS, "g": 4 * MS, "h": 2 * MS}, send=0, recv=0, wake=9 * MS)
    costs = dataclasses.replace(costs, sends={**costs.sends, "y": 3 * MS}, recvs={**costs.recvs, "y": MS})
    prediction = predict(found, costs, cores=PLENTY, executions=1)
    # All three are woken for the input at 9; A is there at 10, C at 11, B at 13.
    assert spans(prediction, "A", 1)["send y"] == (10, 16)
    assert spans(prediction, "B", 1)["recv y"] == (13, 17)
    assert spans(prediction, "C", 1)["recv y"] == (11, 17)


def test_a_posted_recv_lets_the_message_come_while_its_reader_runs() -> None:
    channels = ["x driver A,B 1", "y A B 0", "b B driver 1"]
    parties = {"driver": "send x;recv b", "A": "recv x;run f;send y"}
    late = plan(channels, 1, **parties, B="recv x;run g;recv y;send b")
    posted = plan(channels, 1, **parties, B="recv x;post y;run g;recv y;send b")
    runs = {"f": MS, "g": 4 * MS}
    for found, expected in ((late, 4 + 3), (posted, 4)):
        costs = free(found, runs)
        costs = dataclasses.replace(costs, sends={**costs.sends, "y": 3 * MS})
        assert predict(found, costs, cores=PLENTY).alone == pytest.approx(expected * MS)


def test_a_collective_is_done_when_its_last_member_has_joined() -> None:
    found = plan(
        ["x driver A,B 2", "b B driver 2"],
        max_inflight=2,
        groups=["total  allreduce  A, B"],
        driver="send x;recv b",
        A="recv x;run f;join total",
        B="recv x;run g;join total;send b",
    )
    runs = {"f": MS, "g": 4 * MS, "total": RunCost(0.0, off=2 * MS)}
    prediction = predict(found, free(found, runs), cores=PLENTY, executions=2)
    assert spans(prediction, "A", 1)["join total"] == (1, 6)
    assert spans(prediction, "B", 1)["join total"] == (4, 6)
    assert spans(prediction, "A", 2)["join total"] == (7, 12)
    assert prediction.figures.idle == pytest.approx({"A": 0.5, "B": 0.0})
    without = predict(found, free(found, {"f": MS, "g": 4 * MS}), cores=PLENTY, executions=1)
    assert spans(without, "A", 1)["join total"] == (1, 4)


# -- order


def two_visits(order: str) -> Plan:
    """A makes the first and the last call of an execution, B the long one between them."""
    return plan(
        ["x driver A 4", "a A B 4", "b B A 4", "y A driver 4"],
        order=order,
        driver="send x;recv y",
        A="recv x;run first;send a;recv b;run last;send y",
        B="recv a;run long;send b",
    )


def test_in_the_order_of_bind_an_actor_waits_where_it_is() -> None:
    found = two_visits("bind")
    prediction = predict(found, free(found, {"first": MS, "long": 4 * MS, "last": MS}), cores=PLENTY)
    assert prediction.figures.throughput == pytest.approx(1 / (6 * MS))


def test_in_free_order_it_goes_on_with_the_next_execution() -> None:
    found = two_visits("free")
    costs = free(found, {"first": MS, "long": 4 * MS, "last": MS})
    prediction = predict(found, costs, cores=PLENTY, executions=4)
    assert spans(prediction, "A", 2) | {"recv x": None} == {
        "recv x": None,
        "run first": (1, 2),
        "send a": (2, 2),
        "recv b": (6, 9),  # as the oldest: from the end of the last call of execution 1
        "run last": (9, 10),
        "send y": (10, 10),
    }
    steady = predict(found, costs, cores=PLENTY)
    assert steady.figures.throughput == pytest.approx(1 / (4 * MS))
    assert steady.figures.idle == pytest.approx({"A": 0.5, "B": 0.0})


def test_in_free_order_what_was_begun_is_finished_first() -> None:
    found = plan(
        ["x driver A,B 4", "b B A 4", "y A driver 4"],
        max_inflight=4,
        order="free",
        driver="send x;recv y",
        A="recv x;run first;recv b;run last;send y",
        B="recv x;run long;send b",
    )
    prediction = predict(found, free(found, {"first": 2 * MS, "long": 4.5 * MS, "last": 4 * MS}), cores=PLENTY)
    # While there is nothing to finish. B's values come at 4.5, 9 and 13.5.
    assert [spans(prediction, "A", n)["run first"] for n in (1, 2, 3)] == [(0, 2), (2, 4), (4, 6)]
    assert [spans(prediction, "A", n)["run last"] for n in (1, 2, 3)] == [(6, 10), (10, 14), (14, 18)]
    # Its input was there from the beginning.
    assert spans(prediction, "A", 4)["run first"] == (18, 20)


def test_in_free_order_no_execution_passes_another() -> None:
    found = two_visits("free")
    trace = predict(found, free(found, {"first": MS, "long": 0, "last": 5 * MS}), cores=PLENTY).trace.parties["A"]
    assert (trace.ends[1:] >= trace.ends[:-1]).all()


# -- what is refused, and what is printed


def test_a_plan_that_cannot_finish_is_refused() -> None:
    found = plan(
        ["x driver A,B 4", "a A B 4", "b B A 4", "y A driver 4"],
        driver="send x;recv y",
        A="recv x;recv b;run f;send a;send y",
        B="recv x;recv a;run g;send b",
    )
    with pytest.raises(DeadlockError, match="waits at 'recv b' for B"):
        predict(found, {"f": 1, "g": 1}, cores=4)


def test_a_replay_that_gets_stuck_says_where() -> None:
    # What `simulate` has to find beforehand: the driver sends four executions ahead, and there is room for three.
    found = chain(1, 4, slots=1)
    with pytest.raises(DeadlockError) as caught:
        replay(found, free(found, {"S0.f": MS}), 4, 4, lambda progress: progress.begun == 8)
    assert str(caught.value) == (
        "with 4 executions under way this plan deadlocks:\n"
        "  driver waits at 'recv S0.f' of execution 1\n"
        "  S0 waits at 'send S0.f' of execution 2\n"
        "Give its channels more slots, or compile with a smaller max_inflight."
    )


@pytest.mark.parametrize(("name", "value"), [("cores", 0), ("cores", 2.5), ("executions", 0), ("executions", True)])
def test_numbers_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    found = chain(1, 1)
    with pytest.raises(GraphError, match=f"{name} is {value}; expected 1 or more"):
        predict(found, {"S0.f": MS}, **{name: value})


def test_a_prediction_prints_as_a_table_with_its_bottleneck() -> None:
    found = chain(2, 4)
    prediction = predict(found, free(found, {"S0.f": 5 * MS, "S1.f": 2 * MS}), cores=8)
    assert str(prediction) == (
        "chain: 20.0 ms and 200 executions a second with 4 under way, 7.00 ms alone; on 8 cores\n"
        "\n"
        "actor     busy    idle\n"
        "S0     100.0 %   0.0 %  <- bottleneck\n"
        "S1      40.0 %  60.0 %"
    )


def test_calls_that_take_no_time_are_infinitely_fast() -> None:
    found = chain(2, 4)
    prediction = predict(found, free(found, {"S0.f": 0, "S1.f": 0}), cores=8)
    assert prediction.figures.throughput == float("inf")
    assert "inf executions a second" in str(prediction)


def test_five_hundred_actors_are_replayed() -> None:
    stages, ranks = 64, 8
    found = {
        f"S{s}R{r}": [f"S{s - 1}R{q}.f" for q in range(ranks)] if s else ["input"]
        for s in range(stages)
        for r in range(ranks)
    }
    last = [f"S{stages - 1}R{r}.f" for r in range(ranks)]
    channels = [Channel("input", "driver", tuple(f"S0R{r}" for r in range(ranks)), "shm", 8, 64)]
    for s in range(stages):
        after = tuple(f"S{s + 1}R{q}" for q in range(ranks)) if s + 1 < stages else ("driver",)
        channels += [Channel(f"S{s}R{r}.f", f"S{s}R{r}", after, "shm", 8, 64) for r in range(ranks)]
    schedule = {"driver": ops("send input", *(f"recv {name}" for name in last))}
    schedule |= {
        a: ops(*(f"recv {name}" for name in values), f"run {a}.f", f"send {a}.f") for a, values in found.items()
    }
    grid = Plan("grid", tuple(channels), schedule, (), 8)
    prediction = predict(grid, free(grid, {f"{actor}.f": MS for actor in found}), cores=PLENTY)
    assert prediction.alone == pytest.approx(64 * MS)
    assert prediction.figures.throughput == pytest.approx(8 / (64 * MS))
    shared = predict(grid, free(grid, {f"{actor}.f": MS for actor in found}), cores=16, executions=2)
    assert shared.figures.throughput == pytest.approx(16 / (512 * MS), rel=0.02)
