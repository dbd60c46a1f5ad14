"""The disaggregated LLM server against the unsplit model: the same tokens, whoever prefills and decodes them."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

import dagc
from examples import prefill_disaggregation
from examples.llm.agreement import Agreement
from examples.llm.checkpoint import Checkpoint, default_cache
from examples.llm.disaggregation import Graphs, compile_all, expected_outputs, regret
from examples.llm.gguf_import import find_smollm2, open_gguf
from examples.llm.kv_blocks import KVBlock, kv_bytes
from examples.llm.load import Arrival, Mix, arrivals
from examples.llm.model import Batch
from examples.llm.replica import Admitted, Replica
from examples.llm.serving import Run, Server
from examples.llm.stage import Stage
from examples.llm.tiny import open_tiny
from examples.llm.tokenizer import ChatTokenizer
from examples.llm.transfer import interference, transfers
from examples.prefill_disaggregation import RemoteReplica, main
from tests.llm_models import needs_model

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of logits of order 1 to 10
MIX = Mix(chats=4, chat_tokens=10, documents=3, document_tokens=150, summary_tokens=4, gap_s=0.005, seed=1)


@pytest.fixture(scope="module")
def checkpoint(cache: Path) -> Checkpoint:
    return open_tiny(cache)


@pytest.fixture(scope="module")
def load(checkpoint: Checkpoint) -> list[Arrival]:
    return arrivals(MIX, ChatTokenizer(checkpoint))


def max_len_of(load: Sequence[Arrival]) -> int:
    return max(arrival.max_len for arrival in load)


def whole_of(checkpoint: Checkpoint, load: Sequence[Arrival], slots: int) -> Stage:
    return Stage(checkpoint.folder, 0, checkpoint.config.num_pieces, slots=slots, max_len=max_len_of(load), threads=1)


def installed(
    stack: ExitStack,
    checkpoint: Checkpoint,
    load: Sequence[Arrival],
    prefills: int,
    decodes: int,
    slots: int,
    size: int,
) -> Graphs:
    make = {"slots": slots, "max_len": max_len_of(load), "threads": 1}
    replicas = [
        RemoteReplica.options(max_concurrency=1 if number < prefills else 2).remote(checkpoint.folder, **make)
        for number in range(prefills + decodes)
    ]
    numbers = range(prefills + decodes)
    layers = checkpoint.config.num_hidden_layers
    return compile_all(stack, replicas, numbers[:prefills], numbers[prefills:], layers, size)


def most_at_once(run: Run, actor: int) -> int:
    return max(step.sequences for step in run.steps if step.actor == actor)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("prefills", "decodes", "slots", "size"), [(1, 1, 2, 6), (2, 1, 3, 2), (1, 2, 2, 4), (2, 2, 8, 1)]
)
def test_every_way_gives_the_tokens_of_the_unsplit_model(
    checkpoint: Checkpoint, load: list[Arrival], prefills: int, decodes: int, slots: int, size: int
) -> None:
    agreement = Agreement()
    with ExitStack() as stack:
        graphs = installed(stack, checkpoint, load, prefills, decodes, slots, size)
        whole = whole_of(checkpoint, load, slots)
        expected = expected_outputs(load, whole, graphs.pairs_logits, graphs.steps_logits, slots, agreement)
        decode_steps = {number: graphs.steps[number] for number in range(prefills, prefills + decodes)}
        handed_over = asyncio.run(Server(load, decode_steps, graphs.pairs, slots=slots).run())
        whole_prompts = asyncio.run(Server(load, graphs.steps, slots=slots).run())
        chunks = asyncio.run(Server(load, graphs.steps, slots=slots, chunk=7).run())

    assert agreement.positions == sum(arrival.max_new_tokens for arrival in load) == 4 * 10 + 3 * 4
    assert agreement.largest_difference < TOLERANCE < agreement.largest_logit
    assert len({token for output in expected for token in output}) > 8, "the check needs outputs that vary"
    for run in (handed_over, whole_prompts, chunks):
        assert [request.output for request in run.requests] == expected
        assert all(len(request.times) == len(request.output) for request in run.requests)
        assert all(request.times == sorted(request.times) for request in run.requests)
        assert all(request.arrived_s <= request.started_s <= request.times[0] for request in run.requests)
        assert all(most_at_once(run, actor) <= slots for actor in {step.actor for step in run.steps})

    # Everything was handed over, all of it, block by block; nobody but the decode actors decoded.
    assert {step.actor for step in handed_over.steps} == set(decode_steps)
    assert sum(step.prompt_tokens for step in handed_over.steps) == 0
    assert sorted(handed_over.admitted) == list(range(len(load)))
    for number, (actor, admitted) in handed_over.admitted.items():
        assert actor in decode_steps
        assert admitted.bytes == kv_bytes(checkpoint.config, len(load[number].prompt))
        assert len(admitted.copies) == -(-checkpoint.config.num_hidden_layers // size)
        assert admitted.copying_s > 0
        assert admitted.exposed_s > 0
    assert interference([handed_over]).copying_s > 0

    prompts = sum(len(arrival.prompt) for arrival in load)
    for run in (whole_prompts, chunks):
        assert run.admitted == {}
        assert sum(step.prompt_tokens for step in run.steps) == pytest.approx(prompts, abs=len(load))
    assert max(step.prompt_tokens for step in chunks.steps) <= 7 < max(s.prompt_tokens for s in whole_prompts.steps)


@pytest.mark.usefixtures("threads")
def test_a_block_that_was_damaged_on_its_way_is_seen_in_the_logits(
    checkpoint: Checkpoint, load: list[Arrival], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Replica.admit

    def damaged(self: Replica, block: KVBlock, slot: int, admitted: Admitted | None = None) -> Admitted:
        if block.first == 4:
            block.kv[1, 1, 0, 2] *= 1.5  # of one layer the values of one head, at one token
        return right(self, block, slot, admitted)

    monkeypatch.setattr(Replica, "admit", damaged)
    agreement = Agreement()
    with ExitStack() as stack:
        graphs = installed(stack, checkpoint, load[:1], 1, 1, slots=1, size=2)
        whole = whole_of(checkpoint, load[:1], 1)
        expected_outputs(load[:1], whole, graphs.pairs_logits, graphs.steps_logits, 1, agreement)
    assert agreement.largest_difference > TOLERANCE


@pytest.mark.usefixtures("threads")
def test_a_transfer_is_measured_beside_a_copy_of_as_many_bytes(checkpoint: Checkpoint, load: list[Arrival]) -> None:
    with ExitStack() as stack:
        graphs = installed(stack, checkpoint, load, 1, 1, slots=1, size=2)
        moved = transfers({"groups": graphs.pairs[0, 1], "at once": graphs.at_once}, load[0].prompt, rounds=2)
    assert [of.name for of in moved] == ["groups", "at once", "memcpy"]
    assert {of.bytes for of in moved} == {kv_bytes(checkpoint.config, len(load[0].prompt))}
    assert all(of.exposed_s > 0 and of.gb_per_s == of.bytes / of.exposed_s / 1e9 for of in moved)
    assert all(of.prefill_s > 0 for of in moved[:2])


@pytest.mark.usefixtures("threads")
def test_a_server_raises_what_an_actor_raises_and_ends(checkpoint: Checkpoint, load: list[Arrival]) -> None:
    with ExitStack() as stack:
        graphs = installed(stack, checkpoint, load, 1, 1, slots=1, size=2)
        server = Server(load, {1: graphs.steps[1]}, graphs.pairs, slots=9)  # more than the actors have
        with pytest.raises(ValueError, match=r"slot \d; expected one of the 2 slots of this cache"):
            asyncio.run(server.run())


def test_blocks_come_in_the_order_of_the_layers(checkpoint: Checkpoint) -> None:
    replica = Replica(checkpoint.folder, slots=1, max_len=8, threads=1)
    x, first = replica.prefill(replica.embed(torch.arange(5)), 0, 2)
    _, second = replica.prefill(x, 2, 4)
    with pytest.raises(ValueError, match="a block from layer 2 on; expected the one from layer 0 on"):
        replica.admit(second, 0)
    admitted = replica.admit(first, 0)
    with pytest.raises(ValueError, match="a block from layer 0 on; expected the one from layer 2 on"):
        replica.admit(first, 0, admitted)
    assert replica.admit(second, 0, admitted).layers == 4


def test_regret_is_the_logits_that_another_token_costs(checkpoint: Checkpoint, load: list[Arrival]) -> None:
    whole = whole_of(checkpoint, load, 1)
    prompt = load[0].prompt
    best: list[int] = []
    for _ in range(3):
        ids = torch.tensor([*prompt, *best])
        best.append(int(whole.logits(ids, Batch((0,), (0,), (len(ids),)))[0].argmax()))
    assert regret(whole, prompt, best) == [0.0, 0.0, 0.0]
    other = regret(whole, prompt, [best[0], (best[1] + 1) % 100, best[2]])
    assert other[0] == 0.0
    assert other[1] > 0.0


# -- the example itself, with processes


def as_module(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "examples.prefill_disaggregation", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)


SMALL = ("--offline-tiny", "--rounds", "1", "--chats", "3", "--documents", "2", "--chat-tokens", "6")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--prefill", "2", "--decode", "2", "--slots", "1", "--layers", "1", "--admit-between-steps"]],
    ids=["one pair", "four pairs"],
)
def test_demo_serves_the_tiny_model(cache: Path, arguments: list[str]) -> None:
    done = as_module([*SMALL, "--cache", str(cache), *arguments])
    assert done.returncode == 0, done.stderr
    for expected in (
        "load: 3 x chat: ",
        "load: 2 x document: ",
        "slots of ",
        "TTFT p99 ms",
        "ITL p99 ms",
        "queueing p99 ms",
        "is best ",
        "groups of layers",
        "all layers at once",
        "memcpy",
        "ms exposed; ",
        "teacher-forced: logits differ by at most ",
        "the same next token at 34 of 34 positions",
        "disaggregated, colocated, colocated, chunk 64: 15 of 15 answers are those of the unsplit model",
    ):
        assert expected in done.stdout


class Nameless:
    @staticmethod
    def options(name: str, **others: Any) -> Any:
        return RemoteReplica.options(**others)


@pytest.fixture
def in_process(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo with threads for actors, in this process; they live on, so they cannot have its names.

    `threads` first: it is shut down after the patches have gone.
    """
    monkeypatch.setattr(prefill_disaggregation, "RemoteReplica", Nameless)
    monkeypatch.setattr(dagc, "init", lambda: None)
    monkeypatch.setattr(dagc, "shutdown", lambda: None)


@pytest.fixture
def other_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unsplit model would have chosen another third token in the first chat."""

    def expected(*arguments: Any) -> list[list[int]]:
        first, *others = expected_outputs(*arguments)
        return [[*first[:2], first[2] + 1, *first[3:]], *others]

    monkeypatch.setattr(prefill_disaggregation, "expected_outputs", expected)


@pytest.mark.usefixtures("in_process", "other_token")
def test_demo_fails_if_a_token_differs_that_is_no_near_tie(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill_disaggregation, "regret", lambda whole, prompt, output: [0.0, 0.0, 0.5])
    assert main([*SMALL, "--cache", str(cache)]) == 1
    said = capsys.readouterr().err
    message = "prefill_disaggregation: error: request 0 (chat) differs at token 2, in round 1\n  disaggregated: ["
    assert message in said
    assert "\n  unsplit: [" in said


@pytest.mark.usefixtures("in_process", "other_token")
def test_demo_accepts_a_near_tie_and_says_so(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill_disaggregation, "regret", lambda whole, prompt, output: [0.0, 0.0, 0.001])
    assert main([*SMALL, "--cache", str(cache)]) == 0
    said = capsys.readouterr().out
    assert "12 of 15 answers are those of the unsplit model, token for token" in said
    assert "3 others part from it where two tokens are as likely, within 0.002" in said


@pytest.mark.usefixtures("in_process")
def test_demo_fails_if_logits_differ_by_more_than_the_tolerance(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--cache", str(cache), "--tolerance", "0"]) == 1
    said = capsys.readouterr().err
    assert "prefill_disaggregation: error: the logits differ by " in said
    assert "more than --tolerance 0\n" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prefill", "0"], "argument --prefill: must be at least 1, found 0"),
        (["--decode", "0"], "argument --decode: must be at least 1, found 0"),
        (["--slots", "0"], "argument --slots: must be at least 1, found 0"),
        (["--chunk", "0"], "argument --chunk: must be at least 1, found 0"),
        (["--decode", "two"], "argument --decode: must be a whole number, found 'two'"),
        (["--layers", "7"], "--layers 7: this model has 6 layers to hand over"),
        (["--gap", "0"], "--gap 0.0: must be a number of seconds above 0"),
        (["--tolerance", "nan"], "--tolerance nan: must be at least 0"),
        (["--document-tokens", "9"], "--document-tokens 9: a document of "),
        (["--chat-tokens", "1000"], "tokens; the model's context has 1024"),
    ],
)
def test_demo_refuses(cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--offline-tiny", "--cache", str(cache), *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "prefill_disaggregation: error: " in said
    assert message in said


# -- SmolLM2-135M


@needs_model
@pytest.mark.model
@pytest.mark.slow
@pytest.mark.usefixtures("threads")
def test_smollm2_handed_over_agrees_with_the_unsplit_model() -> None:
    checkpoint = open_gguf(find_smollm2(), default_cache())
    tokenizer = ChatTokenizer(checkpoint)
    mix = Mix(chats=1, chat_tokens=8, documents=1, document_tokens=120, summary_tokens=4, gap_s=0.1, seed=0)
    load, agreement = arrivals(mix, tokenizer), Agreement()
    with ExitStack() as stack:
        graphs = installed(stack, checkpoint, load, 1, 1, slots=2, size=10)
        whole = whole_of(checkpoint, load, 2)
        expected = expected_outputs(load, whole, graphs.pairs_logits, graphs.steps_logits, 2, agreement)
        served = asyncio.run(Server(load, {1: graphs.steps[1]}, graphs.pairs, slots=2).run())
    assert tokenizer.decode(expected[0]).startswith("The capital of France is Paris")
    assert agreement.positions == 8 + 4
    assert agreement.largest_difference < 1e-3 < 10 < agreement.largest_logit
    for request in served.requests:
        assert max(regret(whole, request.prompt, request.output)) < 2e-3
