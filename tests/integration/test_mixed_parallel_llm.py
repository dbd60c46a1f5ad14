"""Stages of tensor-parallel ranks against the unsplit model, and the example that runs them."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

import dagc
from examples import mixed_parallel_llm
from examples.llm import tiny
from examples.llm.agreement import Agreement, greedy, teacher_forced
from examples.llm.checkpoint import Checkpoint, default_cache
from examples.llm.config import LlamaConfig
from examples.llm.gguf_import import find_smollm2, open_gguf
from examples.llm.grid import grid_parallel
from examples.llm.sequences import Workload, generate
from examples.llm.stage import Stage
from examples.llm.tokenizer import ChatTokenizer
from examples.mixed_parallel_llm import RemoteShard, compiled, unsplit
from tests.llm_models import UNEVEN, needs_model, workload_of

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of logits of order 1 to 10


def check_grid(checkpoint: Checkpoint, workload: Workload, ranks: int, cut: Sequence[range]) -> list[list[int]]:
    """Compares logits and free-running tokens of a grid with those of the unsplit model; returns the tokens."""
    groups = len(cut)
    make = {"slots": len(workload.prompts), "max_len": workload.max_len, "threads": 1}
    whole = Stage(checkpoint.folder, 0, checkpoint.config.num_pieces, **make)
    stages = [
        [RemoteShard.remote(checkpoint.folder, rank, ranks, pieces=pieces, **make) for rank in range(ranks)]
        for pieces in cut
    ]
    agreement = Agreement()
    with dagc.compile(grid_parallel(stages, cut), max_inflight=groups) as graph:
        forced = teacher_forced(compiled(graph), unsplit(whole), agreement)
        expected = generate(workload.deal(groups), forced).outputs
        assert generate(workload.deal(groups), greedy(compiled(graph))).outputs == expected
    assert agreement.positions == agreement.same_tokens == sum(map(len, expected))
    assert agreement.largest_difference < TOLERANCE * 10 < 1 < agreement.largest_logit
    return expected


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("config", "ranks", "cut"),
    [
        (tiny.CONFIG, 2, [range(4), range(4, 8)]),
        (UNEVEN, 3, [range(1), range(1, 7), range(7, 8)]),  # the embedding and the lm_head are stages of their own
        (UNEVEN, 2, [range(3), range(3, 5), range(5, 8)]),
        (tiny.CONFIG, 1, [range(5), range(5, 8)]),
    ],
    ids=["2x2", "3x3", "2x3-uneven", "1x2"],
)
def test_a_grid_computes_what_the_unsplit_model_computes(
    cache: Path, config: LlamaConfig, ranks: int, cut: list[range]
) -> None:
    checkpoint = tiny.open_tiny(cache, config)
    workload = workload_of(checkpoint, ["hello", "a somewhat longer prompt", "x"], 12)
    expected = check_grid(checkpoint, workload, ranks, cut)
    assert len({token for output in expected for token in output}) > 3, "the check needs outputs that vary"


# -- the demo itself, with actors


def run(command: Sequence[str], cwd: Path | None) -> "subprocess.CompletedProcess[str]":
    # Where threads spin while they wait for one that has no core, a busy machine makes minutes of a second.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=170, check=False)


def test_demo_prints_what_it_promises(cache: Path) -> None:
    script = str(ROOT / "examples" / "mixed_parallel_llm.py")
    arguments = ["--offline-tiny", "--cache", str(cache), "--max-new-tokens", "6", "--rounds", "2", "--grid-only"]
    done = run([sys.executable, script, *arguments], cwd=None)
    assert done.returncode == 0, done.stderr
    for expected in (
        "plan: 4 actors, 71 ops; 13 collectives a step in 2 groups of ranks; 5 channels, 2 of them from stage to stage",
        "prompts: 4, threads: 4, cores: ",
        "median of 2",
        "unsplit, threads: 4",
        "steps a second, predicted from what each op took: ",
        "the same next token at 24 of 24 positions",
        "tp 2 x pp 2: the same 24 tokens as the unsplit model",
    ):
        assert expected in done.stdout
    for rank in ("stage0-rank0", "stage0-rank1", "stage1-rank0", "stage1-rank1"):
        assert rank in done.stdout


def test_demo_compares_with_either_parallelism_alone(cache: Path) -> None:
    arguments = ["--offline-tiny", "--cache", str(cache), "--max-new-tokens", "6", "--rounds", "1", "--tp", "1"]
    done = run([sys.executable, "-m", "examples.mixed_parallel_llm", *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"│ ([tpu][^│]*[^ ]) +│ +(\d) │ .* │ +24 of 24 │", done.stdout))
    alone = {"tp 2, threads: 1": "1", "pp 2, threads: 1": "2", "unsplit, threads: 2": "1"}
    assert {**alone, **rows} == rows
    assert rows["tp 1 x pp 2"] == "2"


SMALL = ["--offline-tiny", "--max-new-tokens", "3", "--rounds", "1", "--pp", "1", "--grid-only"]
OFF_BY_A_LITTLE = """
from examples import mixed_parallel_llm

right = mixed_parallel_llm.unsplit

def unsplit(model):
    submit = right(model)
    return lambda tokens, batch: lambda: submit(tokens, batch)() + 0.01

mixed_parallel_llm.unsplit = unsplit
raise SystemExit(mixed_parallel_llm.main())
"""
# The second likeliest token: as a free-running graph would that computes other logits than teacher-forced.
OTHER_TOKENS = """
from examples import mixed_parallel_llm

def greedy(submit):
    return lambda tokens, batch: lambda: submit(tokens, batch)().topk(2).indices[:, 1]

mixed_parallel_llm.greedy = greedy
raise SystemExit(mixed_parallel_llm.main())
"""


def test_demo_fails_if_logits_differ_by_more_than_the_tolerance(cache: Path) -> None:
    done = run([sys.executable, "-c", OFF_BY_A_LITTLE, *SMALL, "--cache", str(cache)], cwd=ROOT)
    assert done.returncode == 1
    assert "mixed_parallel_llm: error: the logits differ by 0.01, more than --tolerance 0.001" in done.stderr


def test_demo_fails_if_tokens_differ_by_more_than_a_tie(cache: Path) -> None:
    done = run([sys.executable, "-c", OTHER_TOKENS, *SMALL, "--cache", str(cache)], cwd=ROOT)
    assert done.returncode == 1
    assert "error: prompt 0 differs at token 0, where the unsplit model prefers its own by " in done.stderr
    assert "the same next token at 12 of 12 positions" in done.stdout, "teacher-forced, all is well"


def test_demo_reports_a_tie_and_goes_on(cache: Path) -> None:
    # With such a tolerance every difference is a tie.
    done = run([sys.executable, "-c", OTHER_TOKENS, *SMALL, "--cache", str(cache), "--tolerance", "100"], cwd=ROOT)
    assert done.returncode == 0
    assert "prompt 0 differs at token 0: a tie, the unsplit model prefers its own by " in done.stdout
    assert "as the unsplit model" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tp", "3"], "--tp 3: 3 ranks: this model has 2 key/value heads"),
        (["--tp", "0"], "must be at least 1, found 0"),
        (["--pp", "9"], "--pp 9: this model has 8 pieces to share out"),
        (["--pp", "two"], "must be a whole number, found 'two'"),
        (["--tolerance", "nan"], "--tolerance nan: must be at least 0"),
        (["--max-new-tokens", "2000"], "the model's context has 1024"),
    ],
)
def test_demo_refuses(cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        mixed_parallel_llm.main(["--offline-tiny", "--cache", str(cache), *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "mixed_parallel_llm: error: " in error
    assert message in error


# -- SmolLM2-135M


@needs_model
@pytest.mark.model
@pytest.mark.slow
def test_smollm2_on_two_stages_of_two_ranks() -> None:
    checkpoint = open_gguf(find_smollm2(), default_cache())
    workload = workload_of(checkpoint, ["What is the capital of France?", "Count from 1 to 20."], 8)
    dagc.init()
    try:
        answers = check_grid(checkpoint, workload, 2, [range(19), range(19, 32)])
    finally:
        dagc.shutdown()
    assert ChatTokenizer(checkpoint).decode(answers[0]).startswith("The capital of France is Paris")
