"""The LLM example against transformers: other model code, other loading code, the same greedy tokens."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")
transformers = pytest.importorskip("transformers", reason="the reference model is transformers'")

from dagc.prediction.partition import partition
from examples.llm import tiny
from examples.llm.checkpoint import Checkpoint, default_cache
from examples.llm.config import LlamaConfig
from examples.llm.gguf_import import find_smollm2, open_gguf
from examples.llm.model import Batch, Weights
from examples.llm.sequences import Submit, Workload, generate
from examples.llm.stage import Stage
from examples.llm.tokenizer import ChatTokenizer
from tests.llm_models import needs_model

ROOT = Path(__file__).resolve().parents[2]
Tensors = dict[str, Any]

TEXTS = [
    "Hello, world!",
    "  leading spaces\n\n\tand a tab",
    "In 1969, 3.14 and 1234567 = x2",
    "émigré, 日本語, 🙂 and \u200d",
    "don't I'll we've",
    "def f(x):\n    return x  # ok",
    "<|im_start|>user\nhi<|im_end|>\n",
    "",
]


def transformers_model(config: LlamaConfig, tensors: Tensors) -> Any:
    """LlamaForCausalLM with these tensors, by their Hugging Face names."""
    numbers = dataclasses.asdict(config)
    del numbers["eos_token_ids"]
    reference = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**numbers, attn_implementation="eager", bos_token_id=None, eos_token_id=None)
    )
    if config.tie_word_embeddings:
        tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    reference.load_state_dict(tensors, strict=True, assign=True)
    return reference.eval()


def transformers_tensors(checkpoint: Checkpoint) -> Tensors:
    """A checkpoint's tensors under their Hugging Face names, with the fused ones taken apart."""
    config, weights = checkpoint.config, Weights(checkpoint.weights_path)
    tensors = {f"model.{name}.weight": weights[f"{name}.weight"] for name in ("embed_tokens", "norm")}
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = weights["lm_head.weight"]
    for index in range(config.num_hidden_layers):
        layer = f"layers.{index}"
        qkv = weights[f"{layer}.self_attn.qkv_proj.weight"].split([config.q_size, config.kv_size, config.kv_size])
        gate, up = weights[f"{layer}.mlp.gate_up_proj.weight"].chunk(2)
        tensors |= {f"model.{layer}.self_attn.{name}_proj.weight": part for name, part in zip("qkv", qkv, strict=True)}
        tensors |= {f"model.{layer}.mlp.gate_proj.weight": gate, f"model.{layer}.mlp.up_proj.weight": up}
        for name in ("input_layernorm", "self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj"):
            tensors[f"model.{layer}.{name}.weight"] = weights[f"{layer}.{name}.weight"]
    return tensors


@torch.inference_mode()
def greedy(reference: Any, workload: Workload) -> list[list[int]]:
    """Each prompt alone, one token at a time, without our batching, caches or cuts."""
    torch.set_num_threads(1)
    outputs: list[list[int]] = []
    for prompt in workload.prompts:
        output: list[int] = []
        cache, ids = None, prompt
        while len(output) < workload.max_new_tokens and not (output and output[-1] in workload.eos_token_ids):
            step = reference(torch.tensor([ids]), past_key_values=cache, use_cache=True)
            cache, ids = step.past_key_values, [int(step.logits[0, -1].argmax())]
            output += ids
        outputs.append(output)
    return outputs


def stages_of(checkpoint: Checkpoint, workload: Workload, cut: Sequence[range]) -> list[Stage]:
    make = partial(Stage, checkpoint.folder, slots=len(workload.prompts), max_len=workload.max_len, threads=1)
    return [make(owned.start, owned.stop) for owned in cut]


def in_process(stages: Sequence[Stage]) -> Submit:
    """The pipeline's arithmetic without actors: each stage called in turn."""

    def step(x: Any, batch: Batch) -> Any:
        for stage in stages:
            x = stage.forward(x, batch)
        return x

    def submit(tokens: Any, batch: Batch) -> Callable[[], Any]:
        return partial(step, tokens, batch)

    return submit


def even_cut(checkpoint: Checkpoint, stages: int) -> list[range]:
    return partition([1.0] * checkpoint.config.num_pieces, stages)


# -- a tiny random model: always


@pytest.fixture(scope="module", params=["untied head", "tied head"])
def tiny_checkpoint(cache: Path, request: pytest.FixtureRequest) -> Checkpoint:
    return tiny.open_tiny(cache, dataclasses.replace(tiny.CONFIG, tie_word_embeddings=request.param == "tied head"))


def tiny_workload(checkpoint: Checkpoint, max_new_tokens: int = 16) -> Workload:
    tokenizer = ChatTokenizer(checkpoint)
    prompts = [tokenizer.encode_chat(text) for text in ("hello", "a somewhat longer prompt", "x", "yes?", "no.")]
    return Workload(prompts, max_new_tokens, checkpoint.config.eos_token_ids)


@pytest.fixture(scope="module")
def tiny_tokens(tiny_checkpoint: Checkpoint) -> list[list[int]]:
    reference = transformers_model(tiny_checkpoint.config, transformers_tensors(tiny_checkpoint))
    tokens = greedy(reference, tiny_workload(tiny_checkpoint))
    assert len({token for output in tokens for token in output}) > 8, "the check needs outputs that vary"
    return tokens


@pytest.mark.parametrize(("stages", "groups"), [(1, 1), (2, 2), (3, 5), (8, 3)])
def test_tiny_model_agrees_with_transformers(
    tiny_checkpoint: Checkpoint, tiny_tokens: list[list[int]], stages: int, groups: int
) -> None:
    workload = tiny_workload(tiny_checkpoint)
    cut = stages_of(tiny_checkpoint, workload, even_cut(tiny_checkpoint, stages))
    assert generate(workload.deal(groups), in_process(cut)).outputs == tiny_tokens


def test_a_slot_is_overwritten_by_its_next_sequence(tiny_checkpoint: Checkpoint, tiny_tokens: list[list[int]]) -> None:
    workload = tiny_workload(tiny_checkpoint)
    cut = in_process(stages_of(tiny_checkpoint, workload, even_cut(tiny_checkpoint, 2)))
    for _ in range(2):
        assert generate(workload.deal(2), cut).outputs == tiny_tokens


def test_a_prompt_prefilled_in_chunks_gives_the_same_token(tiny_checkpoint: Checkpoint) -> None:
    workload = tiny_workload(tiny_checkpoint)
    prompt = torch.tensor(workload.prompts[1])
    (model,) = stages_of(tiny_checkpoint, workload, even_cut(tiny_checkpoint, 1))
    at_once = model.forward(prompt, Batch(slots=(0,), starts=(0,), lengths=(len(prompt),)))
    for start, end in ((0, 7), (7, 8), (8, len(prompt))):
        in_chunks = model.forward(prompt[start:end], Batch(slots=(1,), starts=(start,), lengths=(end - start,)))
    assert at_once.tolist() == in_chunks.tolist()


def test_a_finished_request_leaves_its_batch(tiny_checkpoint: Checkpoint, tiny_tokens: list[list[int]]) -> None:
    workload = tiny_workload(tiny_checkpoint)
    stop = tiny_tokens[0][3]  # a token that the first answer has, so that answers end at different steps
    expected = [output[: output.index(stop) + 1] if stop in output else output for output in tiny_tokens]
    assert len(set(map(len, expected))) > 1
    cut = in_process(stages_of(tiny_checkpoint, workload, even_cut(tiny_checkpoint, 2)))
    stopping = dataclasses.replace(workload, eos_token_ids=(stop,))
    assert generate(stopping.deal(2), cut).outputs == expected


# -- the demo itself, with actors


def run(command: Sequence[str], cwd: Path | None) -> "subprocess.CompletedProcess[str]":
    # Where threads spin while they wait for one that has no core, a busy machine makes minutes of a second.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=170, check=False)


def run_demo(*arguments: str, as_module: bool = True) -> "subprocess.CompletedProcess[str]":
    if as_module:
        return run([sys.executable, "-m", "examples.pipeline_llm", *arguments], cwd=ROOT)
    return run([sys.executable, str(ROOT / "examples" / "pipeline_llm.py"), *arguments], cwd=None)


@pytest.mark.parametrize("as_module", [True, False], ids=["module", "script"])
def test_demo_answers_with_the_tiny_model(tmp_path: Path, as_module: bool) -> None:
    plan = tmp_path / "plans" / "tiny.plan"
    done = run_demo(
        *("--offline-tiny", "--cache", str(tmp_path), "--plan", str(plan), "--stages", "3", "--max-new-tokens", "6"),
        as_module=as_module,
    )
    assert done.returncode == 0, done.stderr
    assert "compiled, dynamic, unsplit: the same 24 tokens" in done.stdout
    assert f"plan: {plan}" in done.stdout
    assert "stage2" in plan.read_text()


OFF_BY_ONE = """
from examples import pipeline_llm

def unsplit(model):
    return lambda tokens, batch: lambda: model.forward(tokens, batch) - 1

pipeline_llm.unsplit = unsplit
raise SystemExit(pipeline_llm.main())
"""


def test_demo_fails_if_the_pipeline_differs_from_the_unsplit_model(tmp_path: Path) -> None:
    arguments = ["--offline-tiny", "--cache", str(tmp_path), "--max-new-tokens", "3"]
    done = run([sys.executable, "-c", OFF_BY_ONE, *arguments], cwd=ROOT)
    assert done.returncode == 1
    assert "pipeline_llm: error: prompt 0 differs at token 0\n  compiled: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cache", "/dev/null/models"], "--cache /dev/null/models: [Errno 20] Not a directory"),
        (["--stages", "9"], "--stages 9: this model has 8 pieces to share out"),
        (["--max-new-tokens", "0"], "must be at least 1, found 0"),
        (["--max-new-tokens", "2000"], "the model's context has 1024"),
        (["--stages", "two"], "must be a whole number, found 'two'"),
        (["--prompts", "/nonexistent"], "No such file"),
    ],
)
def test_demo_refuses(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run_demo("--offline-tiny", "--cache", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# -- SmolLM2-135M


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    return open_gguf(find_smollm2(), default_cache())


@pytest.fixture(scope="module")
def gguf_of_transformers(smollm2: Checkpoint) -> Tensors:
    """The tensors as transformers' own GGUF reader loads, dequantizes and permutes them, by Hugging Face name."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    numbers = dataclasses.asdict(smollm2.config)
    del numbers["eos_token_ids"]
    with torch.device("meta"):
        names = transformers.LlamaForCausalLM(transformers.LlamaConfig(**numbers))
    loaded: dict[str, Tensors] = load_gguf_checkpoint(str(find_smollm2()), return_tensors=True, model_to_load=names)
    return loaded["tensors"]


@needs_model
@pytest.mark.model
@pytest.mark.slow
def test_conversion_equals_transformers_own_gguf_loading(smollm2: Checkpoint, gguf_of_transformers: Tensors) -> None:
    ours = transformers_tensors(smollm2)
    assert ours.keys() == gguf_of_transformers.keys()
    different = [name for name, tensor in ours.items() if not torch.equal(tensor, gguf_of_transformers[name])]
    assert different == []


@needs_model
@pytest.mark.model
@pytest.mark.slow
def test_smollm2_in_two_stages_agrees_with_transformers(smollm2: Checkpoint, gguf_of_transformers: Tensors) -> None:
    tokenizer = ChatTokenizer(smollm2)
    prompts = ["What is the capital of France?", "Explain why the sky is blue.", "Count from 1 to 20."]
    workload = Workload([tokenizer.encode_chat(prompt) for prompt in prompts], 16, smollm2.config.eos_token_ids)

    expected = greedy(transformers_model(smollm2.config, gguf_of_transformers), workload)
    assert tokenizer.decode(expected[0]).startswith("The capital of France is Paris")
    cut = stages_of(smollm2, workload, [range(19), range(19, smollm2.config.num_pieces)])
    assert generate(workload.deal(2), in_process(cut)).outputs == expected


@needs_model
@pytest.mark.model
@pytest.mark.slow
def test_tokenizer_equals_transformers(smollm2: Checkpoint) -> None:
    gguf = find_smollm2()
    theirs = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ours = ChatTokenizer(smollm2)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False), text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text

    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    assert ours.render("What is 2 + 2?") == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
