"""The command `dagc` as a user runs it: in a process of its own, with real actors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIPELINE = """
import dagc

@dagc.remote
class Stage:
    def __init__(self, add, broken=False):
        if broken:
            raise ValueError("no weights")
        self.add = add
    def forward(self, x):
        return x + self.add
    def fail(self, x):
        raise KeyError(x)

def build():
    first, second = Stage.remote(1), Stage.remote(10)
    with dagc.InputNode() as x:
        return second.forward.bind(first.forward.bind(x))

def two_inputs():
    with dagc.InputNode() as x:
        return Stage.remote(1).forward.bind(x.left)

def batch():
    return 3

def broken():
    with dagc.InputNode() as x:
        return Stage.remote(1, broken=True).forward.bind(x)

def failing():
    with dagc.InputNode() as x:
        return Stage.remote(1).fail.bind(x)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    return tmp_path


def dagc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dagc", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=170
    )


def test_explain_starts_no_process(folder: Path) -> None:
    done = dagc(folder, "explain", "pipeline:broken")  # whose constructor would raise
    assert (done.returncode, done.stderr) == (0, "")
    assert "Stage_0.forward = Stage_0.forward(input)" in done.stdout


def test_a_reader_that_goes_away_is_no_error_to_talk_of(folder: Path) -> None:
    command = [sys.executable, "-m", "dagc", "explain", "pipeline:build"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, cwd=folder, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    "arguments",
    [["pipeline:build", "--input", "5"], ["./pipeline.py:build", "--input-from", "pipeline:batch"]],
)
def test_report(folder: Path, arguments: list[str]) -> None:
    done = dagc(folder, "report", *arguments, "--executions", "50", "-o", "max_inflight=4", "--out", "page.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"measured: latency [\d.]+ .?s, [\d,.]+ executions a second", done.stdout)
    assert re.search(r"^predicted, .*: .* executions a second with 4 under way", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("The report is in page.html\n")
    page = (folder / "page.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "Stage_1.forward" in page


def test_inputs_by_name_reach_the_graph(folder: Path) -> None:
    assert dagc(folder, "report", "pipeline:two_inputs", "--input", "left=1", "--executions", "20").returncode == 0
    assert (folder / "run.html").exists()
    done = dagc(folder, "report", "pipeline:two_inputs")
    assert done.returncode == 1
    assert done.stderr.endswith("Say it with --input or --input-from.\n")


def test_report_tells_what_the_users_code_raised(folder: Path) -> None:
    done = dagc(folder, "report", "pipeline:failing", "--input", "7")
    assert done.returncode == 1
    assert done.stderr.startswith("dagc report: an execution raised KeyError: 7\n")
    assert "line 13, in fail\n    raise KeyError(x)" in done.stderr
    done = dagc(folder, "report", "pipeline:broken", "--input", "7")
    assert done.returncode == 1
    assert "its constructor raised: " in done.stderr
    assert "because of ValueError: no weights" in done.stderr
    assert not (folder / "run.html").exists()


def test_doctor(folder: Path) -> None:
    done = dagc(folder, "doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == int(any(finding["status"] == "!!" for finding in findings.values()))
    for name in ("python", "extension", "packages", "memfd_create", "/proc/PID/fd", "PR_SET_PDEATHSIG", "unix sockets"):
        assert findings[name]["status"] == "ok", findings[name]  # or no other test could pass
    assert re.fullmatch(r"wake-up [\d.]+ .s, sched_yield [\d.]+ .s, echo [\d.]+ .s", findings["wake-ups"]["found"])
    assert not any("the check failed" in finding["found"] for finding in findings.values())


def test_doctor_finds_a_limit_that_was_set(folder: Path) -> None:
    command = f"ulimit -n 40; exec {sys.executable} -m dagc doctor"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(
        r"^!!  open files +ulimit -n 40: room for about 4 actors; ulimit -n \d+", done.stdout, re.MULTILINE
    )


@pytest.mark.slow
def test_bench(folder: Path) -> None:
    done = dagc(folder, "bench", "--seconds", "0.5", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert set(found) == {"machine", "seconds", "measurements", "rows"}
    assert {"cpu", "cores", "load", "kernel", "python", "version", "when"} == set(found["machine"])
    measured = found["measurements"]
    assert all(len(each["rounds"]) == 3 for each in measured.values())
    rates = {"rate", "ring rate"}
    assert all(
        (each["p50"] >= each["p99"]) == (name in rates) for name, each in measured.items() if each["p50"] != each["p99"]
    )
    echo = found["rows"][0]
    assert echo["dagc_by_limit"] == measured["echo"]["p50"] / measured["ring"]["p50"]
