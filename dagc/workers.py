"""start_workers: the actors that run a graph's functions, where these have none to run beside (dagc/homes.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from dagc.graph import Graph
from runtime.engine import Engine
from runtime.functions import FunctionWorker

__all__ = ["start_workers"]


@contextmanager
def start_workers(graph: Graph, engine: Engine) -> Iterator[Graph]:
    """The graph with a handle for each of its workers. Ends them again if the block raises.

    Raises GraphError for a function that asks for resources that are not there.
    """
    started = {}
    try:
        for name, function in graph.workers.items():
            started[name] = engine.create_actor(FunctionWorker, (), {}, function.actor_options)
        yield replace(graph, actors={**graph.actors, **started}) if started else graph
    except BaseException:
        for handle in started.values():
            engine.kill(handle)
        raise
