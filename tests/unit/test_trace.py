"""Traces as values, as files for trace viewers, and as figures."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagc.errors import GraphError
from dagc.plan import Op, Plan
from dagc.timing.trace import PartyTrace, Span, Trace, unfused

PLAN = Plan.parse(
    """plan two: 2 in flight, bind order

channels:
  input  driver  ->  A, B    shm  2 x 64
  A.f    A       ->  B       shm  2 x 64
  B.h    B       ->  driver  shm  2 x 64

driver:
  send input
  recv B.h

A:
  recv input
  run  A.f
  send A.f

B:
  recv input
  recv A.f
  run  B.g+B.h
  send B.h
"""
)

#: Microseconds of one execution on its own: party -> (begin, end) of each op.
ALONE = {
    "driver": [(0, 1), (1, 30)],
    "A": [(0, 3), (3, 10), (10, 12)],
    "B": [(0, 2), (2, 15), (15, 18), (18, 25), (25, 27)],
}


def party(name: str, rows: list[list[tuple[float, float]]], first: int = 1, pid: int = 0) -> PartyTrace:
    """`rows`: of each execution the (begin, end) of each op, in microseconds."""
    ops = unfused(PLAN.schedule[name])
    stamps = np.array(rows, np.float64).reshape(len(rows), len(ops), 2)
    nanoseconds = np.rint(stamps * 1000).astype(np.int64)
    numbers = np.arange(first, first + len(rows), dtype=np.int64)
    begins, ends = nanoseconds[:, :, 0], nanoseconds[:, :, 1]
    return PartyTrace(name, pid or 100 + len(name), ops, numbers, begins, ends, np.zeros_like(begins))


def one_after_the_other(executions: int, every: float = 40, at: float = 1e6) -> Trace:
    """So many executions like ALONE, one each `every` microseconds."""
    parties = {}
    for number, (name, ops) in enumerate(ALONE.items()):
        rows = [[(at + every * n + begin, at + every * n + end) for begin, end in ops] for n in range(executions)]
        parties[name] = party(name, rows, pid=11 + number)
    return Trace(PLAN, parties)


def saved(trace: Trace, path: Path) -> list[dict[str, Any]]:
    trace.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document) == {"displayTimeUnit", "traceEvents"}
    return list(document["traceEvents"])


# -- values


def test_a_fused_run_is_one_op_a_call() -> None:
    ops = unfused(PLAN.schedule["B"])
    assert [str(op) for op in ops] == ["recv input", "recv A.f", "run B.g", "run B.h", "send B.h"]


def test_spans_come_party_by_party_in_the_order_of_executions() -> None:
    spans = list(one_after_the_other(2).spans())
    assert spans[:4] == [
        Span("driver", Op.parse("send input"), 1, 1_000_000_000, 1_000_001_000),
        Span("driver", Op.parse("recv B.h"), 1, 1_000_001_000, 1_000_030_000),
        Span("driver", Op.parse("send input"), 2, 1_000_040_000, 1_000_041_000),
        Span("driver", Op.parse("recv B.h"), 2, 1_000_041_000, 1_000_070_000),
    ]
    assert [span.party for span in spans] == ["driver"] * 4 + ["A"] * 6 + ["B"] * 10


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"begins": np.zeros((2, 3), np.int64)}, r"trace of driver: begins is int64 \(2, 3\); expected int64 \(2, 2\)"),
        ({"cpu": np.zeros((2, 2))}, r"cpu is float64 \(2, 2\); expected int64 \(2, 2\)"),
        ({"executions": np.zeros((2, 1), np.int64)}, r"executions is int64 \(2, 1\); expected int64 \(2,\)"),
        ({"executions": np.array([2, 2])}, "the executions are not ascending"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(change: Mapping[str, Any], found: str) -> None:
    good = one_after_the_other(2).parties["driver"]
    fields = {name: getattr(good, name) for name in PartyTrace.__dataclass_fields__}
    PartyTrace(**fields)
    with pytest.raises(ValueError, match=found):
        PartyTrace(**{**fields, **change})


def test_a_trace_has_the_parties_and_the_ops_of_its_plan() -> None:
    parties = one_after_the_other(1).parties
    with pytest.raises(ValueError, match=r"traces of \['A', 'driver'\]; expected of \['A', 'B', 'driver'\]"):
        Trace(PLAN, {name: parties[name] for name in ("A", "driver")})
    with pytest.raises(ValueError, match=r"trace of A has the ops 'send input; recv B\.h'; expected those of the plan"):
        Trace(PLAN, {**parties, "A": parties["driver"]})


# -- files


def test_a_file_has_a_process_a_party_and_an_event_an_op(tmp_path: Path) -> None:
    trace = one_after_the_other(3)
    events = saved(trace, tmp_path / "run.json")
    names = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    assert names == {11: "driver", 12: "A", 13: "B"}
    order = {e["pid"]: e["args"]["sort_index"] for e in events if e["name"] == "process_sort_index"}
    assert order == {11: 0, 12: 1, 13: 2}
    assert [e["args"]["name"] for e in events if e["name"] == "thread_name"] == ["driver", "A", "B"]
    complete = [e for e in events if e["ph"] == "X"]
    expected = [
        (
            names[e["pid"]],
            f"{e['cat']} {e['name']}",
            e["args"]["execution"],
            round(e["ts"] * 1e3),
            round(e["dur"] * 1e3),
        )
        for e in complete
    ]
    start = 1_000_000_000
    assert expected == [
        (s.party, str(s.op), s.execution, s.begin_ns - start, s.end_ns - s.begin_ns) for s in trace.spans()
    ]


def test_every_message_is_an_arrow_from_its_send_to_its_recv(tmp_path: Path) -> None:
    events = saved(one_after_the_other(2), tmp_path / "run.json")
    complete = [e for e in events if e["ph"] == "X"]

    def inside(arrow: Mapping[str, Any]) -> tuple[str, str, int]:
        """What an end of an arrow belongs to, as a viewer finds it: the event that is under way on its thread."""
        (event,) = [
            e
            for e in complete
            if (e["pid"], e["tid"]) == (arrow["pid"], arrow["tid"]) and e["ts"] <= arrow["ts"] < e["ts"] + e["dur"]
        ]
        return event["cat"], event["name"], event["args"]["execution"]

    begins = {e["id"]: e for e in events if e["ph"] == "s"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    assert len(begins) == len([e for e in events if e["ph"] == "s"]) == 4 * 2
    assert begins.keys() == ends.keys()
    messages = set()
    for identity, begin in begins.items():
        end = ends[identity]
        assert end["bp"] == "e"
        assert begin["ts"] <= end["ts"]
        (sent, channel, execution), (received, same, also) = inside(begin), inside(end)
        assert (sent, received, same, also) == ("send", "recv", channel, execution)
        messages.add((channel, end["pid"], execution))
    assert messages == {
        (c, pid, n) for n in (1, 2) for c, pid in (("input", 12), ("input", 13), ("A.f", 13), ("B.h", 11))
    }


def test_a_message_whose_other_end_was_not_recorded_is_no_arrow(tmp_path: Path) -> None:
    whole = one_after_the_other(3)
    short = one_after_the_other(2).parties["B"]
    events = saved(Trace(PLAN, {**whole.parties, "B": short}), tmp_path / "run.json")
    begins = [e["id"] for e in events if e["ph"] == "s"]
    ends = [e["id"] for e in events if e["ph"] == "f"]
    assert sorted(begins) == sorted(ends)
    assert len(begins) == 4 * 2 + 1


def test_parties_of_one_process_are_processes_of_the_viewer(tmp_path: Path) -> None:
    parties = {name: party(name, [ops], pid=7) for name, ops in ALONE.items()}
    events = saved(Trace(PLAN, parties), tmp_path / "run.json")
    assert {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"} == {"driver": 1, "A": 2, "B": 3}


def test_ops_that_overlap_are_dealt_to_threads(tmp_path: Path) -> None:
    # Two threads of the driver: one waits for a result while the other sends.
    driver = party("driver", [[(0, 2), (2, 30)], [(5, 9), (30, 40)], [(9, 12), (40, 50)]], pid=11)
    rows = {name: [ALONE[name]] * 3 for name in ("A", "B")}
    others = {name: party(name, rows[name], pid=12 + i) for i, name in enumerate(rows)}
    events = saved(Trace(PLAN, {"driver": driver, **others}), tmp_path / "run.json")
    threads: dict[int, list[tuple[float, float]]] = {}
    for e in events:
        if e["ph"] == "X" and e["pid"] == 11:
            threads.setdefault(e["tid"], []).append((e["ts"], e["ts"] + e["dur"]))
    assert sorted(sorted(spans) for spans in threads.values()) == [
        [(0, 2), (2, 30), (30, 40), (40, 50)],
        [(5, 9), (9, 12)],
    ]
    named = [(e["pid"], e["tid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"]
    assert [name for pid, _, name in named if pid == 11] == ["driver", "driver (2)"]
    # A viewer that knows threads by their tid alone must not take one for another.
    assert len({tid for _, tid, _ in named}) == len(named)
    assert {tid for pid, tid, _ in named if pid == 11} == set(threads)


def test_a_trace_without_executions_is_a_file(tmp_path: Path) -> None:
    parties = {name: party(name, [], pid=9) for name in ALONE}
    assert {e["ph"] for e in saved(Trace(PLAN, parties), tmp_path / "run.json")} == {"M"}


def test_thousands_of_executions_are_written_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    events = saved(one_after_the_other(3000), path)
    assert len([e for e in events if e["ph"] == "X"]) == 3000 * 10


# -- where it is written


def test_the_file_is_replaced_when_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_text("before", encoding="utf-8")
    trace = one_after_the_other(2)

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="No space left"):
            trace.save(path)
    assert path.read_text(encoding="utf-8") == "before"
    assert os.listdir(tmp_path) == ["run.json"]
    trace.save(path)
    assert json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "latest.json"
    link.symlink_to(tmp_path / "there" / "run.json")
    saved(one_after_the_other(1), link)
    assert link.is_symlink()
    assert os.listdir(tmp_path / "there") == ["run.json"]


def test_others_may_read_the_file_as_any_other(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    one_after_the_other(1).save(tmp_path / "run.json")
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        one_after_the_other(1).save(pipe)
        text = os.read(reader, 1 << 20)
    finally:
        os.close(reader)
    assert len(json.loads(text)["traceEvents"]) > 10
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (lambda folder: folder / "nowhere" / "run.json", FileNotFoundError),
        (lambda folder: folder, IsADirectoryError),
        (lambda folder: folder / "file" / "run.json", NotADirectoryError),
    ],
)
def test_a_path_that_cannot_be_written_is_named(
    tmp_path: Path, where: Callable[[Path], Path], error: type[OSError]
) -> None:
    (tmp_path / "file").touch()
    path = where(tmp_path)
    with pytest.raises(error) as caught:
        one_after_the_other(1).save(path)
    assert caught.value.filename == str(path)


# -- figures


def test_figures_of_executions_one_after_the_other() -> None:
    figures = one_after_the_other(12).figures()
    # From the end of execution 3 to that of execution 11, the last that ended before the last one began.
    assert figures.executions == 8
    assert figures.latency == pytest.approx(30e-6)
    assert figures.throughput == pytest.approx(1 / 40e-6)
    # A: 2 us of taking the input, whose send ended at 1, then 7 of running and 2 of sending.
    assert figures.idle["A"] == pytest.approx(1 - 11 / 40)
    # B: 1 us of taking the input, 3 of A.f, which was there at 12, 3 and 7 of running, 2 of sending.
    assert figures.idle["B"] == pytest.approx(1 - 16 / 40)
    assert list(figures.idle) == ["A", "B"]


def test_figures_of_executions_that_end_in_bursts_are_of_whole_bursts() -> None:
    # Every 40 us two executions, one right after the other: with 2 under way that is one burst.
    rows: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in ALONE}
    for n in range(13):
        at = 40 * (n // 2) + 4 * (n % 2)
        for name, ops in ALONE.items():
            rows[name].append([(at + begin, at + end) for begin, end in ops])
    figures = Trace(PLAN, {name: party(name, found) for name, found in rows.items()}).figures()
    assert figures.executions == 8
    assert figures.throughput == pytest.approx(2 / 40e-6)


def test_figures_of_the_whole_time_hold_its_ends_too() -> None:
    figures = one_after_the_other(12).figures(whole=True)
    assert figures.executions == 12
    assert figures.throughput == pytest.approx(12 / (11 * 40e-6 + 30e-6))
    assert figures.idle["A"] == pytest.approx(1 - 12 * 11 / (11 * 40 + 30))


def test_figures_of_too_few_executions_are_of_the_whole_time() -> None:
    figures = one_after_the_other(1).figures()
    assert figures.executions == 1
    assert figures.throughput == pytest.approx(1 / 30e-6)
    assert figures.idle["B"] == pytest.approx(1 - 16 / 30)


def test_figures_are_of_the_executions_that_all_parties_have() -> None:
    parties = dict(one_after_the_other(12).parties)
    late = one_after_the_other(12).parties["A"]
    parties["A"] = PartyTrace("A", 1, late.ops, late.executions[8:], late.begins[8:], late.ends[8:], late.cpu[8:])
    figures = Trace(PLAN, parties).figures(whole=True)
    assert figures.executions == 4
    assert figures.throughput == pytest.approx(4 / (3 * 40e-6 + 30e-6))


def test_no_figures_without_an_execution_that_all_parties_have() -> None:
    parties = {**one_after_the_other(3).parties, "A": party("A", [])}
    with pytest.raises(GraphError, match="no execution is in the traces of all parties"):
        Trace(PLAN, parties).figures()
    with pytest.raises(GraphError, match="no execution is in the traces of all parties"):
        Trace(PLAN, parties).costs()


def test_figures_print_as_a_table() -> None:
    assert str(one_after_the_other(12).figures()) == (
        "latency 30.0 us, 25,000 executions a second (of 8)\n"
        "\n"
        "actor    busy    idle\n"
        "A      27.5 %  72.5 %\n"
        "B      40.0 %  60.0 %"
    )
