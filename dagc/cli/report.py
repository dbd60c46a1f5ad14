"""`dagc report`: run a DAG for real, traced, and write what it did as a page."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channels import RemoteTraceback
from dagc.cli.failure import told
from dagc.cli.target import TargetError, bind_target
from dagc.cli.values import Inputs
from dagc.compile import compile as compile_dag
from dagc.compiled import CompiledGraph
from dagc.errors import WrongArgumentsError
from dagc.session import get, shutdown

__all__ = ["report"]


def report(target: str, options: Mapping[str, Any], inputs: Inputs, executions: int, page: Path) -> None:
    """Run it and write the page. Raises TargetError, the errors of compiling, and what an execution raises."""
    try:
        dag = bind_target(target)
        with compile_dag(dag, **{"trace": True, **options}) as graph:
            try:
                _run(graph, inputs, executions)
            except WrongArgumentsError as error:
                raise TargetError(f"{told(error)}\nSay it with --input or --input-from.") from None
            except Exception as error:
                if not isinstance(error.__cause__, RemoteTraceback):
                    raise
                raise TargetError(f"an execution raised {told(error)}") from None
            graph.report(page)
            print(f"measured: {graph.trace().figures()}\n")
            print(f"predicted, from what each op has cost: {graph.predict()}\n")
            print(f"The report is in {page}")
    finally:
        shutdown()


def _run(graph: CompiledGraph, inputs: Inputs, executions: int) -> None:
    """So many executions, with as many of them under way as the graph allows, and never more than that unread."""
    args, kwargs = inputs
    under_way: deque[Any] = deque()
    for _ in range(executions):
        if len(under_way) >= graph.plan.max_inflight:
            get(under_way.popleft())
        under_way.append(graph.execute(*args, **kwargs))
    while under_way:
        get(under_way.popleft())
