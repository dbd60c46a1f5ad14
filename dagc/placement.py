"""Placement: where every party of a graph is, asked once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagc.errors import GetTimeoutError
from dagc.graph import DRIVER, Graph

if TYPE_CHECKING:
    from runtime.engine import ActorInfo, Engine
    from runtime.ids import NodeId

__all__ = ["Place", "Placement", "locate"]

#: How long actors may take to start before a warning says which.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """Where one party is."""

    node: NodeId
    #: Parties with one pid on one node share their memory.
    pid: int
    gpus: tuple[int, ...] = ()
    #: How many methods of an actor may run at the same time.
    max_concurrency: int = 1


@dataclass(frozen=True)
class Placement:
    """Party -> place, for the driver and every actor of a graph."""

    places: Mapping[str, Place]

    def __getitem__(self, party: str) -> Place:
        return self.places[party]


def locate(graph: Graph, engine: Engine) -> Placement:
    """Ask the engine, in one batch; waits until every actor has started, and warns of those that take long.

    A worker that was not started will be in a process of its own, or in this one with an engine of threads. Raises the
    ActorDiedError of an actor that is dead, and EngineError or GraphError if the engine is not the one that started it.
    """
    here, pid = engine.here(), os.getpid()
    places = {DRIVER: Place(here, pid)}
    for name, info in zip(graph.actors, _describe(graph, engine), strict=True):
        if info.death is not None:
            raise info.death
        places[name] = Place(info.node, info.pid, info.gpus, info.max_concurrency)
    for number, name in enumerate(graph.workers, start=1):
        # No process has a negative pid.
        places.setdefault(name, Place(here, pid if engine.transport == "local" else -number))
    return Placement(places)


def _describe(graph: Graph, engine: Engine) -> list[ActorInfo]:
    """One question for all: a round trip an actor was most of what compiling a graph cost on Ray.

    The graph's timeout is not meant here: a constructor may load weights for minutes before the first op.
    """
    handles = list(graph.actors.values())
    while True:
        try:
            return engine.describe(handles, PATIENCE_SECONDS)
        except GetTimeoutError as late:
            warnings.warn(f"compile still waits for actors to start: {late}", RuntimeWarning, stacklevel=5)
