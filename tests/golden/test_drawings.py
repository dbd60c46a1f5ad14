"""Whole drawings. `UPDATE_GOLDEN=1 pytest tests/golden` writes them anew; look at the pictures, they are the review.

The plans are written down here, without ops, which a drawing does not show: these files change with the drawing, and
not with the passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.draw import visualize
from dagc.plan import Plan
from tests.fakes import actor, actors

HERE = Path(__file__).parent / "drawings"


def diamond() -> Any:
    top, left, right, bottom = actors(4)
    with InputNode() as x:
        first = top.forward.bind(x)
        return bottom.update.bind(left.forward.bind(first), right.forward.bind(first), scale=0.5)


DIAMOND = """\
plan diamond: 8 in flight, bind order

channels:
  input            driver   ->  Stage_0           shm    8 x 4096
  Stage_0.forward  Stage_0  ->  Stage_1, Stage_2  shm    8 x 4096
  Stage_1.forward  Stage_1  ->  Stage_3           local  8 x 4096
  Stage_2.forward  Stage_2  ->  Stage_3           shm    8 x 4096
  Stage_3.update   Stage_3  ->  driver            shm    8 x 4096
"""


def step() -> Any:
    """A training step: micro-batches, values in parts, a call that only comes after another, one that nobody reads."""
    a, b, log = actor("Stage"), actor("Stage"), actor("Log")
    with InputNode() as x:
        back = []
        for i in range(2):
            loss, activation = b.split.bind(a.forward.bind(x[i]))
            log.update.bind(loss, "loss")
            back.append(a.update.bind(b.update.bind(activation, loss)))
        return MultiOutputNode([b.forward.bind(back[0], scale=x.rate).after(back[1])])


STEP = """\
plan step: 8 in flight, free order

channels:
  input[0]             driver   ->  Stage_0         shm  8 x 4096
  input[1]             driver   ->  Stage_0         shm  8 x 4096
  input.rate           driver   ->  Stage_1         shm  8 x 4096
  Stage_0.forward      Stage_0  ->  Stage_1         shm  8 x 65536
  Stage_1.split[0]     Stage_1  ->  Log_0           shm  8 x 4096
  Stage_1.update       Stage_1  ->  Stage_0         shm  8 x 65536
  Stage_0.update       Stage_0  ->  Stage_1         shm  8 x 4096
  Stage_0.forward#1    Stage_0  ->  Stage_1         shm  8 x 65536
  Stage_1.split#1[0]   Stage_1  ->  Log_0           shm  8 x 4096
  Stage_1.update#1     Stage_1  ->  Stage_0         shm  8 x 65536
  Stage_0.update#1.done  Stage_0  ->  Stage_1       shm  8 x 64
  Log_0.update.done    Log_0    ->  driver          shm  8 x 64
  Log_0.update#1.done  Log_0    ->  driver          shm  8 x 64
  Stage_1.forward      Stage_1  ->  driver          shm  8 x 4096
"""


@pytest.mark.parametrize(
    ("file", "dag", "plan"),
    [
        ("diamond.svg", diamond, DIAMOND),
        ("diamond.dot", diamond, DIAMOND),
        ("step.svg", step, STEP),
        ("step.dot", step, STEP),
    ],
)
def test_the_drawing_is_as_it_was(file: str, dag: Callable[[], Any], plan: str, tmp_path: Path) -> None:
    visualize(build_graph(dag()), Plan.parse(plan), tmp_path / file)
    drawn, path = (tmp_path / file).read_text(encoding="utf-8"), HERE / file
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(drawn, encoding="utf-8")
    assert path.exists(), f"there is no {path.name}; write it with UPDATE_GOLDEN=1"
    assert drawn == path.read_text(encoding="utf-8")
