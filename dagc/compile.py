"""compile: from what was bound to a graph that runs. The pipeline, top to bottom.

bind -> Graph -> Placement -> Plan -> Programs -> Installation -> CompiledGraph
"""

from __future__ import annotations

from typing import Any

from dagc.build import build_graph
from dagc.compiled import CompiledGraph
from dagc.install import install
from dagc.options import CompileOptions
from dagc.passes.lower import lower
from dagc.placement import locate
from dagc.planner import make_plan
from runtime import current

__all__ = ["compile"]


def compile(  # noqa: A001 - the public name; dagc.compile reads like re.compile and torch.compile
    dag: Any,
    *,
    name: str | None = None,
    **options: Any,
) -> CompiledGraph:
    """Compile a DAG: a node that a `bind` returned, or a MultiOutputNode of several.

    The DAG itself is not changed; compile it as often as you like. Returns once every actor waits for the first
    execution. Options (see CompileOptions): max_inflight, buffer_bytes, max_message_bytes, timeout, spin.

    Raises GraphError for a DAG or an option that makes no sense, DeadlockError for a plan that cannot finish,
    ActorDiedError for an actor that is dead, ArenaFullError without memory for the channels.
    """
    chosen = CompileOptions.from_keywords({"name": name, **options})
    graph = build_graph(dag)
    engine = current.engine()
    placement = locate(graph, engine)
    plan = make_plan(graph, placement, chosen)
    lowered = lower(plan, graph)
    installation = install(plan, lowered, graph.actors, engine, chosen)
    return CompiledGraph(graph, plan, lowered.driver, installation, engine, chosen)
