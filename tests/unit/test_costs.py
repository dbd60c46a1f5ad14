"""Costs: made up for a plan, and measured from a trace; what was replayed must be measured again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.errors import GraphError
from dagc.plan import Plan
from dagc.prediction.predict import predict
from dagc.timing.costs import RECV, SEND, WAKE, Costs, RunCost
from dagc.timing.measure import measure_costs
from dagc.timing.timeline import PartyTrace
from dagc.timing.trace import Trace
from dagc.timing.waits import published

CHAIN = Plan.parse(
    """plan chain: 4 in flight, bind order

channels:
  input  driver  ->  A       shm  4 x 64
  A.f    A       ->  B       shm  4 x 64
  B.h    B       ->  driver  shm  4 x 64

driver:
  send input
  recv B.h

A:
  recv input
  run  A.f
  send A.f

B:
  recv A.f
  run  B.g+B.h
  send B.h
"""
)

#: Three that compute, next to each other, and a driver.
FAN = Plan.parse(
    """plan fan: 4 in flight, bind order

channels:
  input  driver  ->  A, B, C  shm  4 x 64
  A.f    A       ->  driver   shm  4 x 64
  B.f    B       ->  driver   shm  4 x 64
  C.f    C       ->  driver   shm  4 x 64

driver:
  send input
  recv A.f
  recv B.f
  recv C.f

A:
  recv input
  run  A.f
  send A.f

B:
  recv input
  run  B.f
  send B.f

C:
  recv input
  run  C.f
  send C.f
"""
)

SUM = Plan.parse(
    """plan sum: 2 in flight, bind order

channels:
  input  driver  ->  A, B    shm   2 x 64
  A.f    A       ->  B       nccl  0 x 64
  B.h    B       ->  driver  shm   2 x 64

groups:
  total  allreduce  A, B

driver:
  send input
  recv B.h

A:
  recv input
  run  A.f
  send A.f
  join total

B:
  recv input
  post A.f
  run  B.g
  recv A.f
  join total
  run  B.h
  send B.h
"""
)


def changed(trace: PartyTrace, **arrays: Any) -> PartyTrace:
    return dataclasses.replace(trace, **arrays)


# -- made up


def test_costs_of_a_plan_are_seconds_on_a_core() -> None:
    costs = Costs.of(CHAIN, {"A.f": 1e-3, "B.g": RunCost(1e-4, off=2e-3), "B.h": 0}, between=1e-5)
    assert costs.runs == {"A.f": RunCost(1e-3), "B.g": RunCost(1e-4, 2e-3), "B.h": RunCost(0.0)}
    assert costs.sends == dict.fromkeys(("input", "A.f", "B.h"), SEND)
    assert costs.recvs == dict.fromkeys(("input", "A.f", "B.h"), RECV)
    assert (costs.wake, costs.between) == (WAKE, 1e-5)
    assert Costs.of(CHAIN, dict.fromkeys(("A.f", "B.g", "B.h"), 1.0), send=1, recv=2, wake=3).sends["A.f"] == 1


@pytest.mark.parametrize("cost", [0.01, RunCost(0.01)])
def test_one_cost_may_be_that_of_every_call(cost: Any) -> None:
    calls = ("A.f", "B.g", "B.h")
    assert Costs.of(CHAIN, cost).runs == dict.fromkeys(calls, RunCost(0.01))
    assert str(predict(CHAIN, cost, cores=2)) == str(predict(CHAIN, dict.fromkeys(calls, cost), cores=2))


@pytest.mark.parametrize("runs", ["a", None, [0.01]])
def test_what_are_no_costs(runs: Any) -> None:
    with pytest.raises(GraphError, match=r"costs are .*; expected seconds of every call, .* {'A\.f': 0\.01, \.\.\.}"):
        predict(CHAIN, runs)
    with pytest.raises(GraphError, match=r"predict\('dag', \.\.\.\): expected a plan; write dagc\.predict\(dagc\.plan"):
        predict("dag", runs)  # type: ignore[arg-type]


def test_a_collective_may_have_a_cost() -> None:
    calls = dict.fromkeys(("A.f", "B.g", "B.h"), 1e-3)
    assert "total" not in Costs.of(SUM, calls).runs
    assert Costs.of(SUM, {**calls, "total": 5e-3}).runs["total"] == RunCost(5e-3)


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ({"A.f": 1, "B.g": 1}, r"no cost of call B\.h; expected one for each of the 3 of plan chain"),
        ({"A.f": 1, "B.g": 1, "B.h": 1, "A.ff": 1}, r"plan chain has no call 'A\.ff'; did you mean A\.f\?"),
        ({"quite": 1}, r"plan chain has no call 'quite'; its calls are A\.f, B\.g, B\.h"),
        ({"A.f": -1, "B.g": 1, "B.h": 1}, r"the cost of A\.f is -1; expected seconds, 0 or more"),
        ({"A.f": math.nan, "B.g": 1, "B.h": 1}, r"the cost of A\.f is nan; expected seconds"),
        ({"A.f": "1 ms", "B.g": 1, "B.h": 1}, r"the cost of A\.f is '1 ms'; expected seconds"),
    ],
)
def test_costs_that_do_not_fit_the_plan_are_refused(runs: Mapping[str, Any], found: str) -> None:
    with pytest.raises(GraphError, match=found):
        Costs.of(CHAIN, runs)


def test_what_is_no_time_is_refused_wherever_it_stands() -> None:
    good = Costs.of(CHAIN, dict.fromkeys(("A.f", "B.g", "B.h"), 1.0))
    with pytest.raises(GraphError, match="the off of a RunCost is inf"):
        RunCost(0.0, math.inf)
    with pytest.raises(GraphError, match=r"the send of A\.f is -1"):
        dataclasses.replace(good, sends={"A.f": -1})
    with pytest.raises(GraphError, match="wake is True"):
        dataclasses.replace(good, wake=True)


def test_costs_of_another_plan_are_refused() -> None:
    costs = Costs.of(FAN, dict.fromkeys(("A.f", "B.f", "C.f"), 1.0))
    with pytest.raises(GraphError, match=r"no cost of call B\.g, B\.h; expected one for each of the 3 of plan chain"):
        predict(CHAIN, costs)
    calls = {**costs.runs, "B.g": RunCost(1.0), "B.h": RunCost(1.0)}
    with pytest.raises(GraphError, match=r"no cost to send B\.h; expected one for each of the 3 of plan chain"):
        predict(CHAIN, dataclasses.replace(costs, runs=calls))


def test_costs_print_as_a_table() -> None:
    costs = Costs.of(CHAIN, {"A.f": 1.5e-3, "B.g": RunCost(2e-5, off=0.25), "B.h": 0}, between=1.2e-5)
    assert str(costs) == (
        "call     on a core   off it\n"
        "A.f        1.50 ms        0\n"
        "B.g        20.0 us   250 ms\n"
        "B.h              0        0\n"
        "\n"
        "channel       send     recv\n"
        "input      3.00 us  2.00 us\n"
        "A.f        3.00 us  2.00 us\n"
        "B.h        3.00 us  2.00 us\n"
        "\n"
        "a reader that slept goes on after 10.0 us\n"
        "the driver's own code takes 12.0 us an execution"
    )


# -- measured


def run_costs(*calls: str) -> st.SearchStrategy[dict[str, RunCost]]:
    times = st.sampled_from([0.0, 1e-4, 1e-3, 5e-3])
    return st.fixed_dictionaries({call: st.builds(RunCost, times, times) for call in calls})


@settings(max_examples=25, deadline=None)
@given(runs=run_costs("A.f", "B.g", "B.h"), send=st.sampled_from([1e-6, 2e-5]), recv=st.sampled_from([1e-6, 1e-5]))
def test_what_was_replayed_is_measured_again(runs: dict[str, RunCost], send: float, recv: float) -> None:
    costs = Costs.of(CHAIN, runs, send=send, recv=recv, wake=3e-5, between=7e-6)
    measured = predict(CHAIN, costs, cores=8, executions=40).trace.costs()
    for call, cost in runs.items():
        assert measured.runs[call].cpu == pytest.approx(cost.cpu)
        assert measured.runs[call].off == pytest.approx(cost.off, abs=2e-9)
    assert measured.sends == pytest.approx(costs.sends, abs=2e-9)
    assert measured.between == pytest.approx(costs.between, abs=2e-9)
    # A message that was always waited for: its wake-up may be told from taking it only by what other channels cost.
    for seconds in measured.recvs.values():
        assert seconds == pytest.approx(recv, abs=3e-9) or seconds + measured.wake == pytest.approx(recv + 3e-5)


def test_a_wake_up_is_what_a_recv_that_waited_takes_longer() -> None:
    # A waits for each input, B finds most of its messages there: it is the slower one.
    runs = {"A.f": RunCost(1e-4), "B.g": RunCost(1e-4), "B.h": RunCost(1e-4)}
    trace = predict(CHAIN, Costs.of(CHAIN, runs, wake=4e-5), cores=8, executions=100).trace
    assert trace.costs().wake == pytest.approx(4e-5, rel=0.01)
    assert trace.costs().recvs["A.f"] == pytest.approx(RECV, rel=0.01)


def test_without_a_message_that_was_there_the_usual_cost_of_taking_is_taken_off() -> None:
    # One execution at a time: everybody waits for everything.
    plan = dataclasses.replace(CHAIN, max_inflight=1)
    runs = dict.fromkeys(("A.f", "B.g", "B.h"), 1e-4)
    measured = predict(plan, Costs.of(plan, runs, wake=4e-5), cores=8, executions=20).trace.costs()
    assert measured.wake == pytest.approx(4e-5)
    assert measured.recvs == pytest.approx(dict.fromkeys(("input", "A.f", "B.h"), RECV))


def test_a_writer_that_lost_its_core_to_its_reader_does_not_make_the_recv_free() -> None:
    plan = dataclasses.replace(CHAIN, max_inflight=1)
    runs = dict.fromkeys(("A.f", "B.g", "B.h"), 1e-4)
    trace = predict(plan, Costs.of(plan, runs, wake=0), cores=8, executions=40).trace
    # A third of A's sends seem to end when the run of B does.
    a, b = trace.parties["A"], trace.parties["B"]
    ends = a.ends.copy()
    ends[::3, 2] = b.ends[::3, 1]
    delayed = Trace(plan, {**trace.parties, "A": changed(a, ends=ends)})
    measured = delayed.costs()
    assert measured.recvs["A.f"] + measured.wake == pytest.approx(RECV, rel=0.01)
    assert measured.sends["A.f"] == pytest.approx(SEND, rel=0.01)


def test_the_first_executions_are_not_counted() -> None:
    runs = dict.fromkeys(("A.f", "B.g", "B.h"), 1e-3)
    trace = predict(CHAIN, Costs.of(CHAIN, runs), cores=8, executions=8).trace
    cpu = trace.parties["A"].cpu.copy()
    cpu[:4] = 0  # half of them, but only two of the six that count
    measured = Trace(CHAIN, {**trace.parties, "A": changed(trace.parties["A"], cpu=cpu)}).costs()
    assert measured.runs["A.f"].cpu == pytest.approx(1e-3)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("ratio", [(1, 1, 1), (1, 2, 3)])
def test_others_on_the_core_are_no_cost_of_a_call(cores: int, ratio: Sequence[int]) -> None:
    runs = {f"{actor}.f": RunCost(1e-3 * part) for actor, part in zip("ABC", ratio, strict=True)}
    trace = predict(FAN, Costs.of(FAN, runs, send=0, recv=0, wake=0), cores=cores, executions=60).trace
    spans = {name: np.median(trace.parties[name].ends[:, 1] - trace.parties[name].begins[:, 1]) for name in "ABC"}
    assert spans["A"] > 1.3e9 * runs["A.f"].cpu  # they did contend
    measured = measure_costs(FAN, trace.parties, cores=cores)
    for call, cost in runs.items():
        assert measured.runs[call].cpu == pytest.approx(cost.cpu)
        assert measured.runs[call].off < 0.12 * cost.cpu


@pytest.mark.parametrize("cores", [1, 2])
def test_sleep_is_a_cost_also_beside_others_on_the_core(cores: int) -> None:
    runs = {"A.f": RunCost(5e-5, off=4e-3), "B.f": RunCost(2e-3), "C.f": RunCost(2e-3)}
    trace = predict(FAN, Costs.of(FAN, runs, send=0, recv=0, wake=0), cores=cores, executions=60).trace
    measured = measure_costs(FAN, trace.parties, cores=cores)
    assert measured.runs["A.f"].off == pytest.approx(4e-3, rel=0.05)
    assert measured.runs["B.f"].off < 0.15 * 2e-3
    assert measured.runs["C.f"].off < 0.15 * 2e-3


def test_other_programs_on_the_machine_are_no_cost_of_a_call() -> None:
    runs = dict.fromkeys(("A.f", "B.g", "B.h"), 1e-3)
    trace = predict(CHAIN, Costs.of(CHAIN, runs), cores=8, executions=100).trace
    a = trace.parties["A"]
    ends = a.ends.copy()
    ends[::3, 1] += 700_000  # every third run is disturbed; the stamps after it do not matter here
    measured = Trace(CHAIN, {**trace.parties, "A": changed(a, ends=ends)}).costs()
    assert measured.runs["A.f"].off < 1e-5


def test_sleep_that_varies_is_its_median_if_there_are_cores_for_all() -> None:
    runs = dict.fromkeys(("A.f", "B.g", "B.h"), 1e-3)
    trace = predict(CHAIN, Costs.of(CHAIN, runs), cores=8, executions=40).trace
    a = trace.parties["A"]
    ends = a.ends.copy()
    ends[:, 1] += np.random.default_rng(0).permutation(np.linspace(1e6, 9e6, 40).astype(np.int64))
    parties = {**trace.parties, "A": changed(a, ends=ends)}
    assert measure_costs(CHAIN, parties, cores=2).runs["A.f"].off == pytest.approx(5e-3, rel=0.1)
    # With one core for two it could have been the other one who had it.
    assert measure_costs(CHAIN, parties, cores=1).runs["A.f"].off < 2e-3


@pytest.mark.parametrize("posted", [True, False])
@pytest.mark.parametrize("late", ["A.f", "B.g"])
def test_collectives_and_rendezvous_cost_what_comes_after_the_last_has_come(posted: bool, late: str) -> None:
    plan = SUM if posted else Plan.parse(str(SUM).replace("  post A.f\n", ""))
    runs = {"A.f": 1e-3, "B.g": 1e-3, "B.h": 1e-3, late: 3e-3, "total": RunCost(0.0, off=5e-4)}
    costs = dataclasses.replace(Costs.of(plan, runs), recvs={"input": 2e-6, "A.f": 7e-6, "B.h": 2e-6})
    costs = dataclasses.replace(costs, sends={**costs.sends, "A.f": 9e-5})
    prediction = predict(plan, costs, cores=8, executions=40)
    measured = prediction.trace.costs()
    assert measured.runs["total"].off == pytest.approx(5e-4)
    assert measured.sends["A.f"] == pytest.approx(9e-5)
    assert measured.recvs["A.f"] == pytest.approx(7e-6)
    a = prediction.trace.parties["A"]
    waited = np.median(a.ends[:, 2] - a.begins[:, 2]) > 1_000_000
    assert waited == (late == "B.g" and not posted)


def test_a_message_is_there_no_later_than_its_send_usually_takes() -> None:
    runs = dict.fromkeys(("A.f", "B.g", "B.h"), 1e-3)
    a = predict(CHAIN, Costs.of(CHAIN, runs, send=5e-6), cores=8, executions=5).trace.parties["A"]
    ends = a.ends.copy()
    ends[3, 2] += 1_000_000
    there = published(changed(a, ends=ends), [2])[:, 0]
    assert (there - a.begins[:, 2]).tolist() == [5000] * 5


def test_a_send_that_waits_for_a_slot_costs_what_comes_after() -> None:
    channels = tuple(channel._replace(slots=1) if channel.name == "A.f" else channel for channel in CHAIN.channels)
    plan = dataclasses.replace(CHAIN, channels=channels)
    runs = {"A.f": 1e-4, "B.g": 1e-3, "B.h": 1e-3}
    trace = predict(plan, Costs.of(plan, runs, send=5e-6, wake=0), cores=8, executions=40).trace
    sends = trace.parties["A"].ends[:, 2] - trace.parties["A"].begins[:, 2]
    assert np.median(sends) > 1_000_000  # they did wait
    assert trace.costs().sends["A.f"] == pytest.approx(5e-6, abs=2e-9)
    assert trace.figures().idle["A"] > 0.9


def test_gaps_of_the_driver_are_its_own_code_however_many_threads_it_has() -> None:
    runs = dict.fromkeys(("A.f", "B.g", "B.h"), 1e-3)
    trace = predict(CHAIN, Costs.of(CHAIN, runs, between=5e-5), cores=8, executions=40).trace
    assert trace.costs().between == pytest.approx(5e-5)
    # A second thread that waits all the time for the next result: nothing is left of the gaps.
    driver = trace.parties["driver"]
    begins = driver.begins.copy()
    begins[1:, 1] = driver.ends[:-1, 1]
    threads = Trace(CHAIN, {**trace.parties, "driver": changed(driver, begins=begins)})
    assert threads.costs().between == 0
