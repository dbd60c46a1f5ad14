"""Compiled graphs under asyncio: no thread hop, many coroutines, loops that come and go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import dagc
from dagc import InputNode, MultiOutputNode


class Stage:
    def __init__(self) -> None:
        self._open, self._begun = threading.Event(), threading.Event()

    def add(self, x: int) -> int:
        if x < 0:
            raise ValueError(f"negative: {x}")
        return x + 1

    def gated(self, x: int) -> int:
        self._begun.set()
        assert self._open.wait(60)
        return x

    def until_gated(self) -> None:
        assert self._begun.wait(60)

    def open(self) -> None:
        self._open.set()


RemoteStage = dagc.remote(max_concurrency=2)(Stage)


@pytest.fixture(scope="module", params=["threads", "embedded"])
def stages(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    dagc.init(engine=request.param)
    yield [RemoteStage.remote() for _ in range(2)]
    dagc.shutdown()


@pytest.fixture
def graph(stages: list[Any]) -> Iterator[dagc.CompiledGraph]:
    with InputNode() as x:
        for stage in stages:
            x = stage.add.bind(x)
    with dagc.compile(x, max_inflight=4) as compiled:
        yield compiled


def test_executions_come_back_in_any_order(graph: dagc.CompiledGraph) -> None:
    async def main() -> list[int]:
        refs = [await graph.execute_async(i) for i in range(4)]
        last = await refs[3]
        assert await refs[3] == last
        return [await ref for ref in refs]

    for _ in range(2):  # each run has an event loop of its own
        assert asyncio.run(main()) == [2, 3, 4, 5]


def test_many_coroutines_share_the_window(graph: dagc.CompiledGraph) -> None:
    async def request(i: int) -> int:
        return await (await graph.execute_async(i))  # type: ignore[no-any-return]

    async def main() -> list[int]:
        return await asyncio.gather(*(request(i) for i in range(300)))

    assert asyncio.run(main()) == [i + 2 for i in range(300)]


def test_an_exception_is_raised_by_await(graph: dagc.CompiledGraph) -> None:
    async def main() -> int:
        bad = await graph.execute_async(-1)
        with pytest.raises(ValueError, match="negative: -1"):
            await bad
        return await (await graph.execute_async(1))  # type: ignore[no-any-return]

    assert asyncio.run(main()) == 3


def test_outputs_are_awaited_each_alone(stages: list[Any]) -> None:
    a, b = stages
    with InputNode() as x:
        dag = MultiOutputNode([a.add.bind(x), b.gated.bind(x)])

    async def main(graph: dagc.CompiledGraph) -> None:
        quick, slow = await graph.execute_async(1)
        assert await quick == 2
        waiting = asyncio.ensure_future(slow_get(slow))
        await asyncio.sleep(0)
        assert not waiting.done()
        b.open.remote()
        assert await waiting == 1

    async def slow_get(ref: Any) -> Any:
        return await ref

    with dagc.compile(dag) as graph:
        asyncio.run(main(graph))


def test_a_cancelled_await_loses_nothing(stages: list[Any]) -> None:
    fresh = RemoteStage.remote()
    with InputNode() as x:
        dag = fresh.gated.bind(x)

    async def main(graph: dagc.CompiledGraph) -> None:
        ref = await graph.execute_async(5)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_await(ref), 0.05)
        fresh.open.remote()
        assert await ref == 5

    with dagc.compile(dag) as graph:
        asyncio.run(main(graph))
    dagc.kill(fresh)


def test_the_graphs_timeout_holds_for_await(stages: list[Any]) -> None:
    fresh = RemoteStage.remote()
    with InputNode() as x:
        dag = fresh.gated.bind(x)

    async def main(graph: dagc.CompiledGraph) -> None:
        ref = await graph.execute_async(5)
        await asyncio.to_thread(dagc.get, fresh.until_gated.remote())
        with pytest.raises(dagc.GetTimeoutError, match=r"at work: Stage_0 in run Stage_0\.gated"):
            await ref
        fresh.open.remote()
        assert ref.get(timeout=20) == 5

    with dagc.compile(dag, timeout=0.05) as graph:
        asyncio.run(main(graph))
    dagc.kill(fresh)


def test_threads_and_coroutines_mix(graph: dagc.CompiledGraph) -> None:
    found: list[int] = []

    def in_thread() -> None:
        found.extend(graph.execute(i).get() for i in range(100))

    async def main() -> list[int]:
        return [await (await graph.execute_async(i)) for i in range(100)]

    thread = threading.Thread(target=in_thread)
    thread.start()
    assert asyncio.run(main()) == [i + 2 for i in range(100)]
    thread.join()
    assert found == [i + 2 for i in range(100)]


def test_event_loops_of_several_threads_share_a_graph(graph: dagc.CompiledGraph) -> None:
    async def serve(base: int) -> int:
        for i in range(base, base + 1_000):
            assert await (await graph.execute_async(i)) == i + 2
        return base

    with ThreadPoolExecutor(3) as pool:
        serving = [pool.submit(asyncio.run, serve(base)) for base in (0, 10_000, 20_000)]
        assert [served.result(60) for served in serving] == [0, 10_000, 20_000]


def test_a_death_wakes_a_sleeping_coroutine(stages: list[Any]) -> None:
    fresh = RemoteStage.remote()
    with InputNode() as x:
        dag = fresh.gated.bind(x)

    async def main(graph: dagc.CompiledGraph) -> None:
        ref = await graph.execute_async(5)
        waiting = asyncio.ensure_future(_await(ref))
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, dagc.kill, fresh)
        with pytest.raises(dagc.ActorDiedError, match="Stage_0"):
            await waiting

    with dagc.compile(dag) as graph:
        asyncio.run(main(graph))


async def _await(ref: Any) -> Any:
    return await ref
