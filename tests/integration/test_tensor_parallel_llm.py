"""The tensor-parallel LLM example against the unsplit model: the same logits, up to the order of the sums."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

import dagc
from examples.llm import tiny
from examples.llm.agreement import Agreement, common_prefix, greedy, teacher_forced
from examples.llm.checkpoint import Checkpoint, default_cache
from examples.llm.collective_time import step_time
from examples.llm.config import LlamaConfig
from examples.llm.gguf_import import find_smollm2, open_gguf
from examples.llm.model import Batch
from examples.llm.sequences import Workload, generate
from examples.llm.shard import Shard, evenly, shares
from examples.llm.stage import Stage
from examples.llm.tokenizer import ChatTokenizer
from examples.tensor_parallel_llm import RemoteShard, compiled, tensor_parallel, unsplit
from tests.llm_models import UNEVEN, needs_model, workload_of

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of logits of order 1 to 10
PROMPTS = ("hello", "a somewhat longer prompt", "x")


def whole_of(checkpoint: Checkpoint, workload: Workload) -> Stage:
    pieces = checkpoint.config.num_pieces
    return Stage(checkpoint.folder, 0, pieces, slots=len(workload.prompts), max_len=workload.max_len, threads=1)


def dag_of(checkpoint: Checkpoint, workload: Workload, ranks: int) -> Any:
    make = {"slots": len(workload.prompts), "max_len": workload.max_len, "threads": 1}
    actors = [RemoteShard.remote(checkpoint.folder, rank, ranks, **make) for rank in range(ranks)]
    return tensor_parallel(actors, checkpoint.config.num_hidden_layers)


# -- what each rank has


@pytest.mark.parametrize("config", [tiny.CONFIG, UNEVEN], ids=["even", "uneven"])
def test_shares_cover_everything_once(config: LlamaConfig) -> None:
    for ranks in range(1, config.num_key_value_heads + 1):
        owned = shares(config, ranks)
        assert [head for share in owned for head in share.kv_heads] == list(range(config.num_key_value_heads))
        assert [column for share in owned for column in share.mlp_columns] == list(range(config.intermediate_size))
        assert [token for share in owned for token in share.vocabulary] == list(range(config.vocab_size))


def test_shares_differ_by_one_group_of_heads_at_most() -> None:
    first, second = shares(UNEVEN, 2)
    assert (first.config.num_key_value_heads, first.config.num_attention_heads) == (2, 4)
    assert (second.config.num_key_value_heads, second.config.num_attention_heads) == (1, 2)
    assert (first.config.intermediate_size, second.config.intermediate_size) == (81, 80)
    assert evenly(7, 3) == [range(3), range(3, 5), range(5, 7)]


@pytest.mark.parametrize("ranks", [0, 4])
def test_a_rank_without_a_head_is_refused(ranks: int) -> None:
    with pytest.raises(ValueError, match=rf"{ranks} ranks: .* 3 key/value heads.* expected 1 or 2 or 3"):
        shares(UNEVEN, ranks)


def test_a_rank_caches_its_own_heads_alone(cache: Path) -> None:
    checkpoint = tiny.open_tiny(cache, UNEVEN)
    first, second = (Shard(checkpoint.folder, rank, 2, slots=5, max_len=40, threads=1) for rank in range(2))
    assert first.layers[0].cache.keys.shape == (5, 2, 40, UNEVEN.head_dim)
    assert second.layers[0].cache.keys.shape == (5, 1, 40, UNEVEN.head_dim)


# -- what all ranks compute together


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("config", "ranks"),
    [(tiny.CONFIG, 1), (tiny.CONFIG, 2), (UNEVEN, 1), (UNEVEN, 2), (UNEVEN, 3)],
    ids=["even-1", "even-2", "uneven-1", "uneven-2", "uneven-3"],
)
def test_logits_and_tokens_are_those_of_the_unsplit_model(cache: Path, config: LlamaConfig, ranks: int) -> None:
    checkpoint = tiny.open_tiny(cache, config)
    workload = workload_of(checkpoint, PROMPTS, 12)
    whole = whole_of(checkpoint, workload)
    expected = generate(workload.deal(1), greedy(unsplit(whole))).outputs
    assert len({token for output in expected for token in output}) > 3, "the check needs outputs that vary"
    agreement = Agreement()
    with dagc.compile(dag_of(checkpoint, workload, ranks), max_inflight=1) as graph:
        assert (
            generate(workload.deal(1), teacher_forced(compiled(graph), unsplit(whole), agreement)).outputs == expected
        )
        # Free-running, and with three batches under way, each in its own slots of the caches.
        assert generate(workload.deal(1), greedy(compiled(graph))).outputs == expected
        assert generate(workload.deal(3), greedy(compiled(graph))).outputs == expected
    assert agreement.positions == agreement.same_tokens == sum(map(len, expected))
    assert agreement.largest_difference < TOLERANCE < 1 < agreement.largest_logit


@pytest.mark.usefixtures("threads")
def test_dynamic_calls_give_what_the_compiled_graph_gives(cache: Path) -> None:
    checkpoint = tiny.open_tiny(cache, UNEVEN)
    workload = workload_of(checkpoint, PROMPTS, 12)
    dag = dag_of(checkpoint, workload, 2)
    given = {"tokens": torch.tensor(workload.prompts[0]), "batch": Batch((0,), (0,), (len(workload.prompts[0]),))}
    dynamic = dagc.run(dag, **given)
    with dagc.compile(dag) as graph:
        assert torch.equal(graph.execute(**given).get(timeout=30.0), dynamic)


@pytest.mark.usefixtures("threads")
def test_a_trace_tells_calls_from_collectives(cache: Path) -> None:
    checkpoint = tiny.open_tiny(cache, UNEVEN)
    workload = workload_of(checkpoint, PROMPTS, 12)
    with dagc.compile(dag_of(checkpoint, workload, 2), max_inflight=1, trace=True) as graph:
        actors = set(graph.plan.schedule) - {"driver"}
        generate(workload.deal(1), greedy(compiled(graph)))
        times = step_time(graph.trace())
    assert times.collectives == 2 * UNEVEN.num_hidden_layers + 1
    assert set(times.computing) == set(times.in_collectives) == actors
    assert min(times.exchanging, *times.computing.values(), *times.in_collectives.values()) > 0


# -- how agreement is counted


def test_agreement_counts_positions_and_keeps_the_largest_difference() -> None:
    agreement = Agreement()
    agreement.add(torch.tensor([[1.0, 2.0], [5.0, 4.0]]), torch.tensor([[1.0, 2.5], [4.0, 5.0]]))
    agreement.add(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert agreement == Agreement(positions=3, same_tokens=2, largest_difference=1.0, largest_logit=5.0)


def test_nan_is_no_agreement() -> None:
    agreement = Agreement()
    agreement.add(torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, 0.0]]))
    assert agreement.largest_difference == float("inf")


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(1, 3\); expected \(1, 2\)"):
        Agreement().add(torch.zeros(1, 3), torch.zeros(1, 2))


def test_common_prefix() -> None:
    assert [common_prefix([1, 2, 3], other) for other in ([1, 2, 3], [1, 9, 3], [1, 2], [])] == [3, 1, 2, 0]


def test_a_stage_without_the_head_has_no_logits(cache: Path) -> None:
    stage = Stage(tiny.open_tiny(cache).folder, 0, 2, slots=1, max_len=8, threads=1)
    with pytest.raises(TypeError, match="the last piece of this stage is a DecoderLayer; expected the lm_head"):
        stage.logits(torch.zeros(1, dtype=torch.long), Batch((0,), (0,), (1,)))


# -- the demo itself, with actors


def run(command: Sequence[str], cwd: Path | None) -> "subprocess.CompletedProcess[str]":
    # Where threads spin while they wait for one that has no core, a busy machine makes minutes of a second.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=170, check=False)


def as_module(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return run([sys.executable, "-m", "examples.tensor_parallel_llm", *arguments], cwd=ROOT)


def as_script(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return run([sys.executable, str(ROOT / "examples" / "tensor_parallel_llm.py"), *arguments], cwd=None)


@pytest.mark.parametrize("start", [as_module, as_script])
def test_demo_prints_what_it_promises(
    cache: Path, start: Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
) -> None:
    done = start(["--offline-tiny", "--cache", str(cache), "--ranks", "2", "--max-new-tokens", "6", "--rounds", "2"])
    assert done.returncode == 0, done.stderr
    for expected in (
        "prompts: 4, ranks: 2; median of 2",
        "tensor parallel, compiled",
        "unsplit, threads: 2",
        "decode step ms",
        "collectives ms",
        "13 collectives a step",
        "teacher-forced: logits differ by at most ",
        "teacher-forced: the same next token at 24 of 24 positions",
        "free-running: the same 24 of 24 tokens before the first that differs, 4 of 4 answers equal",
    ):
        assert expected in done.stdout
    assert done.stdout.count("2 + 1 KV") == 2


OFF_BY_A_LITTLE = """
from examples import tensor_parallel_llm

right = tensor_parallel_llm.unsplit

def unsplit(model):
    submit = right(model)
    return lambda tokens, batch: lambda: submit(tokens, batch)() + 0.01

tensor_parallel_llm.unsplit = unsplit
raise SystemExit(tensor_parallel_llm.main())
"""


def test_demo_fails_if_logits_differ_by_more_than_the_tolerance(cache: Path) -> None:
    arguments = ["--offline-tiny", "--cache", str(cache), "--max-new-tokens", "3", "--rounds", "1"]
    done = run([sys.executable, "-c", OFF_BY_A_LITTLE, *arguments], cwd=ROOT)
    assert done.returncode == 1
    assert "tensor_parallel_llm: error: the logits differ by 0.01, more than --tolerance 0.001" in done.stderr
    assert "the same next token at 12 of 12 positions" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "3"], "--ranks 3: 3 ranks: this model has 2 key/value heads, and a rank holds at least one; "),
        (["--ranks", "0"], "must be at least 1, found 0"),
        (["--ranks", "two"], "must be a whole number, found 'two'"),
        (["--tolerance", "-1"], "--tolerance -1.0: must be at least 0"),
        (["--tolerance", "nan"], "--tolerance nan: must be at least 0"),
        (["--max-new-tokens", "2000"], "the model's context has 1024"),
    ],
)
def test_demo_refuses(cache: Path, arguments: list[str], message: str) -> None:
    done = as_module(["--offline-tiny", "--cache", str(cache), *arguments])
    assert done.returncode == 2
    assert "tensor_parallel_llm: error: " in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if arguments == ["--ranks", "3"]:
        assert "expected 1 or 2\n" in done.stderr


# -- SmolLM2-135M


@needs_model
@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_smollm2_agrees_with_the_unsplit_model(ranks: int) -> None:
    checkpoint = open_gguf(find_smollm2(), default_cache())
    tokenizer = ChatTokenizer(checkpoint)
    prompts = ["What is the capital of France?", "Count from 1 to 20."]
    workload = Workload([tokenizer.encode_chat(prompt) for prompt in prompts], 8, checkpoint.config.eos_token_ids)
    whole, agreement = whole_of(checkpoint, workload), Agreement()
    dagc.init()
    try:
        with dagc.compile(dag_of(checkpoint, workload, ranks), max_inflight=1) as graph:
            forced = generate(workload.deal(1), teacher_forced(compiled(graph), unsplit(whole), agreement))
    finally:
        dagc.shutdown()
    assert tokenizer.decode(forced.outputs[0]).startswith("The capital of France is Paris")
    assert agreement.positions == 16
    assert agreement.largest_difference < 1e-3 < 10 < agreement.largest_logit
