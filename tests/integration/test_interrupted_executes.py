"""A signal handler at every point of an `execute`: what it ends has ended, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import dagc
from dagc import CompiledGraph, InputNode, MultiOutputNode
from tests.interrupts import at_every_point, in_time, interrupted, interrupted_by

HANG = 30


class Stage:
    def forward(self, x: Any) -> Any:
        return x


RemoteStage = dagc.remote(Stage)


@pytest.fixture
def compiled(threads: None) -> Callable[[], CompiledGraph]:
    stages = [RemoteStage.remote() for _ in range(2)]
    with InputNode() as x:
        dag = MultiOutputNode([stage.forward.bind(x) for stage in stages])
    return lambda: dagc.compile(dag, timeout=HANG)


def test_a_handler_tears_down(compiled: Callable[[], CompiledGraph]) -> None:
    def check(point: int) -> bool:
        graph = compiled()
        refs = graph.execute(1)

        def execute() -> None:
            try:
                refs.extend(graph.execute(2))
            except dagc.GraphClosedError:
                return

        came = interrupted_by(graph.teardown, execute, point)
        in_time(graph.teardown)
        for ref, said in zip(refs, (1, 1, 2, 2), strict=False):
            try:
                assert in_time(ref.get) == said
            except dagc.GraphClosedError:
                assert came
        return came

    at_every_point(check)


def test_a_handler_executes(compiled: Callable[[], CompiledGraph]) -> None:
    """In the middle of another it is refused; else both are what they are alone."""
    with compiled() as graph:

        def check(point: int) -> bool:
            theirs: list[Any] = []

            def handle() -> None:
                try:
                    theirs.extend(graph.execute("theirs"))
                except dagc.GraphError:
                    return

            ours: list[Any] = []
            came = interrupted_by(handle, lambda: ours.extend(graph.execute("ours")), point)
            assert dagc.get(ours, HANG) == ["ours"] * 2
            assert dagc.get(theirs, HANG) in (["theirs"] * 2, [])
            return came

        at_every_point(check)


def test_ctrl_c_leaves_the_graph_as_it_was(compiled: Callable[[], CompiledGraph]) -> None:
    with compiled() as graph:

        def check(point: int) -> bool:
            before = graph.execute("before")
            came = interrupted(lambda: graph.execute("lost"), point)
            assert in_time(lambda: dagc.get(before, HANG)) == ["before"] * 2
            assert in_time(lambda: dagc.get(graph.execute("after"), HANG)) == ["after"] * 2
            return came

        at_every_point(check)
