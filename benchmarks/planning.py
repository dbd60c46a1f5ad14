"""How planning grows: `python -m benchmarks.planning [--calls N ...] [--order bind|free]`.

A pipeline of actors with ten calls each, bound in micro-batches, planned in a process of its own for each size: seconds
of every stage, microseconds a call, and the memory that planning took at its highest.
"""

from __future__ import annotations

import argparse
import gc
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import dagc
from dagc.build import build_graph
from dagc.options import CompileOptions
from dagc.passes.lower import lower
from dagc.placement import locate
from dagc.planner import make_plan
from runtime import current

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000)
CALLS_AN_ACTOR = 10


class Stage:
    def forward(self, x: Any) -> Any:
        return x


def pipeline(calls: int) -> Any:
    kind = dagc.remote(Stage)
    stages = [kind.remote() for _ in range(max(1, calls // CALLS_AN_ACTOR))]
    outputs = []
    with dagc.InputNode() as x:
        for micro_batch in range(CALLS_AN_ACTOR):
            node: Any = x[micro_batch]
            for stage in stages:
                node = stage.forward.bind(node)
            outputs.append(node)
    return dagc.MultiOutputNode(outputs)


def measure(calls: int, order: str) -> str:
    dagc.init(engine="plan")
    dag = pipeline(calls)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = CompileOptions(name="planning", order=order)
    graph, built = timed(lambda: build_graph(dag))
    plan, planned = timed(lambda: make_plan(graph, locate(graph, current.engine()), options))
    _, lowered = timed(lambda: lower(plan, graph))
    text, printed = timed(lambda: str(plan))
    _, parsed = timed(lambda: dagc.Plan.parse(text))
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    seconds = (built, planned, lowered)
    cells = [f"{second:.3f} s" for second in (*seconds, printed, parsed)]
    each = f"{sum(seconds) / calls * 1e6:.1f} us"
    return row(str(calls), str(len(graph.actors)), *cells, each, f"{memory:.0f} MiB")


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    made = make()
    return made, time.perf_counter() - start


def row(*cells: str) -> str:
    return "".join(cell.rjust(10) for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planning", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--calls", type=int, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--order", choices=("bind", "free"), default="bind")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.calls[0], options.order), flush=True)
        return
    print(row("calls", "actors", "build", "plan", "lower", "print", "parse", "a call", "memory"))
    for calls in options.calls:
        command = [
            sys.executable,
            "-m",
            "benchmarks.planning",
            "--one",
            "--calls",
            str(calls),
            "--order",
            options.order,
        ]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
