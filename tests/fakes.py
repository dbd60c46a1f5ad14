"""Actors that do not exist: handles for tests of the compiler, which asks nothing of an engine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagc.build import build_graph
from dagc.graph import DRIVER, Graph
from dagc.options import CompileOptions
from dagc.placement import Place, Placement
from dagc.planner import make_plan
from runtime.calls import ActorHandle, method, methods_of
from runtime.ids import ActorId, NodeId

if TYPE_CHECKING:
    from dagc.plan import Plan

_numbers = itertools.count()


class Stage:
    """Methods for every test; they are bound and never called."""

    def forward(self, x: Any, *, scale: Any = 1) -> None: ...

    def update(self, *args: Any, **kwargs: Any) -> None: ...

    @method(num_returns=2)
    def split(self, x: Any) -> None: ...


def actor(label: str = "Stage") -> ActorHandle:
    return ActorHandle(ActorId(f"id{next(_numbers)}"), label, methods_of(Stage))


def actors(count: int) -> list[ActorHandle]:
    return [actor() for _ in range(count)]


def placed(graph: Graph, pids: Mapping[str, int] | None = None, nodes: Mapping[str, str] | None = None) -> Placement:
    """Every party in a process of its own on one node, but where `pids` and `nodes` say otherwise."""
    parties = (DRIVER, *graph.makers)
    return Placement(
        {p: Place(NodeId((nodes or {}).get(p, "n0")), (pids or {}).get(p, 100 + i)) for i, p in enumerate(parties)}
    )


def plan_of(output: Any, pids: Mapping[str, int] | None = None, **options: Any) -> Plan:
    graph = build_graph(output)
    return make_plan(graph, placed(graph, pids), CompileOptions(**{"name": "test", **options}))


def ops_of(plan: Plan) -> dict[str, list[str]]:
    return {party: [str(op) for op in ops] for party, ops in plan.schedule.items()}
