"""The example of a stage that streams its weights: what it prints, its exit codes, and what its process holds."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

import dagc
from examples import cpu_offload
from examples.cpu_offload import NO_OVERLAP, OVERLAP, RESIDENT, conclusions
from examples.llm import tiny
from examples.llm.copies import Copied
from examples.llm.offload import OffloadedStage, StepRecord

ROOT = Path(__file__).resolve().parents[2]
# 12 layers of 13 MB: enough to tell from what a process holds besides.
WIDE = dataclasses.replace(
    tiny.CONFIG, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=2, head_dim=32
)


class Measured(OffloadedStage):
    """Says what its process holds of memory that is no file."""

    def anonymous_bytes(self) -> int:
        found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) * 1024


def test_the_process_of_a_streamed_stage_is_smaller_by_the_layers_that_it_does_not_hold(cache: Path) -> None:
    folder = tiny.open_tiny(cache, WIDE).folder
    dagc.init()
    try:
        remote = dagc.remote(Measured)
        resident, streamed = (
            remote.remote(folder, 1, 13, budget=budget, overlap=True, slots=1, max_len=8, threads=1)
            for budget in (12, 3)
        )
        held = dagc.get([resident.held_layers_bytes.remote(), streamed.held_layers_bytes.remote()])
        processes = dagc.get([resident.anonymous_bytes.remote(), streamed.anonymous_bytes.remote()])
    finally:
        dagc.shutdown()
    layer = held[0] // 12
    assert layer > 12e6
    assert held[1] == 3 * layer
    assert processes[0] - processes[1] == pytest.approx(9 * layer, rel=0.25)


def run(command: Sequence[str], cwd: Path | None) -> "subprocess.CompletedProcess[str]":
    # Where threads spin while they wait for one that has no core, a busy machine makes minutes of a second.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=170, check=False)


def test_demo_prints_what_it_promises(cache: Path) -> None:
    script = str(ROOT / "examples" / "cpu_offload.py")
    arguments = ["--offline-tiny", "--cache", str(cache), "--max-new-tokens", "6", "--rounds", "2", "--stages", "1"]
    done = run([sys.executable, script, *arguments, "--budget", "4"], cwd=None)
    assert done.returncode == 0, done.stderr
    for expected in (
        "the last stage may hold 4 of its 6 layers, 0.69 MB: 2 stay, 4 take turns in 2 buffers",
        "prompts: 4, groups: 1; median of 2",
        "copies of a step; memcpy alone: ",
        "all resident, no overlap, overlap, unsplit: the same 24 tokens",
    ):
        assert expected in done.stdout
    held = dict(re.findall(r"│ (all resident|no overlap|overlap) +│ +([\d.]+) │ +(?:yes|no) │", done.stdout))
    assert held == {"all resident": "1.04", "no overlap": "0.69", "overlap": "0.69"}
    copied = dict(re.findall(r"│ ((?:no )?overlap, (?:prefill|decode)) +│ +([\d.]+) │", done.stdout))
    assert set(copied.values()) == {"0.69"}, "four layers a step"
    assert len(copied) == 4


OFF_BY_ONE = """
from examples import cpu_offload

def unsplit(model):
    return lambda tokens, batch: lambda: model.forward(tokens, batch) - 1

cpu_offload.unsplit = unsplit
raise SystemExit(cpu_offload.main())
"""


def test_demo_fails_if_the_tokens_differ(cache: Path) -> None:
    arguments = ["--offline-tiny", "--cache", str(cache), "--max-new-tokens", "3", "--rounds", "1"]
    done = run([sys.executable, "-c", OFF_BY_ONE, *arguments], cwd=ROOT)
    assert done.returncode == 1
    assert "cpu_offload: error: prompt 0 differs at token 0\n  all resident: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--budget", "1"],
            "--budget 1: the last stage has 3 layers, and two take turns in the buffers; expected 2 to 2",
        ),
        (["--budget", "3"], "--budget 3: the last stage has 3 layers"),
        (["--stages", "9"], "--stages 9: this model has 8 pieces to share out"),
        (["--stages", "8"], "the last of 8 stages has 0 layers; expected at least 3"),
        (["--device", "cuda"], "--device cuda: PyTorch sees no GPU on this machine"),
        (["--max-new-tokens", "2000"], "the model's context has 1024"),
    ],
)
def test_demo_refuses(
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cpu_offload.Stage, "step_costs", lambda *_, **__: [1.0] * 8)
    with pytest.raises(SystemExit) as ended:
        cpu_offload.main(["--offline-tiny", "--cache", str(cache), *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "cpu_offload: error: " in error
    assert message in error


def steps(seconds: float, exposed: float = 0.0) -> list[StepRecord]:
    return [StepRecord(is_prefill, seconds, Copied(1, 8, 1.0, exposed)) for is_prefill in (True, False, False)]


def test_conclusions_follow_from_the_figures() -> None:
    decode, waits, *_ = conclusions({RESIDENT: steps(1.0), NO_OVERLAP: steps(2.0), OVERLAP: steps(1.5, exposed=0.3)})
    assert decode == (
        "decode: streaming takes 2.00 times as long as resident layers without overlap, 1.50 times with it; "
        "overlap saves 50% of what streaming costs"
    )
    assert waits == (
        "decode: of what is left, 300.00 ms are waits for copies; the computing itself takes +20% beside the copying"
    )
    worse, *_ = conclusions({RESIDENT: steps(1.0), NO_OVERLAP: steps(2.0), OVERLAP: steps(2.5)})
    assert worse.endswith("overlap adds 50% to what streaming costs")
    nothing, *_ = conclusions({RESIDENT: steps(1.0), NO_OVERLAP: steps(1.0), OVERLAP: steps(1.0)})
    assert nothing == (
        "decode: streamed layers took no longer than resident ones, although copying them took 1000.00 ms: "
        "this run was disturbed, or is too small to tell"
    )
