"""The benchmarks of tensors and of pipelines run and write what they promise; the figures are not for a test."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="these benchmarks are about torch's tensors: pip install torch")

ROOT = Path(__file__).resolve().parents[2]
LLM = ("gguf", "rich", "safetensors", "tokenizers")


def run(folder: Path, module: str, *options: str) -> tuple[str, dict[str, Any]]:
    """What it printed, and what it wrote."""
    written = folder / "rows.json"
    command = [sys.executable, "-m", module, "--no-ray", "--rounds", "2", "--seconds", "0.01", *options]
    done = subprocess.run(
        [*command, "--json", str(written)],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no figures of Ray: --no-ray" in done.stdout
    assert done.stdout.startswith("date ")
    return done.stdout, json.loads(written.read_text())


def assert_measured(ways: dict[str, Any], measured: Sequence[str], left_out: Sequence[str]) -> None:
    assert set(ways) == {*measured, *left_out}
    assert all(len(ways[name]) == 2 and min(answer["p50_us"] for answer in ways[name]) > 0 for name in measured)
    assert not any(ways[name] for name in left_out)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_tensors_are_measured_beside_a_copy_and_beside_the_unsplit_layers(tmp_path: Path) -> None:
    parts = ("--only", "chain", "transports", "layers", "--sizes", "4096", "--tokens", "1", "--no-gloo")
    printed, found = run(tmp_path, "benchmarks.tensors", *parts)
    assert "no figures of gloo: --no-gloo" in printed
    assert set(found) == {"machine", "contestants", "rows"}
    chain, transports, layers = found["rows"]
    assert [row["title"] for row in found["rows"]] == ["chain, 4 KB", "transports, 4 KB", "layers, 1 token"]
    assert_measured(chain["ways"], ("copy", "dagc"), ("Ray", "Ray, tensors"))
    assert all(answer["per_second"] > 0 for answer in chain["ways"]["dagc"])
    assert_measured(transports["ways"], ("dagc", "shm, spec", "gloo", "gloo, spec"), ())
    assert_measured(layers["ways"], ("unsplit", "dagc"), ("gloo", "Ray", "Ray, gathered"))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not all(map(importlib.util.find_spec, LLM)), reason="needs the extra: pip install -e '.[llm]'")
def test_pipelines_are_measured_and_give_the_logits_of_the_unsplit_model(tmp_path: Path) -> None:
    printed, found = run(tmp_path, "benchmarks.pipelining", "--tiny", "-m", "2", "--tokens", "5")
    assert "prompts of 5 tokens; 2 stages of" in printed
    assert "Next tokens as in the unsplit model" in printed
    (row,) = found["rows"]
    assert (row["m"], row["stages"], found["tokens"]) == (2, 2, 5)
    split = ("limit", "dagc, in flight", "dagc, one graph", "GPipe on gloo")
    assert_measured(row["ways"], (*split, "unsplit, 1 thread", "unsplit, 2 threads"), ("Ray, in flight",))
    for name in split:
        for answer in row["ways"][name]:
            assert len(answer["stage_s"]) == 2
            assert sum(answer["stage_s"]) > 0
    for name in split[1:]:
        assert all(answer["difference"] < 1e-3 for answer in row["ways"][name])
