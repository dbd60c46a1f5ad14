"""Load, latency figures, KV blocks and the cost of admissions: parts of the LLM server that need no process."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

from examples.llm.disaggregation import groups_of
from examples.llm.kv_blocks import kv_bytes, read_block, write_block
from examples.llm.latency import EVEN, FIGURES, medians, percentile, verdict
from examples.llm.load import CHAT, DOCUMENT, Mix, arrivals, requests
from examples.llm.model import KVCache
from examples.llm.replica import Admitted
from examples.llm.router import Served
from examples.llm.serving import Run, StepTime
from examples.llm.tiny import CONFIG, open_tiny
from examples.llm.tokenizer import ChatTokenizer
from examples.llm.transfer import interference

MIX = Mix(chats=3, chat_tokens=9, documents=4, document_tokens=300, summary_tokens=5, gap_s=2.0, seed=7)


# -- the load


def test_the_load_follows_from_its_seed(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(open_tiny(tmp_path))
    load = arrivals(MIX, tokenizer)
    assert load == arrivals(MIX, tokenizer)
    assert load != arrivals(dataclasses.replace(MIX, seed=8), tokenizer)
    assert [arrival.kind for arrival in load] == [CHAT] * 3 + [DOCUMENT] * 4
    assert [arrival.at_s for arrival in load[:3]] == [0.0] * 3
    gaps = [after.at_s - before.at_s for before, after in pairwise(load[2:])]
    assert all(1.0 <= gap <= 3.0 for gap in gaps)
    for arrival in load[3:]:
        assert len(arrival.prompt) <= 300
        assert arrival.max_len == len(arrival.prompt) + 5
        assert tuple(tokenizer.encode_chat(arrival.text)) == arrival.prompt
    assert max(len(arrival.prompt) for arrival in load) > 200


def test_a_document_too_short_for_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a document of 1[0-5] tokens; expected at least 1[0-9][0-9], for the instruc"
    ):
        arrivals(dataclasses.replace(MIX, document_tokens=15), ChatTokenizer(open_tiny(tmp_path)))


def test_requests_arrive_at_the_time_of_the_run(tmp_path: Path) -> None:
    load = arrivals(MIX, ChatTokenizer(open_tiny(tmp_path)))
    fresh = requests(load, started_s=100.0)
    assert [one.arrived_s - 100.0 for one in fresh] == pytest.approx([arrival.at_s for arrival in load])
    assert [one.number for one in fresh] == list(range(7))
    assert not any(one.finished for one in fresh)


# -- figures


def served(arrived: float, started: float, *times: float, kind: str = CHAT) -> Served:
    tokens = [0] * len(times)
    return Served(0, [1], 9, (), output=tokens, times=list(times), kind=kind, arrived_s=arrived, started_s=started)


def test_percentiles_are_nearest_ranks() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (0, 20, 21, 50, 99, 100)] == [1.0, 1.0, 2.0, 3.0, 5.0, 5.0]
    with pytest.raises(ValueError, match="of no values; expected at least one"):
        percentile([], 50)


def test_figures_of_a_run() -> None:
    run = [served(1.0, 1.5, 2.0, 2.1, 2.4), served(2.0, 2.0, 5.0, kind=DOCUMENT)]
    found = medians([run])
    assert found == {
        "TTFT p50 ms": pytest.approx(1000),
        "TTFT p99 ms": pytest.approx(3000),
        "document TTFT p50 ms": pytest.approx(3000),
        "TPOT p50 ms": pytest.approx(200),
        "ITL p50 ms": pytest.approx(100),
        "ITL p99 ms": pytest.approx(300),
        "tokens/s": pytest.approx(4 / 4),
        "queueing p50 ms": pytest.approx(0),
        "queueing p99 ms": pytest.approx(500),
    }
    assert list(found) == [figure.name for figure in FIGURES]


def test_the_verdict_says_who_is_best_and_how_sure_that_is() -> None:
    def run(ttft: float, itl: float) -> list[Served]:
        return [served(0.0, 0.0, ttft, ttft + itl, ttft + 2 * itl, kind=DOCUMENT)]

    first, second = [run(4.0, 1.0), run(4.0, 1.0), run(4.0, 5.0)], [run(2.0, 3.0), run(2.0, 2.0), run(2.0, 2.0)]
    told = verdict({"first": first, "second": second})
    mostly, always, even = told
    assert mostly == (
        "first is best by the median, not in every round: TPOT p50 (2.00 times less than second), "
        "ITL p50 (2.00 times less than second) and ITL p99 (2.00 times less than second)"
    )
    assert always == (
        "second is best in every round: TTFT p50 (2.00 times less than first), TTFT p99 (2.00 times less than first) "
        "and document TTFT p50 (2.00 times less than first)"
    )
    assert even == f"the two best are within {EVEN:.0%}: tokens/s"
    assert verdict({"first": first}) == []


def test_a_way_may_be_best_in_nothing() -> None:
    quick, slow = [served(0.0, 0.0, 1.0, 2.0)], [served(0.0, 0.0, 3.0, 6.0)]
    best, nothing = verdict({"quick": [quick], "slow": [slow]})
    assert best.startswith("quick is best in every round: ")
    assert "tokens/s (3.00 times more than slow)" in best
    assert nothing == "slow is best in no figure"


# -- KV blocks


def filled(slots: int, max_len: int) -> list[KVCache]:
    caches = [KVCache(CONFIG, slots, max_len) for _ in range(CONFIG.num_hidden_layers)]
    for cache in caches:
        cache.keys.normal_()
        cache.values.normal_()
    return caches


def test_a_block_brings_its_tokens_into_the_other_slot_and_touches_nothing_else() -> None:
    source, target = filled(2, 12), filled(3, 10)
    before = [(cache.keys.clone(), cache.values.clone()) for cache in target]
    block = read_block(source[2:5], 2, 1, 7, computed_s=4.5)
    assert (block.first, block.tokens, block.computed_s) == (2, 7, 4.5)
    assert block.kv.nbytes == kv_bytes(CONFIG, 7) * 3 // CONFIG.num_hidden_layers
    write_block(target[2:5], 2, block)
    for number, (cache, (keys, values)) in enumerate(zip(target, before, strict=True)):
        if number in (2, 3, 4):
            keys[2, :, :7], values[2, :, :7] = source[number].keys[1, :, :7], source[number].values[1, :, :7]
        assert torch.equal(cache.keys, keys)
        assert torch.equal(cache.values, values)


def test_a_block_does_not_change_with_the_cache_that_it_was_read_from() -> None:
    caches = filled(1, 4)
    block = read_block(caches, 0, 0, 4, 0.0)
    kept = block.kv.clone()
    caches[0].keys.zero_()
    assert torch.equal(block.kv, kept)


@pytest.mark.parametrize(
    ("slot", "max_len", "layers", "message"),
    [
        (3, 9, 2, r"slot 3; expected one of the 3 slots of this cache, 0 to 2"),
        (-1, 9, 2, r"slot -1; expected"),
        (0, 8, 2, r"a block of shape \(2, 2, 2, 9, 16\); expected \[2, 2, 2, at most 8, 16\]"),
        (0, 9, 1, r"a block of shape \(2, 2, 2, 9, 16\); expected \[1, 2, 2, at most 9, 16\]"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(slot: int, max_len: int, layers: int, message: str) -> None:
    block = read_block(filled(1, 9)[:2], 0, 0, 9, 0.0)
    with pytest.raises(ValueError, match=message):
        write_block(filled(3, max_len)[:layers], slot, block)


def test_groups_cover_all_layers() -> None:
    assert groups_of(30, 30) == [range(30)]
    assert groups_of(7, 3) == [range(3), range(3, 6), range(6, 7)]


# -- what admissions do to steps


def test_steps_are_told_apart_by_what_was_on_its_way_to_their_actor() -> None:
    request = served(0.0, 10.0, 30.0)
    admitted = Admitted(6, 100, copies=((12.0, 13.0), (19.0, 19.5)), computed_s=18.0)
    steps = [(1, 8.0, 9.0), (1, 10.0, 11.0), (1, 11.0, 13.0), (1, 14.0, 18.0), (1, 18.0, 21.0), (2, 12.0, 19.0)]
    run = Run([request], 0.0, steps=[StepTime(*step, sequences=1, prompt_tokens=0) for step in steps])
    run.admitted[0] = 1, admitted
    found = interference([run])
    assert found.exposed_s == 1.5
    assert found.copying_s == 1.5
    assert (found.alone.steps, found.between.steps, found.during.steps) == (2, 2, 2)
    assert (found.alone.median_s, found.between.median_s, found.during.median_s) == (4.0, 2.5, 2.5)
    with pytest.raises(ValueError, match="nothing was admitted"):
        interference([Run([request], 0.0)])
