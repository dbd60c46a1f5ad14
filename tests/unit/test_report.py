"""The report as HTML, and as a file. What a browser makes of it: tests/integration/test_report_page.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from channels import ChannelStatistics
from dagc.bind import InputNode
from dagc.build import build_graph
from dagc.draw import svg_text
from dagc.errors import GraphError
from dagc.explain import explain
from dagc.graph import DRIVER, Call, Graph, Output
from dagc.plan import OpKind, Plan
from dagc.prediction.predict import predict
from dagc.report import Facts, Machine, page, write_report
from dagc.report.tallies import Run, op_figures
from dagc.report.units import NOTHING, apart, percent, rate, seconds
from dagc.statistics import GraphStatistics
from dagc.timing.trace import Trace
from tests.fakes import actor, actors, plan_of
from tests.pages import Page, assert_sound, spans_in
from tests.runs import made_up

MACHINE = Machine("2030-01-02 03:04 UTC", "Some <CPU>", 4, "6.1", "3.12.1", "0.1.0")
COSTS = {"Stage_0.forward": 1e-3, "Stage_1.forward": 2e-3}


def two_stages() -> Any:
    a, b = actors(2)
    with InputNode() as x:
        return b.forward.bind(a.forward.bind(x))


def facts_of(output: Any, trace: Trace | None = None, executions: int = 40, **costs: float) -> Facts:
    """All that a page may have: a measured run with jitter and the prediction that is made of it."""
    graph = build_graph(output)
    plan = plan_of(output, name="pipeline", max_inflight=4)
    trace = made_up(plan, costs or COSTS, executions, jitter=0.1) if trace is None else trace
    prediction = predict(plan, trace.costs(), cores=4) if executions else None
    return Facts(graph, plan, Run(trace), prediction, statistics(plan), drawing(graph, plan), MACHINE)


def drawing(graph: Graph, plan: Plan) -> str:
    return svg_text(graph, plan, prefix="graph")


def statistics(plan: Plan) -> GraphStatistics:
    counters = tuple(
        ChannelStatistics(c.name, 70, 70 * 1024, 1, 3, (9,) * len(c.readers), (70,) * len(c.readers))
        for c in plan.channels
    )
    return GraphStatistics(plan.name, 70, 70, plan.max_inflight, counters)


def test_the_page_has_all_figures() -> None:
    facts = facts_of(two_stages())
    figures, predicted = facts.figures, facts.predicted
    assert figures is not None
    assert predicted is not None
    parsed = Page(page(facts))
    assert_sound(parsed)
    assert "pipeline: run report" in parsed.words
    assert "40 executions traced" in parsed.words
    assert "3 parties" in parsed.words
    assert "Some <CPU>" in parsed.words
    assert parsed.row("Latency, p50")[1:3] == [seconds(figures.latency), seconds(predicted.latency)]
    assert parsed.row("Throughput")[1:] == [
        rate(figures.throughput),
        rate(predicted.throughput),
        apart(predicted.throughput, figures.throughput),
    ]
    assert "Stage_1 sets the pace." in parsed.words
    assert parsed.row("Stage_1")[2:4] == [percent(1 - figures.idle["Stage_1"]), percent(1 - predicted.idle["Stage_1"])]
    ops = [row for row in parsed.rows if row[0].split()[0] in ("send", "recv", "run")]
    assert [row[0] for row in ops] == [str(op) for ops in facts.plan.schedule.values() for op in ops]
    assert {row[2] for row in ops} == {"40"}
    channel = next(row for row in parsed.rows if row[1].startswith("Stage_0 "))
    assert channel[:3] == [
        "Stage_0.forward",
        "Stage_0 \N{RIGHTWARDS ARROW} Stage_1",
        "shm, 4 \N{MULTIPLICATION SIGN} 4 KiB",
    ]
    assert channel[4:] == ["70", "70 KiB", "1 KiB", "25.0 %", "3"]
    assert explain(facts.graph, facts.plan) in "".join(parsed.text)
    data = json.loads(parsed.scripts["application/json"])
    assert spans_in(data["measured"]).keys() == facts.plan.schedule.keys()
    assert spans_in(data["predicted"]).keys() == facts.plan.schedule.keys()
    assert data["links"][1] == ["Stage_0.forward", 1, [2]]


def test_hostile_names_stay_names() -> None:
    """Whatever actors, channels, constants and graphs are called, it is text."""
    evil = "</script><script>alert(1)</script><b>&quot;\"'"
    constant = "</pre><img src=x onerror=alert(2)>"
    with InputNode() as x:
        output = actor().forward.bind(x, scale=constant)
    graph, plan = build_graph(output), Plan.parse(str(plan_of(output, name="p")).replace("Stage_0", evil))
    (handle,) = graph.actors.values()
    nodes = [
        replace(node, name=f"{evil}.forward", actor=evil)
        if isinstance(node, Call)
        else replace(node, values=(f"{evil}.forward",))
        if isinstance(node, Output)
        else node
        for node in graph.nodes
    ]
    graph, plan = Graph(tuple(nodes), {evil: handle}), replace(plan, name=evil)
    trace = made_up(plan, {f"{evil}.forward": 1e-3}, 20)
    prediction = predict(plan, trace.costs(), cores=2)
    facts = Facts(graph, plan, Run(trace), prediction, statistics(plan), drawing(graph, plan), MACHINE)
    parsed = Page(page(facts))
    assert_sound(parsed)
    assert len(parsed.all("script")) == 2
    assert evil not in parsed.raw
    assert [row[0] for row in parsed.rows].count(evil) == 1
    assert constant in "".join(parsed.text)
    data = json.loads(parsed.scripts["application/json"])
    assert [party["name"] for party in data["measured"]["parties"]] == [DRIVER, evil]


def test_collectives_have_a_table_and_their_waits() -> None:
    plan = Plan.parse(
        """\
plan ranks: 2 in flight, bind order

channels:
  x    driver  ->  A, B    shm  2 x 64
  A.f  A       ->  driver  shm  2 x 64

groups:
  sum  allreduce  A, B

driver:
  send x
  recv A.f

A:
  recv x
  run A.f
  join sum
  send A.f

B:
  recv x
  run B.f
  join sum
"""
    )
    a, b = actor("A"), actor("B")
    with InputNode() as x:
        graph = build_graph(b.forward.bind(a.forward.bind(x)))
    nodes = [replace(node, name=f"{node.actor[0]}.f", actor=node.actor[0], args=()) for node in graph.calls]
    graph = Graph((*graph.inputs, *nodes, Output(("A.f",), multi=False)), {"A": a, "B": b})
    run = Run(made_up(plan, {"A.f": 1e-3, "B.f": 3e-3, "sum": 1e-4}, 20))
    joins = {f.party: f for f in op_figures(run) if f.op.kind is OpKind.JOIN}
    # A comes early, by as much as its run is shorter; B begins the next execution while A sends.
    assert joins["A"].waiting_median == pytest.approx(2e-3, abs=5e-6)
    assert joins["B"].waiting_median == 0
    parsed = Page(page(Facts(graph, plan, run, None, None, "<svg></svg>", MACHINE)))
    assert_sound(parsed)
    assert ["sum", "allreduce", "A, B"] in parsed.rows
    assert parsed.row("join sum")[1] == "A"


def test_without_statistics_a_channel_has_what_the_trace_says() -> None:
    facts = replace(facts_of(two_stages()), statistics=None)
    parsed = Page(page(facts))
    assert_sound(parsed)
    heading = next(row for row in parsed.rows if row[0] == "Channel")
    assert heading == ["Channel", "From and to", "Transport", "Mean wait"]


def test_of_an_execution_at_a_time_the_latency_alone_is_predicted() -> None:
    output = two_stages()
    graph, plan = build_graph(output), plan_of(output, max_inflight=8)
    trace = Trace(plan, made_up(replace(plan, max_inflight=1), COSTS, 30).parties)
    prediction = predict(plan, trace.costs(), cores=4)
    assert prediction.alone < prediction.figures.latency / 3
    facts = Facts(graph, plan, Run(trace), prediction, None, drawing(graph, plan), MACHINE)
    parsed = Page(page(facts))
    assert f"predicted {seconds(prediction.alone)}" in parsed.words
    assert "The driver sets the pace." in parsed.words
    assert "1.0 executions are under way where the plan has room for 8" in parsed.words


def test_a_page_without_executions_says_what_to_do() -> None:
    facts = facts_of(two_stages(), executions=0)
    parsed = Page(page(facts))
    assert_sound(parsed)
    assert "No execution was traced yet" in parsed.words
    assert "dagc.compile(dag, trace=True)" in parsed.words
    assert "0 executions traced" in parsed.words
    assert "application/json" not in parsed.scripts
    assert str(facts.plan) in "".join(parsed.text)


def test_without_executions_the_prediction_is_shown() -> None:
    facts = facts_of(two_stages(), executions=0)
    prediction = predict(facts.plan, COSTS, cores=4)
    parsed = Page(page(replace(facts, prediction=prediction)))
    assert_sound(parsed)
    assert parsed.row("Throughput") == ["Throughput", NOTHING, rate(prediction.figures.throughput), ""]
    data = json.loads(parsed.scripts["application/json"])
    assert data["measured"] is None
    assert data["predicted"]["rows"] == len(prediction.trace.parties[DRIVER].executions)


def test_a_long_run_says_what_was_left_out() -> None:
    output = two_stages()
    trace = made_up(plan_of(output, name="pipeline", max_inflight=4), COSTS, 1000)
    parsed = Page(page(facts_of(output, trace)))
    assert "Of 1,000 executions the chart has the first 20 and the last 380" in parsed.words
    assert {row[2] for row in parsed.rows if row[0].startswith("run ")} == {"1,000"}
    assert len(parsed.raw) < 200_000


@pytest.mark.parametrize(
    ("svg", "beside"),
    [
        ('<svg width="420" height="200"></svg>', True),
        ('<svg width="900.5" height="200"></svg>', False),
        ("<svg></svg>", False),
    ],
)
def test_a_narrow_drawing_stands_beside_the_tables(svg: str, beside: bool) -> None:
    parsed = Page(page(replace(facts_of(two_stages()), drawing=svg)))
    assert any(box.get("class") == "pair" for box in parsed.all("div")) is beside


# ---- the file ----


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    facts = facts_of(two_stages())
    path = tmp_path / "run.html"
    path.write_text("before")

    def write(drawing: str, to: Path = path) -> None:
        write_report(
            to,
            graph=facts.graph,
            plan=facts.plan,
            trace=facts.measured.trace,
            statistics=facts.statistics,
            prediction=facts.prediction,
            drawing=drawing,
        )

    with pytest.raises(UnicodeEncodeError):
        write("<svg>\ud800</svg>")
    assert path.read_text() == "before"
    write(facts.drawing)
    assert_sound(Page(path.read_text(encoding="utf-8")))
    assert [file.name for file in tmp_path.iterdir()] == ["run.html"]
    with pytest.raises(FileNotFoundError):
        write(facts.drawing, tmp_path / "nowhere" / "run.html")
    with pytest.raises(
        GraphError, match=r"cannot write a report to '.*run\.pdf': it is a page of HTML; expected a name in"
    ):
        write(facts.drawing, tmp_path / "run.pdf")
    write(facts.drawing, tmp_path / "run.HTM")
    write(facts.drawing, Path("/dev/null"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.HTM", "run.html"]


def test_the_machine_is_this_one() -> None:
    machine = Machine.here()
    assert machine.cores >= 1
    assert machine.cpu
    assert machine.python.startswith("3.")
