"""Streaming layers through buffers: which, in what turns, and that what computes finds its own weights there."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

from examples.llm import copies
from examples.llm.checkpoint import Checkpoint
from examples.llm.copies import Copied, Copies, CudaCopies, HostCopies, LayerWeights
from examples.llm.model import Batch, Weights
from examples.llm.offload import BUFFERS, OffloadedStage, Turns, layer_weights, nbytes, streamed_layers
from examples.llm.stage import Stage
from examples.llm.tiny import open_tiny

SHAPE = {"slots": 2, "max_len": 24, "threads": 1}
STEPS = [Batch((0, 1), (0, 0), (5, 3)), Batch((0, 1), (5, 3), (1, 1)), Batch((0, 1), (6, 4), (1, 1))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_tiny(tmp_path_factory.mktemp("cache")).folder


# -- which layers


@pytest.mark.parametrize("layers", range(2, 12))
def test_a_budget_is_used_to_the_full(layers: int) -> None:
    for budget in range(BUFFERS, layers):
        streamed = streamed_layers(layers, budget)
        assert layers - len(streamed) + BUFFERS == budget
        assert sorted({*streamed}) == streamed
        assert 0 <= streamed[0] <= streamed[-1] < layers


@pytest.mark.parametrize("budget", range(2, 12))
def test_layers_that_stay_are_spread_evenly(budget: int) -> None:
    streamed = streamed_layers(12, budget)
    gaps = [(after - before) % 12 for before, after in zip(streamed, [*streamed[1:], streamed[0]], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_nothing_is_streamed_if_all_fit() -> None:
    assert streamed_layers(4, 4) == streamed_layers(4, 9) == streamed_layers(1, 1) == streamed_layers(0, 0) == []


@pytest.mark.parametrize("budget", [0, 1])
def test_a_budget_without_two_buffers_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match=rf"a budget of {budget} layers; expected 2 or more"):
        streamed_layers(6, budget)


# -- the turns


class Recorded(Copies):
    """Copies nothing; says what it was asked to."""

    def __init__(self) -> None:
        self.holds: dict[int, int] = {}
        self.under_way: dict[int, int] = {}
        self.begun = 0

    def begin(self, source: int, buffer: int) -> None:
        assert buffer not in self.under_way, "a copy into a buffer while another one into it is under way"
        self.under_way[buffer] = source
        self.begun += 1

    def wait(self, buffer: int) -> None:
        self.holds[buffer] = self.under_way.pop(buffer)

    def copied(self) -> Copied:
        return Copied()


@pytest.mark.parametrize("layers", [3, 4, 5, 8])
def test_every_layer_finds_itself_in_its_buffer(layers: int) -> None:
    recorded = Recorded()
    turns = Turns(recorded, layers)
    for number in range(5 * layers):
        assert recorded.begun == BUFFERS + number, "the next layer is being copied while this one computes"
        assert recorded.holds[turns.enter(number % layers)] == number % layers
        turns.leave()


def test_a_step_that_stopped_half_way_does_not_mislead_the_next() -> None:
    recorded = Recorded()
    turns = Turns(recorded, 5)
    for step in ([0, 1], [0, 1, 2, 3, 4], [0], [0, 1, 2, 3, 4]):
        for layer in step:
            assert recorded.holds[turns.enter(layer)] == layer
            turns.leave()


# -- the copies


def weights(value: float) -> LayerWeights:
    return {"a": torch.full((3, 2), float(value)), "b": torch.full((4,), float(value))}


@pytest.mark.parametrize("overlap", [False, True])
def test_host_copies_fill_the_buffer_and_are_counted(overlap: bool) -> None:
    buffers = [weights(0), weights(0)]
    made = HostCopies([weights(1), weights(2), weights(3)], buffers, overlap=overlap)
    made.begin(2, 0)
    made.begin(1, 1)
    made.wait(0)
    made.wait(1)
    assert [buffer["a"].tolist() for buffer in buffers] == [[[3, 3]] * 3, [[2, 2]] * 3]
    assert [buffer["b"].tolist() for buffer in buffers] == [[3] * 4, [2] * 4]
    copied = made.copied()
    assert (copied.copies, copied.nbytes) == (2, 2 * nbytes(buffers[0]))
    assert copied.seconds > 0
    assert copied.exposed > 0


def test_overlapped_copies_are_made_by_another_thread_before_they_are_waited_for() -> None:
    made = HostCopies([weights(1)], [weights(0)], overlap=True)
    copied_by: list[int] = []
    done = threading.Event()
    copy = made._copy

    def spied(source: int, buffer: int) -> tuple[int, float]:
        copied_by.append(threading.get_ident())
        done.set()
        return copy(source, buffer)

    made._copy = spied  # type: ignore[method-assign]
    made.begin(0, 0)
    assert done.wait(timeout=30.0)
    assert copied_by != [threading.get_ident()]
    made.wait(0)


def test_a_copy_that_fails_says_so_where_it_is_waited_for() -> None:
    made = HostCopies([{"a": torch.zeros(2), "b": torch.zeros(3)}], [weights(0)], overlap=True)
    made.begin(0, 0)
    with pytest.raises(ValueError, match="could not broadcast"):
        made.wait(0)


def test_copied_is_added_and_subtracted_field_by_field() -> None:
    one, two = Copied(1, 10, 0.5, 0.25), Copied(3, 40, 1.5, 1.25)
    assert one + two == Copied(4, 50, 2.0, 1.5)
    assert two - one == Copied(2, 30, 1.0, 1.0)


class FakeEvent:
    """Of the order of two streams, as far as events make one: what must have happened before it."""

    def __init__(self) -> None:
        self.after: list[str] = []

    def record(self, stream: FakeStream) -> None:
        self.after = list(stream.done)

    def synchronize(self) -> None:
        assert self.after, "an event that was never recorded"

    def elapsed_time(self, other: FakeEvent) -> float:
        return float(len(other.after) - len(self.after))


class FakeStream:
    def __init__(self) -> None:
        self.done: list[str] = []

    def wait_event(self, event: FakeEvent) -> None:
        self.done += [what for what in event.after if what not in self.done]


class Streams:
    """What CudaCopies uses of torch.cuda, with streams that only remember what was called on them, and what before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computing, self.copying = FakeStream(), FakeStream()
        self.current = self.computing
        monkeypatch.setattr(copies, "_stream", lambda _: self.copying)
        monkeypatch.setattr(copies, "_event", lambda timed=False: FakeEvent())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.computing)
        monkeypatch.setattr(torch.cuda, "stream", self.using)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)

    def using(self, stream: FakeStream) -> AbstractContextManager[None]:
        self.current = stream
        return nullcontext()

    def target(self, name: str) -> LayerWeights:
        streams = self

        class Target:
            nbytes = 8

            def copy_(self, _source: object, non_blocking: bool) -> None:
                assert non_blocking
                streams.current.done.append(name)

        return {"a": Target()}  # type: ignore[dict-item]


@pytest.mark.parametrize("overlap", [False, True])
def test_events_order_a_copy_after_its_buffer_was_read_and_before_it_is_read_again(
    monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    streams = Streams(monkeypatch)
    source = {"a": torch.zeros(2)}
    made = CudaCopies([source], [streams.target("copy")], torch.device("cpu"), overlap=overlap)
    streams.computing.done.append("read before")
    made.begin(0, 0)
    on = streams.copying if overlap else streams.computing
    assert on.done == ["read before", "copy"]
    streams.computing.done.append("other layer")
    assert "copy" not in streams.computing.done or not overlap, "the computing does not wait before it has to"
    made.wait(0)
    assert "copy" in streams.computing.done
    assert made.copied().copies == 1
    assert made.copied().nbytes == 8


# -- a stage


def outputs(stage: Stage, hidden: int) -> list[torch.Tensor]:
    """Of three steps: two prompts, then two tokens each."""
    generator = torch.Generator().manual_seed(1)
    return [stage.forward(torch.randn(sum(batch.lengths), hidden, generator=generator), batch) for batch in STEPS]


def check_streamed(folder: Path, budget: int, overlap: bool, device: str) -> None:
    resident = OffloadedStage(folder, 1, 8, budget=6, overlap=False, device=device, **SHAPE)
    streamed = OffloadedStage(folder, 1, 8, budget=budget, overlap=overlap, device=device, **SHAPE)
    layer = resident.held_layers_bytes() // 6
    assert streamed.held_layers_bytes() == budget * layer
    assert streamed.held_bytes() - streamed.held_layers_bytes() == resident.held_bytes() - 6 * layer
    hidden = streamed.config.hidden_size
    streamed.take_steps()
    for one, other in zip(outputs(streamed, hidden), outputs(resident, hidden), strict=True):
        assert torch.equal(one, other)
    steps = streamed.take_steps()
    copied = 0 if budget == 6 else 6 - budget + BUFFERS
    assert [step.is_prefill for step in steps] == [True, False, False]
    assert [(step.copied.copies, step.copied.nbytes) for step in steps] == [(copied, copied * layer)] * 3
    assert streamed.take_steps() == []


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("budget", [2, 3, 4, 5, 6])
def test_a_streamed_stage_computes_the_same_bits_within_its_budget(folder: Path, budget: int, overlap: bool) -> None:
    check_streamed(folder, budget, overlap, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_does_so_too(folder: Path) -> None:
    for budget in (2, 3, 6):
        for overlap in (False, True):
            check_streamed(folder, budget, overlap, "cuda")


def test_on_the_cpu_they_are_those_of_a_plain_stage(folder: Path) -> None:
    plain, streamed = Stage(folder, 1, 8, **SHAPE), OffloadedStage(folder, 1, 8, budget=3, overlap=True, **SHAPE)
    hidden = plain.config.hidden_size
    for one, other in zip(outputs(streamed, hidden), outputs(plain, hidden), strict=True):
        assert torch.equal(one, other)


def test_weights_of_another_layer_would_show(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = HostCopies.begin
    monkeypatch.setattr(HostCopies, "begin", lambda self, source, buffer: right(self, max(source, 1), buffer))
    plain, wrong = Stage(folder, 1, 7, **SHAPE), OffloadedStage(folder, 1, 7, budget=2, overlap=True, **SHAPE)
    hidden = plain.config.hidden_size
    assert not torch.equal(outputs(wrong, hidden)[0], outputs(plain, hidden)[0])


def test_a_step_that_raises_leaves_a_stage_that_works(folder: Path) -> None:
    plain, streamed = Stage(folder, 1, 7, **SHAPE), OffloadedStage(folder, 1, 7, budget=3, overlap=True, **SHAPE)
    hidden = plain.config.hidden_size
    with pytest.raises(IndexError):
        streamed.forward(torch.zeros(1, hidden), Batch((2,), (0,), (1,)))  # there are two slots
    for one, other in zip(outputs(streamed, hidden), outputs(plain, hidden), strict=True):
        assert torch.equal(one, other)


def test_the_names_are_those_of_a_checkpoints_layer(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    all_layers = sum(nbytes(layer_weights(Weights(checkpoint.weights_path), index)) for index in range(6))
    file = checkpoint.weights_path.stat().st_size
    config = checkpoint.config
    others = 4 * (2 * config.vocab_size + 1) * config.hidden_size  # embedding, lm_head, final norm
    assert 0 < file - all_layers - others < 8192, "a header of JSON is all that is left"


def test_copy_speed_is_of_all_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    right = HostCopies.begin
    monkeypatch.setattr(
        HostCopies, "begin", lambda self, source, buffer: (made.append(source), right(self, source, buffer))[1]
    )
    assert copies.copy_speed([weights(1), weights(2), weights(3)]) > 0
    assert made == [0, 1, 2] * 2
