"""The example of a pipeline over unlike devices: what it prints, and its exit codes."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

from examples import heterogeneous

ROOT = Path(__file__).resolve().parents[2]
OFF_BY_ONE = """
from examples import heterogeneous

def unsplit(model):
    return lambda tokens, batch: lambda: model.forward(tokens, batch) - 1

heterogeneous.unsplit = unsplit
raise SystemExit(heterogeneous.main())
"""


def run(command: Sequence[str], cwd: Path | None) -> "subprocess.CompletedProcess[str]":
    # Where threads spin while they wait for one that has no core, a busy machine makes minutes of a second.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=170, check=False)


def test_demo_prints_what_it_promises(cache: Path) -> None:
    script = str(ROOT / "examples" / "heterogeneous.py")
    arguments = ["--offline-tiny", "--cache", str(cache), "--max-new-tokens", "6", "--rounds", "2"]
    done = run([sys.executable, script, *arguments, "--slowdowns", "1,20"], cwd=None)
    assert done.returncode == 0, done.stderr
    assert "equal, balanced, unsplit: the same 24 tokens" in done.stdout
    assert "prompts: 4, groups: 2; median of 2" in done.stdout
    assert re.search(r"balanced beside equal: [\d.]+ times the steps a second, predicted [\d.]+\n", done.stdout)
    # A device that is 20 times as slow gets the least that there is: the lm_head.
    assert re.search(r"│ balanced, device1 │ +lm_head │", done.stdout)
    assert re.search(r"│ equal, device1 +│ +layers \d-5 \+ lm_head │", done.stdout)


def test_demo_fails_if_the_tokens_differ(cache: Path) -> None:
    arguments = ["--offline-tiny", "--cache", str(cache), "--max-new-tokens", "3", "--rounds", "1"]
    done = run([sys.executable, "-c", OFF_BY_ONE, *arguments], cwd=ROOT)
    assert done.returncode == 1
    assert "heterogeneous: error: prompt 0 differs at token 0\n  equal: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "1,x"], "--threads 1,x: expected whole numbers with commas between them"),
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--slowdowns", "fast"], "--slowdowns fast: expected numbers with commas between them"),
        (["--slowdowns", "0.5,1"], "--slowdowns 0.5,1: must be at least 1"),
        (["--slowdowns", "nan"], "--slowdowns nan: must be at least 1"),
        (["--threads", "1,2,3"], "--threads names 3 devices and --slowdowns 2; expected as many, or 1"),
        (["--slowdowns", "1,1,1,1,1,1,1,1,1"], "9 stages: this model has 8 pieces to share out"),
        (["--max-new-tokens", "2000"], "the model's context has 1024"),
    ],
)
def test_demo_refuses(cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        heterogeneous.main(["--offline-tiny", "--cache", str(cache), *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "heterogeneous: error: " in error
    assert message in error
