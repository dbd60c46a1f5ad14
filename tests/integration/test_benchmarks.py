"""The benchmarks run and write what they promise; the figures themselves are not for a test."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_quick_run_writes_every_round(tmp_path: Path) -> None:
    written = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--no-ray", "--only", "echo", "--json", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert "echo of an int" in done.stdout
    assert "no column ray: --no-ray" in done.stdout

    found = json.loads(written.read_text())
    assert set(found) == {"machine", "contestants", "rounds", "rows", "budgets"}
    assert {"date", "cpu", "cores", "load", "kernel", "python"} <= set(found["machine"])
    (row,) = found["rows"].values()
    assert set(row["contestants"]) == {"limit", "dagc", "ray"}
    dagc, ray, limit = (row["contestants"][name] for name in ("dagc", "ray", "limit"))
    assert len(dagc["rounds"]) == found["rounds"] == 2
    assert all(0 < answer["p50_us"] <= answer["p99_us"] for answer in dagc["rounds"])
    assert dagc["spread"][0] <= dagc["value"] <= dagc["spread"][1]
    assert ray["value"] is None
    assert ray["missing"] == "--no-ray"
    # Without a C compiler there is no limit, and so no ratio; then the JSON says why.
    assert limit["missing"] or row["dagc_by_limit"] == dagc["value"] / limit["value"]
    (budget,) = found["budgets"]
    assert set(budget) == {"name", "text", "budget", "measured", "ok"}
    assert budget["measured"] == dagc["value"]


def test_communicators_are_measured_beside_memcpy(tmp_path: Path) -> None:
    written = tmp_path / "communicators.json"
    command = [sys.executable, "-m", "benchmarks.communicators", "--no-gloo", "--rounds", "2", "--seconds", "0.01"]
    command += ["--sizes", "4", "200000", "--only", "allreduce", "broadcast", "--json", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert "no column gloo: --no-gloo" in done.stdout
    found = json.loads(written.read_text())
    assert [(row["op"], row["size"]) for row in found["rows"]] == [
        (op, size) for op in ("allreduce", "broadcast") for size in (4, 200_000)
    ]
    for row in found["rows"]:
        assert all(len(row["rounds"][name]) == 2 and min(row["rounds"][name]) > 0 for name in ("memcpy", "shm"))
        assert row["rounds"]["gloo"] == []
