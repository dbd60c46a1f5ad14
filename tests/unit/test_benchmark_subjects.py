"""What the contestants of the benchmarks compute is compared, and a wrong result is told."""

import pytest

torch = pytest.importorskip("torch", reason="these benchmarks are about torch's tensors: pip install torch")

from benchmarks.table import Table, bytes_of, figure, first_errors, rate, ratio, seconds  # noqa: E402
from benchmarks.tensor_peers.layers import HIDDEN, LAYERS, Shard, activations, check  # noqa: E402


def test_the_ranks_of_a_layer_add_up_to_the_unsplit_one() -> None:
    ranks = [Shard(rank, 2) for rank in range(2)]
    x = activations(3)
    assert x.shape == (3, HIDDEN)
    for layer in range(LAYERS):
        x = ranks[0].add(*[rank.part(layer, x) for rank in ranks])
    assert x.std() > 0.1, "activations that vanish would be close to anything"
    check(x, 3)
    with pytest.raises(AssertionError, match="not close"):
        check(x + 1e-2, 3)


def test_logits_are_compared_with_those_of_the_unsplit_model() -> None:
    stage = pytest.importorskip("benchmarks.pipeline_peers.stage", reason="the model needs the extra llm")
    expected = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0002]])
    found = [expected[:1] + 1e-5, expected[1:]]
    assert stage.difference(found, expected) == pytest.approx(1e-5, rel=0.1)
    assert stage.difference(found[:1], expected) > 0, "fewer prompts are compared with the first ones"
    with pytest.raises(AssertionError, match="not close"):
        stage.difference([expected[:1] + 0.1], expected)
    with pytest.raises(AssertionError, match="next tokens"):
        stage.difference([expected[:1], torch.tensor([[0.0, 1.0002, 1.0]])], expected)


def test_a_job_is_the_same_after_a_way_through_json() -> None:
    stage = pytest.importorskip("benchmarks.pipeline_peers.stage", reason="the model needs the extra llm")
    given = {"checkpoint": "/c", "cut": [[0, 2], [2, 5]], "reference": "/r"}
    assert stage.Job.of(given) == stage.Job("/c", ((0, 2), (2, 5)), "/r")


def test_figures_are_medians_of_the_rounds_that_have_an_answer() -> None:
    rounds = [{"p50_us": 3.0}, {"p50_us": 1.0}, {"p50_us": 2.0}, {"error": "TimeoutError: x"}]
    assert figure(rounds, "p50_us") == 2.0
    assert figure(rounds[3:], "p50_us") is None
    assert first_errors([("a", rounds), ("b", rounds[:3]), ("c", [])]) == ["a: TimeoutError: x"]


def test_cells() -> None:
    assert [seconds(s) for s in (None, 2e-6, 2e-3, 2.0)] == ["-", "2.0 us", "2.00 ms", "2.00 s"]
    assert [rate(r) for r in (None, 12.34, 1234.5)] == ["-", "12.3 /s", "1,234 /s"]
    assert [ratio(*pair) for pair in ((1.0, None), (3.0, 2.0), (300.0, 2.0))] == ["-", "1.50 x", "150 x"]
    assert [bytes_of(size) for size in (4, 4096, 16 << 20)] == ["4 B", "4 KB", "16 MB"]
    assert Table(("a", 3), ("b", 4)).line("x", "y") == "x      y"
