"""The contestant "ray": Ray's compiled graphs, and for `call` its actor call, driven as its documentation says.

Run by a Python that has ray, which need not have dagc; so nothing of dagc is imported here.

An actor of a compiled graph that waits spins at 100 % of a core. So each measurement tears its graph down before it
answers; actors of a graph that failed, or was asynchronous (Ray hangs when its actors are used again), are killed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray reads these when it is imported.
os.environ.update(RAY_DEDUP_LOGS="0", RAY_USAGE_STATS_ENABLED="0")
os.environ.pop("RAY_ADDRESS", None)

import numpy as np
import ray
from ray.dag import InputNode, MultiOutputNode

from benchmarks.protocol import Answer, serve
from benchmarks.timing import idle_percent, latency, latency_async, latency_of_prepared, let_fall_asleep, throughput

ACTORS = 8
SHARED_MEMORY = Path("/dev/shm")
#: The named semaphores of a process of Ray's; Ray leaves them behind.
SEMAPHORE = re.compile(r"sem\.(?:hdr|obj)(\d+)-")


class Echo:
    def echo(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()


class Ray:
    """What is measured, one method a benchmark."""

    def __init__(self) -> None:
        self._make: Callable[[], Any] = ray.remote(num_cpus=0)(Echo).remote
        self._actors: list[Any] = []
        self._pids: list[int] = []
        self._renew()

    def chain(self, actors: int, seconds: float) -> Answer:
        with self._compiled(actors) as graph:
            return latency(lambda: ray.get(graph.execute(1)), seconds)

    def asleep(self, seconds: float) -> Answer:
        with self._compiled(1) as graph:
            return latency_of_prepared(let_fall_asleep, lambda _: ray.get(graph.execute(1)), seconds)

    def rate(self, actors: int, depth: int, seconds: float) -> Answer:
        with self._compiled(actors, _max_inflight_executions=max(10, depth)) as graph:
            return throughput(lambda: graph.execute(1), ray.get, depth, seconds)

    def fanout(self, actors: int, seconds: float) -> Answer:
        with InputNode() as x:
            dag = MultiOutputNode([actor.echo.bind(x) for actor in self._actors[:actors]])
        with self._ending(dag.experimental_compile()) as graph:
            return latency(lambda: ray.get(graph.execute(1)), seconds)

    def array(self, nbytes: int, seconds: float) -> Answer:
        value = np.ones(nbytes, np.uint8)
        with self._compiled(1, _buffer_size_bytes=nbytes + 100_000) as graph:
            return latency(lambda: ray.get(graph.execute(value)), seconds)

    def aio(self, seconds: float) -> Answer:
        async def measure() -> Answer:
            graph = self._chain(1, enable_asyncio=True)  # inside the event loop, or it hangs

            async def step() -> object:
                return await (await graph.execute_async(1))

            try:
                return await latency_async(step, seconds)
            finally:
                graph.teardown(kill_actors=True)

        try:
            return asyncio.run(measure())
        finally:
            self._renew()

    def idle(self, seconds: float) -> Answer:
        with self._compiled(1) as graph:
            for _ in range(100):
                ray.get(graph.execute(1))
            return idle_percent(self._pids[0], seconds)

    def compile_(self, actors: int, seconds: float) -> Answer:
        made: list[Any] = []

        def tear_down_last() -> None:
            if made:
                made.pop().teardown()

        answer = latency_of_prepared(tear_down_last, lambda _: made.append(self._chain(actors)), seconds, 1)
        tear_down_last()
        return answer

    def call(self, seconds: float) -> Answer:
        actor = self._actors[0]
        return latency(lambda: ray.get(actor.echo.remote(1)), seconds)

    def _chain(self, actors: int, **options: Any) -> Any:
        with InputNode() as x:
            for actor in self._actors[:actors]:
                x = actor.echo.bind(x)
        return x.experimental_compile(**options)

    @contextmanager
    def _compiled(self, actors: int, **options: Any) -> Iterator[Any]:
        with self._ending(self._chain(actors, **options)) as graph:
            yield graph

    @contextmanager
    def _ending(self, graph: Any) -> Iterator[Any]:
        try:
            yield graph
        except BaseException:
            graph.teardown(kill_actors=True)
            self._renew()
            raise
        graph.teardown()

    def _renew(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = [self._make() for _ in range(ACTORS)]
        self._pids = ray.get([actor.pid.remote() for actor in self._actors])


def remove_semaphores(before: set[str]) -> None:
    """Those of processes that are gone, made since `before`."""
    for name in set(os.listdir(SHARED_MEMORY)) - before:
        match = SEMAPHORE.match(name)
        if match and _has_ended(match[1]):
            (SHARED_MEMORY / name).unlink(missing_ok=True)


def _has_ended(pid: str) -> bool:
    """Also true of a process that its parent, which may be this one, has not waited for yet."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def main() -> None:
    before = set(os.listdir(SHARED_MEMORY))
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's sockets lie in it
    ray.init(num_cpus=ACTORS, include_dashboard=False, log_to_driver=False, logging_level="error", _temp_dir=folder)
    try:
        peer = Ray()
        benches = ("chain", "asleep", "rate", "fanout", "array", "aio", "idle", "compile_", "call")
        serve({name: getattr(peer, name) for name in benches}, ray=ray.__version__)
    finally:
        ray.shutdown()
        remove_semaphores(before)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
