"""A compiled graph that is driven from inside an actor, as a serving replica does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dagc
from dagc import InputNode, MultiOutputNode


class Stage:
    def double(self, x: Any) -> Any:
        return x * 2


class Replica:
    """Holds handles of the stages, compiles its own graph and serves from it."""

    def __init__(self, stages: list[Any]) -> None:
        with InputNode() as x:
            y = x
            for stage in stages:
                y = stage.double.bind(y)
            self.graph = dagc.compile(MultiOutputNode([y, stages[0].double.bind(x)]))

    def serve(self, value: Any) -> Any:
        return dagc.get(self.graph.execute(value))

    def fails(self) -> str:
        try:
            self.graph.execute(None)
            dagc.get(self.graph.execute(None))
        except TypeError as error:
            return str(error)
        return "nothing"

    def close(self) -> None:
        self.graph.teardown()


@pytest.fixture(scope="module", params=["threads", "embedded"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    dagc.init(engine=request.param)
    yield
    dagc.shutdown()


def test_a_replica_drives_its_own_graph() -> None:
    stages = [dagc.remote(Stage).remote() for _ in range(2)]
    replica = dagc.remote(Replica).remote(stages)
    assert dagc.get(replica.serve.remote(3), timeout=30) == [12, 6]
    large = dagc.get(replica.serve.remote(np.ones(100_000)), timeout=30)
    assert [array.sum() for array in large] == [400_000, 200_000]
    assert "NoneType" in dagc.get(replica.fails.remote(), timeout=30)
    assert dagc.get(replica.serve.remote(1), timeout=30) == [4, 2]
    dagc.get(replica.close.remote(), timeout=30)


class Selfish:
    """Drives a graph that it is in itself."""

    def __init__(self) -> None:
        self.graph: Any = None
        self.refs: list[Any] = []

    def double(self, x: Any) -> Any:
        return 2 * x

    def compile(self, itself: Any, other: Any) -> None:
        with InputNode() as x:
            self.graph = dagc.compile(other.double.bind(itself.double.bind(x)), name="own", max_inflight=2)

    def compile_two(self, itself: Any, other: Any) -> None:
        with InputNode() as x:
            self.graph = dagc.compile(MultiOutputNode([other.double.bind(x), itself.double.bind(x)]))

    def wait_first(self, value: Any) -> Any:
        return self.graph.execute(value)[0].get()

    def wait(self, value: Any) -> Any:
        return self.graph.execute(value).get()

    async def wait_async(self, value: Any) -> Any:
        return await self.graph.execute(value)

    def start(self, value: Any) -> None:
        self.refs.append(self.graph.execute(value))

    def fetch(self) -> Any:
        return self.refs.pop(0).get()

    def fill(self) -> None:
        for value in range(3):
            self.start(value)

    def close(self) -> None:
        self.graph.teardown()


def test_a_method_that_would_wait_for_itself_is_told() -> None:
    selfish, other = dagc.remote(Selfish).remote(), dagc.remote(Stage).remote()
    dagc.get(selfish.compile.remote(selfish, other), timeout=30)
    for method in (selfish.wait, selfish.wait_async):
        with pytest.raises(
            dagc.GraphError, match=r"a method of Selfish_0 waits .* still has to 'run Selfish_0\.double'"
        ):
            dagc.get(method.remote(1), timeout=30)
    # Both executions were begun, and go on now that the methods have ended.
    with pytest.raises(dagc.GraphError, match="would never end"):
        dagc.get(selfish.fill.remote(), timeout=30)
    dagc.get(selfish.close.remote(), timeout=30)


def test_a_result_that_waits_for_others_only_can_be_had() -> None:
    selfish, other = dagc.remote(Selfish).remote(), dagc.remote(Stage).remote()
    dagc.get(selfish.compile.remote(selfish, other), timeout=30)
    while True:
        try:
            dagc.get(selfish.start.remote(5), timeout=30)
            assert dagc.get(selfish.fetch.remote(), timeout=30) == 20
        except dagc.GraphError:  # the loop has not had its turn yet; once the window is full `start` says so
            continue
        break
    dagc.get(selfish.close.remote(), timeout=30)


def test_with_two_methods_at_a_time_it_does_not_wait_for_itself() -> None:
    selfish, other = dagc.remote(Selfish).options(max_concurrency=2).remote(), dagc.remote(Stage).remote()
    dagc.get(selfish.compile.remote(selfish, other), timeout=30)
    assert dagc.get(selfish.wait.remote(1), timeout=30) == 4
    dagc.get(selfish.close.remote(), timeout=30)


def test_a_result_that_the_actor_has_no_part_in_can_be_had() -> None:
    selfish, other = dagc.remote(Selfish).remote(), dagc.remote(Stage).remote()
    dagc.get(selfish.compile_two.remote(selfish, other), timeout=30)
    assert dagc.get(selfish.wait_first.remote(3), timeout=30) == 6
    dagc.get(selfish.close.remote(), timeout=30)
