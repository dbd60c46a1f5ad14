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
from dagc.passes.transports import choose_groups
from dagc.placement import locate
from dagc.plan import Plan
from dagc.planner import make_plan
from dagc.timing.ranges import check_ranges
from dagc.workers import start_workers
from runtime import current

__all__ = ["compile", "plan"]


def compile(  # noqa: A001 - the public name; dagc.compile reads like re.compile and torch.compile
    dag: Any,
    *,
    name: str | None = None,
    **options: Any,
) -> CompiledGraph:
    """Compile a DAG: a node that a `bind` returned, or a MultiOutputNode of several.

    The DAG itself is not changed; compile it as often as you like. Returns once every actor waits for the first
    execution. Options (see CompileOptions): max_inflight, buffer_bytes, max_message_bytes, timeout, spin, order, trace.

    Raises GraphError for a DAG or an option that makes no sense, DeadlockError for a plan that cannot finish,
    ActorDiedError for an actor that is dead, ArenaFullError without memory for the channels.
    """
    chosen = CompileOptions.from_keywords({"name": name, **options})
    current.check_thread("compile")
    if chosen.trace == "nvtx":
        check_ranges()
    bound = build_graph(dag)
    engine = current.engine()
    with start_workers(bound, engine) as started:
        placement = locate(started, engine)
        graph = choose_groups(started, placement)
        made = make_plan(graph, placement, chosen)
        lowered = lower(made, graph)
        installation = install(made, lowered, graph.actors, bound.workers, engine, chosen)
        try:
            return CompiledGraph(graph, made, placement, lowered.driver, installation, engine, chosen)
        except BaseException:  # Ctrl-C: nobody would end the loops
            installation.break_("the graph could not be installed")
            installation.destroy(engine)
            raise


def plan(dag: Any, *, name: str | None = None, **options: Any) -> Plan:
    """The plan that `compile` would run, without running or starting anything but what was started already.

    With `dagc.init(engine="plan")` before the actors are made, nothing is started at all: so a plan for 512 GPUs can be
    looked at, and predicted (dagc.predict), on a laptop. Raises what `compile` raises before it installs.
    """
    chosen = CompileOptions.from_keywords({"name": name, **options})
    graph = build_graph(dag)
    placement = locate(graph, current.engine())
    return make_plan(choose_groups(graph, placement), placement, chosen)
