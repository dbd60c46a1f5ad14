"""Ray for a contestant: a session of its own in a folder of its own, and nothing of it left behind.

Run by a Python that has ray, which need not have dagc; so nothing of dagc is imported here.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from benchmarks.protocol import Answer, serve
from benchmarks.ray_folder import ray_folder
from benchmarks.ray_peer import SHARED_MEMORY, remove_semaphores

__all__ = ["RayActors", "serve_from_ray"]

CPUS = 8
#: It takes about 0.1 s, where it does not hang.
TEARDOWN_SECONDS = 2.0


class RayActors:
    """Actors for compiled graphs. Those of a graph that failed are killed: Ray hangs when they are used again."""

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        """`make(i)`: a new actor number i, which has a method `pid`."""
        self._make = make
        self._count = count
        self.handles: list[Any] = []
        self.renew()

    def renew(self) -> None:
        for actor in self.handles:
            ray.kill(actor)
        self.handles = [self._make(i) for i in range(self._count)]
        ray.get([actor.pid.remote() for actor in self.handles])

    @contextmanager
    def compiled(self, dag: Any, **options: Any) -> Iterator[Any]:
        """An actor of a compiled graph that waits spins at 100 % of a core: so a graph lives for one measurement."""
        try:
            graph = dag.experimental_compile(**options)
        except BaseException:
            self.renew()
            raise
        try:
            yield graph
        except BaseException:
            graph.teardown(kill_actors=True)
            self.renew()
            raise
        self._tear_down(graph)

    def _tear_down(self, graph: Any) -> None:
        """Of a graph that worked. Ray waits for its actors' loops without end, and with tensors of a megabyte one of
        the loops may never come back from a write; its actor has to die then, which ends the waiting, too."""
        ending = threading.Thread(target=graph.teardown, daemon=True)
        ending.start()
        ending.join(TEARDOWN_SECONDS)
        if ending.is_alive():
            self.renew()
            ending.join()


def serve_from_ray(benches: Callable[[], Mapping[str, Callable[..., Answer]]]) -> None:
    """Start Ray, make the benches, answer questions until there are no more, end Ray."""
    before = set(os.listdir(SHARED_MEMORY))
    folder = ray_folder(os.getpid())
    folder.mkdir()
    ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error", _temp_dir=str(folder))
    try:
        serve(benches(), ray=ray.__version__)
    finally:
        ray.shutdown()
        remove_semaphores(before)
        shutil.rmtree(folder, ignore_errors=True)
