"""The numbers of a report: units, what ops took and waited, what limits a graph, and spans as data."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.bind import InputNode
from dagc.graph import DRIVER
from dagc.plan import Plan
from dagc.report.limits import find_limit
from dagc.report.spans import cut_of, embed, run_data, varints
from dagc.report.tallies import Run, channel_figures, op_figures
from dagc.report.units import NOTHING, apart, binary, percent, points_apart, rate, seconds
from dagc.timing.trace import Figures, PartyTrace, Trace
from tests.fakes import actors, plan_of
from tests.pages import numbers_in, spans_in
from tests.runs import made_up

COSTS = {"Stage_0.forward": 1e-3, "Stage_1.forward": 2e-3}


def two_stages() -> Any:
    a, b = actors(2)
    with InputNode() as x:
        return b.forward.bind(a.forward.bind(x))


# ---- numbers ----


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (seconds(0), "0"),
        (seconds(12.34e-9), "12.3 ns"),
        (seconds(12.34e-6), "12.3 \N{MICRO SIGN}s"),
        (seconds(1.2e-3), "1.20 ms"),
        (seconds(999.7e-6), "1.00 ms"),
        (seconds(math.nan), NOTHING),
        (rate(0.8123), "0.81 /s"),
        (rate(826.4), "826 /s"),
        (rate(12345), "12,300 /s"),
        (rate(math.inf), NOTHING),
        (percent(0.1234), "12.3 %"),
        (percent(1.0), "100 %"),
        (percent(0.0), "0 %"),
        (percent(0.9), "90.0 %"),
        (binary(0), "0 B"),
        (binary(512), "512 B"),
        (binary(4096), "4 KiB"),
        (binary(1.5 * 2**20), "1.50 MiB"),
        (binary(5e12), "4,660 GiB"),
        (apart(1.024, 1.0), "+2.4 %"),
        (apart(0.5, 1.0), "\N{MINUS SIGN}50.0 %"),
        (apart(1.0, 1.0), "\N{PLUS-MINUS SIGN}0.0 %"),
        (apart(1.0, 0.0), ""),
        (apart(math.nan, 1.0), ""),
        (points_apart(0.25, 0.2), "+5.0 pt"),
    ],
)
def test_numbers_have_units_and_three_digits(shown: str, expected: str) -> None:
    assert shown == expected


def by_hand() -> Trace:
    """One actor, one execution every 1000 ns; the last one's run takes 300 ns, the others' 200."""
    plan = Plan.parse(
        """\
plan p: 1 in flight, bind order

channels:
  x  driver  ->  A       shm  1 x 64
  y  A       ->  driver  shm  1 x 64

driver:
  send x
  recv y

A:
  recv x
  run A.f
  send y
"""
    )
    driver = [[0, 10, 320], [1000, 1010, 1320], [2000, 2010, 2320], [3000, 3010, 3420]]
    actor = [[-50, 30, 230, 290], [290, 1030, 1230, 1290], [1290, 2030, 2230, 2290], [2290, 3030, 3330, 3390]]

    def party(name: str, stamps: list[list[int]], cpu: list[int]) -> PartyTrace:
        # Ops follow each other without gaps: each begins when the one before it ends.
        array = np.array(stamps, dtype=np.int64)
        rows = np.array([cpu] * 4, dtype=np.int64)
        return PartyTrace(name, 1, plan.schedule[name], np.arange(4), array[:, :-1], array[:, 1:], rows)

    return Trace(plan, {DRIVER: party(DRIVER, driver, [0, 0]), "A": party("A", actor, [0, 100, 0])})


def test_ops_are_taken_apart_into_waiting_and_work() -> None:
    run = Run(by_hand())
    # The driver's send ends 10 ns after each thousand; the actor asks before that, and takes until 30.
    assert run.waiting["A"][:, 0].tolist() == [60, 720, 720, 720]
    assert run.waiting["A"][:, 1:].tolist() == [[0, 0]] * 4
    figures = {(f.party, str(f.op)): f for f in op_figures(run)}
    assert list(figures) == [(party, str(op)) for party, ops in run.plan.schedule.items() for op in ops]
    call = figures["A", "run A.f"]
    assert call.count == 4
    assert call.median == pytest.approx(200e-9)
    assert call.waiting_median == 0
    assert call.p95 == pytest.approx(np.percentile([200, 200, 200, 300], 95) * 1e-9)
    assert call.on_core == pytest.approx(400 / 900)
    assert call.share == pytest.approx(900 / 3440)
    recv = figures["A", "recv x"]
    assert recv.median == pytest.approx(740e-9)
    assert recv.waiting_median == pytest.approx(720e-9)
    assert recv.waiting_share == pytest.approx(2220 / 3440)
    assert math.isnan(recv.on_core)
    # An actor's spans follow each other, so its shares are all of its time.
    assert sum(f.share for (party, _), f in figures.items() if party == "A") == pytest.approx(1.0)
    (x, _) = channel_figures(run)
    assert x.waits == {"A": pytest.approx(2220e-9 / 4)}
    assert run.latencies.tolist() == pytest.approx([320e-9, 320e-9, 320e-9, 420e-9])
    assert run.cores_used == pytest.approx(400 / 3440)


def test_only_executions_that_all_parties_have_count() -> None:
    trace = by_hand()
    party = trace.parties["A"]
    fewer = PartyTrace("A", 2, party.ops, party.executions[1:], party.begins[1:], party.ends[1:], party.cpu[1:])
    run = Run(Trace(trace.plan, {**trace.parties, "A": fewer}))
    assert run.executions.tolist() == [1, 2, 3]
    assert {f.count for f in op_figures(run)} == {3}


@pytest.mark.parametrize(
    ("idle", "throughput", "latency", "cores_used", "head"),
    [
        ({"A": 0.02, "B": 0.4}, 1000.0, 8e-3, 1.6, "A sets the pace."),
        ({"A": 0.4, "B": 0.3}, 1000.0, 8e-3, 3.8, "The machine's 4 cores set the pace."),
        ({"A": 0.4, "B": 0.3}, 1000.0, 1e-3, 1.3, "The driver sets the pace."),
        ({"A": 0.4, "B": 0.3}, 1000.0, 7.9e-3, 1.3, "Waiting sets the pace."),
    ],
)
def test_what_limits(idle: dict[str, float], throughput: float, latency: float, cores_used: float, head: str) -> None:
    plan = Plan("p", (), {}, max_inflight=8)
    limit = find_limit(plan, Figures(100, latency, throughput, idle), cores=4, cores_used=cores_used)
    assert limit.head == head
    if head.startswith("A "):
        # Busy for 98 % of each millisecond.
        assert "98.0 %" in limit.text
        assert "980 \N{MICRO SIGN}s an execution" in limit.text
        assert "1,020 /s" in limit.text


def test_varints_are_as_documented() -> None:
    assert varints(np.array([0, -1, 1, 64])) == bytes([0x00, 0x01, 0x02, 0x80, 0x01])
    assert varints(np.array([], dtype=np.int64)) == b""


@given(st.lists(st.integers(-(2**62), 2**62)))
@settings(deadline=None)
def test_varints_give_back_the_numbers(numbers: list[int]) -> None:
    assert list(numbers_in(varints(np.array(numbers, dtype=np.int64)))) == numbers


def test_every_span_is_on_the_page() -> None:
    plan = plan_of(two_stages(), max_inflight=4)
    run = Run(made_up(plan, COSTS, 40, jitter=0.1))
    origin = min(int(party.begins.min()) for party in run.parties.values())
    data = json.loads(json.dumps(run_data(run)))
    assert data["cut"] is None
    expected = {
        name: [
            [int(execution), op, int(begin) - origin, int(end) - origin, int(waiting)]
            for execution, *rows in zip(party.executions, party.begins, party.ends, run.waiting[name], strict=True)
            for op, (begin, end, waiting) in enumerate(zip(*rows, strict=True))
        ]
        for name, party in run.parties.items()
    }
    assert spans_in(data) == expected
    assert sum(map(len, expected.values())) == 40 * sum(map(len, plan.schedule.values()))


def test_of_a_long_run_the_first_and_the_last_executions_are_kept() -> None:
    output = two_stages()
    run = Run(made_up(plan_of(output, max_inflight=4), COSTS, 1000, first=11))
    cut = cut_of(run)
    assert cut is not None
    assert cut == (30, 631, 600, 20, 380)
    data = run_data(run)
    assert (data["executions"], data["rows"], data["cut"]["left_out"]) == (1000, 400, 600)
    for name, spans in spans_in(data).items():
        party = run.parties[name]
        assert sorted({execution for execution, *_ in spans}) == [*range(11, 31), *range(631, 1011)]
        # What is behind the gap comes after what is before it, and is as far from its neighbours as it was.
        assert max(end for execution, _, _, end, _ in spans if execution <= 30) <= data["cut"]["at"]
        behind = [begin for execution, op, begin, _, _ in spans if execution >= 631 and op == 0]
        assert min(behind) > data["cut"]["at"]
        assert np.diff(behind).tolist() == np.diff(party.begins[-380:, 0]).tolist()
        origin = min(int(party.begins.min()) for party in run.parties.values())
        assert behind[0] + data["cut"]["moved"] + origin == party.begins[-380, 0]


def test_a_page_has_a_bounded_number_of_spans() -> None:
    node: Any
    with InputNode() as x:
        node = x
        for stage in actors(400):
            node = stage.forward.bind(node)
    plan = plan_of(node)
    one = made_up(plan, {f"Stage_{i}.forward": 1e-3 for i in range(400)}, 1)
    # The same execution, once a second.
    later = np.arange(300)[:, None] * 10**9
    parties = {
        name: replace(
            party,
            executions=np.arange(300),
            begins=party.begins + later,
            ends=party.ends + later,
            cpu=party.cpu + 0 * later,
        )
        for name, party in one.parties.items()
    }
    run = Run(Trace(plan, parties))
    data, ops = run_data(run), sum(map(len, plan.schedule.values()))
    assert data["rows"] == 200_000 // ops
    assert data["rows"] + data["cut"]["left_out"] == 300
    assert sum(len(party["spans"]) for party in data["parties"]) < 3_000_000


def test_embedded_data_cannot_end_its_script() -> None:
    hostile = {"</script><!--": ["<script>", "]]>", "\u2028", "&amp;"]}
    text = embed(hostile)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == hostile
