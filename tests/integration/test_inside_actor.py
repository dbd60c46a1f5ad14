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
