"""What a constructor sets for torch holds in every thread that runs the actor's methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dagc

torch = pytest.importorskip("torch")


class Model:
    def __init__(self, mode: str) -> None:
        if mode == "no grad":
            torch.set_grad_enabled(False)
        if mode == "inference":
            self.mode = torch.inference_mode()  # held open, as a serving loop does
            self.mode.__enter__()

    def modes(self, _: int) -> tuple[bool, bool]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


@pytest.fixture(scope="module", params=["threads", "embedded"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    dagc.init(engine=request.param)
    yield request.param
    dagc.shutdown()


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    ("mode", "expected"), [("", (True, False)), ("no grad", (False, False)), ("inference", (False, True))]
)
def test_torch_settings_of_a_constructor(engine: str, mode: str, expected: Any, concurrency: int) -> None:
    actor = dagc.remote(max_concurrency=concurrency)(Model).remote(mode)
    assert dagc.get(actor.modes.remote(0), timeout=30) == expected
    with dagc.InputNode() as x:
        out = actor.modes.bind(x)
    with dagc.compile(out) as graph:
        assert graph.execute(0).get(timeout=30) == expected
    dagc.kill(actor)
    assert torch.is_grad_enabled()
