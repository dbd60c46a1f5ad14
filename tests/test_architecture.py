"""ARCHITECTURE.md prints one graph at every stage; these are the prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dagc.bind import InputNode
from dagc.build import build_graph
from dagc.emit import emit
from dagc.options import CompileOptions
from dagc.passes.lower import lower
from dagc.planner import make_plan
from runtime.calls import ActorHandle, methods_of
from runtime.ids import ActorId
from tests.fakes import placed

PAGE = Path(__file__).parent.parent / "ARCHITECTURE.md"


class Shard:
    def forward(self, x: Any) -> None: ...


class Sum:
    def add(self, parts: Any, *, scale: float) -> None: ...


def stages() -> dict[str, str]:
    shards = [ActorHandle(ActorId(f"s{i}"), "Shard", methods_of(Shard)) for i in range(2)]
    gather = ActorHandle(ActorId("g"), "Sum", methods_of(Sum))
    with InputNode() as x:
        parts = [shard.forward.bind(x) for shard in shards]
        y = gather.add.bind(parts, scale=0.5)
    graph = build_graph(y)
    plan = make_plan(graph, placed(graph), CompileOptions(name="tp"))
    programs = lower(plan, graph).programs
    return {
        "graph": str(graph),
        "plan": str(plan),
        "program": str(programs["Sum_0"]),
        "loop": emit(programs["Shard_0"]).source,
    }


@pytest.mark.parametrize("stage", ["graph", "plan", "program", "loop"])
def test_the_page_prints_what_the_stage_prints(stage: str) -> None:
    language = "python" if stage == "loop" else "text"
    assert f"```{language}\n{stages()[stage].rstrip()}\n```" in PAGE.read_text()


def test_every_file_that_the_page_names_exists() -> None:
    root = PAGE.parent
    words = {word.strip("`(),;:") for word in PAGE.read_text().split()}
    paths = {
        word for word in words if "/" in word and word.endswith((".py", ".h", ".pml", ".md")) and "://" not in word
    }
    places = (root, root / "channels", root / "dagc")
    missing = [path for path in sorted(paths) if not any((place / path).exists() for place in places)]
    assert not [path for path in missing if not path.endswith("ring.pml")], missing
