"""start_workers, end_workers: the actors that run a graph's functions, where these have none to run beside
(dagc/homes.py)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from dagc.graph import Graph
from runtime.calls import ActorHandle
from runtime.engine import Engine
from runtime.functions import FunctionWorker
from runtime.ids import ActorId

__all__ = ["end_workers", "start_workers"]

#: How long the end of workers that were killed is waited for.
END_SECONDS = 5.0


@contextmanager
def start_workers(graph: Graph, engine: Engine) -> Iterator[Graph]:
    """The graph with a handle for each of its workers. Ends them again if the block raises.

    Raises GraphError for a function that asks for resources that are not there.
    """
    started: dict[str, ActorHandle] = {}
    try:
        for name, function in graph.workers.items():
            started[name] = engine.create_actor(FunctionWorker, (), {}, function.worker_options)
        yield replace(graph, actors={**graph.actors, **started}) if started else graph
    except BaseException:
        end_workers(engine, list(started.values()))
        raise


def end_workers(engine: Engine, workers: Sequence[ActorHandle], *, wait: bool = True) -> None:
    """Kill them. Returns once they are gone, so that what they held is free for the next graph; or without `wait` at
    once."""
    if not workers:
        return
    left = {worker._actor_id for worker in workers}
    gone = threading.Event()

    def on_death(actor: ActorId, _death: object) -> None:
        left.discard(actor)
        if not left:
            gone.set()

    watch = engine.watch(workers, on_death) if wait else None
    for worker in workers:
        engine.kill(worker)
    if watch is not None:
        gone.wait(END_SECONDS)
        watch.cancel()
