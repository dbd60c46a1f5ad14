"""Unlike devices: what they are made of, and what is predicted of a cut over them."""

# ruff: noqa: E402 - torch is optional: it is asked for before what needs it

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the LLM example needs the extra: pip install -e '.[llm]'")

import dagc
from examples.heterogeneous import Cut, RemoteDevice, least_disturbed, pipeline, predicted, stage_seconds
from examples.llm.device import Device
from examples.llm.model import Batch
from examples.llm.stage import Stage
from examples.llm.tiny import open_tiny

SHAPE = {"slots": 1, "max_len": 8}
STEP = Batch((0,), (0,), (3,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_tiny(tmp_path_factory.mktemp("cache")).folder


@pytest.fixture
def planned() -> Iterator[None]:
    dagc.init(engine="plan")
    yield
    dagc.shutdown()


def test_a_device_holds_a_stage_of_each_cut(folder: Path) -> None:
    device = Device(1, 1.0)
    device.load("small", folder, range(2), SHAPE)
    device.load("large", folder, range(5), SHAPE)
    tokens = torch.tensor([5, 6, 7])
    for cut, pieces in (("small", range(2)), ("large", range(5))):
        expected = Stage(folder, pieces.start, pieces.stop, threads=1, **SHAPE).forward(tokens, STEP)
        assert torch.equal(device.forward(cut, tokens, STEP), expected)
    assert len(device.costs("large", 1, 1)) == 5
    device.drop("small")
    with pytest.raises(KeyError, match="small"):
        device.forward("small", tokens, STEP)


def test_a_slow_device_sleeps_for_the_rest_of_its_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    clock = iter(range(100))
    for slowdown, expected in ((1.0, []), (2.5, [1.5])):
        slept.clear()
        device = Device(1, slowdown)
        device.load("cut", folder, range(2), SHAPE)
        with monkeypatch.context() as ticking:
            ticking.setattr(Stage, "forward", lambda *_: torch.zeros(1))
            ticking.setattr(time, "perf_counter", lambda: next(clock))
            device.forward("cut", torch.tensor([5, 6, 7]), STEP)
        assert slept == expected


def test_its_costs_are_slowed_down_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(1, 3.0)
    device.load("cut", folder, range(2), SHAPE)
    monkeypatch.setattr(Stage, "step_costs", lambda *_, **__: [1.0, 2.0])
    assert device.costs("cut", 5, 1) == [3.0, 6.0]


def test_the_least_disturbed_probe_counts_piece_by_piece() -> None:
    assert least_disturbed([[1.0, 5.0], [2.0, 3.0], [9.0, 4.0]]) == [1.0, 3.0]


def test_a_stage_takes_its_costs_at_its_speed() -> None:
    assert stage_seconds([range(2), range(2, 3)], [1.0, 2.0, 5.0], [1.0, 0.5]) == [3.0, 10.0]


@pytest.mark.usefixtures("planned")
def test_the_slowest_stage_sets_the_predicted_pace() -> None:
    devices = [RemoteDevice.options(name=f"d{number}").remote(1, 1.0) for number in range(2)]
    plan = dagc.plan(pipeline(devices, "cut"), max_inflight=2)
    found = predicted(plan, [0.010, 0.040], [1.0, 4.0])
    assert found.throughput == pytest.approx(25.0, rel=0.02)
    assert found.idle["d0"] == pytest.approx(0.75, abs=0.02)
    assert found.idle["d1"] == pytest.approx(0.0, abs=0.02)


def test_the_typical_round_is_the_median_one() -> None:
    rounds = [dagc.Figures(1, 0.0, throughput, {}) for throughput in (3.0, 1.0, 2.0, 4.0)]
    cut = Cut([], rounds[0], rounds)
    assert cut.typical.throughput == 2.0
    assert Cut([], rounds[0], rounds[:3]).typical.throughput == 2.0
    assert Cut([], rounds[0], rounds[:1]).typical.throughput == 3.0
