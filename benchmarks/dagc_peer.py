"""The contestant "dagc": ordinary actors and compiled graphs, driven as a user drives them.

The actors live as long as the contestant; each measurement compiles its graph on them and tears it down.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np

import dagc
from benchmarks.protocol import Answer, serve
from benchmarks.timing import idle_percent, latency, latency_async, latency_of_prepared, let_fall_asleep, throughput

#: Enough for every benchmark; asked for once, so that no measurement shares the machine with a starting process.
ACTORS = 8


class Echo:
    def echo(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()


class Dagc:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        make = dagc.remote(Echo).remote  # as @dagc.remote does, whose type mypy does not see
        self._actors = [make() for _ in range(ACTORS)]
        self._pids: list[int] = dagc.get([actor.pid.remote() for actor in self._actors])

    def chain(self, actors: int, seconds: float) -> Answer:
        with self._compile(actors) as graph:
            return latency(lambda: graph.execute(1).get(), seconds)

    def asleep(self, seconds: float) -> Answer:
        with self._compile(1) as graph:
            return latency_of_prepared(let_fall_asleep, lambda _: graph.execute(1).get(), seconds)

    def rate(self, actors: int, depth: int, seconds: float) -> Answer:
        with self._compile(actors, max_inflight=max(8, depth)) as graph:
            return throughput(lambda: graph.execute(1), lambda ref: ref.get(), depth, seconds)

    def fanout(self, actors: int, seconds: float) -> Answer:
        with dagc.InputNode() as x:
            dag = dagc.MultiOutputNode([actor.echo.bind(x) for actor in self._actors[:actors]])
        with dagc.compile(dag) as graph:
            return latency(lambda: dagc.get(graph.execute(1)), seconds)

    def array(self, nbytes: int, seconds: float) -> Answer:
        value = np.ones(nbytes, np.uint8)
        with self._compile(1) as graph:
            return latency(lambda: graph.execute(value).get(), seconds)

    def arena(self, nbytes: int, seconds: float) -> Answer:
        """An array that was made in shared memory. Making and filling it is not counted, nor waking the actor then."""
        with self._compile(1) as graph:

            def prepare() -> Any:
                made = graph.empty(nbytes, np.uint8)
                made.fill(1)
                graph.execute(1).get()
                return made

            return latency_of_prepared(prepare, lambda made: graph.execute(made).get(), seconds)

    def aio(self, seconds: float) -> Answer:
        async def measure(graph: dagc.CompiledGraph) -> Answer:
            async def step() -> object:
                return await (await graph.execute_async(1))

            return await latency_async(step, seconds)

        with self._compile(1) as graph:
            return asyncio.run(measure(graph))

    def idle(self, seconds: float) -> Answer:
        """Processor time of an actor whose graph has just stopped being used, in percent of the time that passed."""
        with self._compile(1) as graph:
            for _ in range(100):
                graph.execute(1).get()
            return idle_percent(self._pids[0], seconds)

    def compile_(self, actors: int, seconds: float) -> Answer:
        """From a DAG on running actors to a graph that can be executed; without the teardown of the one before."""
        made: list[dagc.CompiledGraph] = []

        def tear_down_last() -> None:
            if made:
                made.pop().teardown()

        answer = latency_of_prepared(tear_down_last, lambda _: made.append(self._compile(actors)), seconds, 1)
        tear_down_last()
        return answer

    def call(self, seconds: float) -> Answer:
        """A call that is not compiled."""
        actor = self._actors[0]
        return latency(lambda: dagc.get(actor.echo.remote(1)), seconds)

    def _compile(self, actors: int, **options: Any) -> dagc.CompiledGraph:
        with dagc.InputNode() as x:
            for actor in self._actors[:actors]:
                x = actor.echo.bind(x)
        return dagc.compile(x, **options)


def main() -> None:
    dagc.init(num_cpus=ACTORS)
    try:
        peer = Dagc()
        benches = ("chain", "asleep", "rate", "fanout", "array", "arena", "aio", "idle", "compile_", "call")
        serve({name: getattr(peer, name) for name in benches})
    finally:
        dagc.shutdown()


if __name__ == "__main__":
    main()
