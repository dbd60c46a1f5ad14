"""`dagc explain`: the graph and the plan of a DAG, and what running it would take, without starting a process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagc.build import build_graph
from dagc.cli.failure import told
from dagc.cli.target import TargetError, bind_target
from dagc.cli.values import parse_costs
from dagc.compile import plan as plan_dag
from dagc.draw import visualize
from dagc.errors import EngineError
from dagc.explain import explain as explained
from dagc.prediction.predict import predict
from dagc.session import shutdown
from runtime import init

__all__ = ["explain"]


def explain(
    target: str, options: Mapping[str, Any], costs: str | None, cores: int | None, picture: Path | None
) -> None:
    """Print it. Raises TargetError, and the errors of compiling: GraphError, DeadlockError."""
    init(engine="plan")
    try:
        try:
            dag = bind_target(target)
        except EngineError as error:
            hint = "make actors, bind them and return the DAG, but not compile it, call dagc.init() or wait for a value"
            raise TargetError(f"{told(error)}\nIn a session that only plans {target} may {hint}.") from None
        plan = plan_dag(dag, **options)
        graph = build_graph(dag)
        print(explained(graph, plan), end="")
        if costs is not None:
            calls = [call for ops in plan.schedule.values() for op in ops for call in op.calls]
            try:
                seconds = parse_costs(costs, calls)
            except ValueError as error:
                raise TargetError(str(error)) from None
            print(f"\n{predict(plan, seconds, cores=cores)}")
        if picture is not None:
            visualize(graph, plan, picture)
            print(f"\nThe picture is in {picture}")
    finally:
        shutdown()
