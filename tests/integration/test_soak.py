"""Many graphs and many executions leave memory, descriptors, threads and processes where they were."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import dagc
from channels import shm
from dagc import InputNode, MultiOutputNode

CYCLES = 1_000
EXECUTIONS = 1_000_000
#: Of resident memory, per process, over the whole run: what allocators and caches may move by.
DRIFT_BYTES = 24 << 20
#: gRPC's pool of threads grows and shrinks with what the machine does, within its own limits.
GRPC_THREADS = ("event_engine", "lifeguard", "grpc_")


class Stage:
    def forward(self, x: Any) -> Any:
        return x

    def belongings(self) -> dict[str, int]:
        return belongings()


RemoteStage = dagc.remote(Stage)


@pytest.fixture(scope="module")
def stages() -> Iterator[list[Any]]:
    dagc.init()
    yield [RemoteStage.remote() for _ in range(2)]
    dagc.shutdown()


def belongings() -> dict[str, int]:
    gc.collect()
    shm.trim()
    process = psutil.Process()
    return {
        "rss": process.memory_info().rss,
        "fds": process.num_fds(),
        "threads": sum(not name.startswith(GRPC_THREADS) for name in thread_names()),
        "children": len(process.children()),
        "live blocks": shm.memory()["live_blocks"],
    }


def thread_names() -> list[str]:
    """Of all threads of this process, Python's or not, as the kernel knows them."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            names.append(path.read_text().strip())
    return names


@dataclass(frozen=True)
class Everybody:
    driver: dict[str, int]
    actors: list[dict[str, int]]

    @classmethod
    def now(cls, stages: list[Any]) -> Everybody:
        return cls(belongings(), dagc.get([stage.belongings.remote() for stage in stages]))

    def has_no_more_than(self, before: Everybody) -> bool:
        def within(now: dict[str, int], then: dict[str, int]) -> bool:
            drift = now["rss"] - then["rss"]
            return drift < DRIFT_BYTES and all(now[k] <= then[k] for k in ("fds", "threads", "children", "live blocks"))

        return all(map(within, [self.driver, *self.actors], [before.driver, *before.actors]))


def assert_nothing_is_left(stages: list[Any], before: Everybody) -> None:
    """A thread that has ended stands in the kernel's list a moment longer: it is looked for more than once."""
    for _ in range(20):
        now = Everybody.now(stages)
        if now.has_no_more_than(before):
            return
    raise AssertionError(f"before: {before}, now: {now}")


def dag_of(stages: list[Any]) -> Any:
    a, b = stages
    with InputNode() as x:
        y = a.forward.bind(x)
        return MultiOutputNode([b.forward.bind(y), y])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_graphs_leave_nothing(stages: list[Any]) -> None:
    def cycle(count: int) -> None:
        for i in range(count):
            with dagc.compile(dag_of(stages)) as graph:
                assert dagc.get(graph.execute(i)) == [i, i]
                if i % 10 == 0:
                    big = np.full(30_000, i)
                    assert all(np.array_equal(found, big) for found in dagc.get(graph.execute(big)))

    cycle(50)
    before = Everybody.now(stages)
    cycle(CYCLES)
    assert_nothing_is_left(stages, before)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_executions_of_mixed_sizes_leave_nothing(stages: list[Any]) -> None:
    rng = np.random.default_rng(7)
    values: list[Any] = [*range(2_000), "text", b"bytes" * 100, {"k": [1, 2.5, None]}]
    values += [np.full(int(size), i) for i, size in enumerate(rng.integers(1, 2_000, 20))]
    values += [np.full(int(size), i) for i, size in enumerate(rng.integers(2_000, 200_000, 3))]

    def same(found: Any, value: Any) -> bool:
        if isinstance(value, np.ndarray):
            return bool(found[0] == value[0]) and found.shape == value.shape
        return bool(found == value)

    def run(graph: dagc.CompiledGraph, count: int) -> None:
        order = [int(i) for i in rng.integers(0, len(values), 10_000)]
        for _ in range(count // len(order)):
            for found, index in zip(graph.map(values[i] for i in order), order, strict=True):
                assert same(found[0], values[index])
                assert same(found[1], values[index])

    with dagc.compile(dag_of(stages)) as graph:
        run(graph, 20_000)
    before = Everybody.now(stages)
    with dagc.compile(dag_of(stages)) as graph:
        run(graph, EXECUTIONS)
        assert graph.statistics().finished == EXECUTIONS
    assert_nothing_is_left(stages, before)
