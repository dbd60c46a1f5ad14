"""Placement: where every party of a graph is, asked once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagc.graph import DRIVER, Graph

if TYPE_CHECKING:
    from runtime.engine import Engine
    from runtime.ids import NodeId

__all__ = ["Place", "Placement", "locate"]


@dataclass(frozen=True)
class Place:
    """Where one party is."""

    node: NodeId
    #: Parties with one pid on one node share their memory.
    pid: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Party -> place, for the driver and every actor of a graph."""

    places: Mapping[str, Place]

    def __getitem__(self, party: str) -> Place:
        return self.places[party]


def locate(graph: Graph, engine: Engine) -> Placement:
    """Ask the engine, in one batch; waits until every actor has started.

    Raises the ActorDiedError of an actor that is dead, and EngineError or GraphError if the engine is not the one that
    started it.
    """
    places = {DRIVER: Place(engine.here(), os.getpid())}
    # One question for all: a round trip an actor was most of what compiling a graph cost on Ray.
    for name, info in zip(graph.actors, engine.describe(list(graph.actors.values())), strict=True):
        if info.death is not None:
            raise info.death
        places[name] = Place(info.node, info.pid, info.gpus)
    return Placement(places)
