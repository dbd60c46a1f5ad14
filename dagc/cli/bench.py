"""`dagc bench`: how fast compiled graphs are on this machine, beside its limits, measured in turns in one run.

A limit is what the step cannot do without: a message through a ring, a copy of an array. The rings are dagc's own,
under bare loops (bare.py), so the ratio is what a graph adds: windows, refs, errors, timeouts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dagc.bind import InputNode, MultiOutputNode
from dagc.cli import bare
from dagc.cli.text import rate, times
from dagc.cli.timing import Sample, latency, merged, throughput
from dagc.compile import compile as compile_dag
from dagc.compiled import CompiledGraph
from dagc.report.machine import Machine
from dagc.session import get, shutdown
from dagc.tables import duration, table
from runtime import ActorHandle, init, remote

__all__ = ["LONGEST", "ROWS", "bench"]

#: Seconds that a run may measure: for more there is benchmarks/ in the repository.
LONGEST = 60.0
#: Turns that everything takes; a figure is the median of theirs.
ROUNDS = 3
ACTORS, STAGES, IN_FLIGHT, ARRAY_BYTES = 8, 4, 8, 2**24
#: A share of the cores: a load below it is the ordinary noise of a machine.
BUSY = 0.25

Measurement = Callable[[float], Sample]


@dataclass(frozen=True)
class Row:
    """A line of the table: a measurement of dagc, one of the machine, and what that is."""

    title: str
    dagc: str
    limit: str | None = None
    remark: str = ""
    is_rate: bool = False

    def ratio(self, found: Mapping[str, Sample]) -> float | None:
        """How many times as long dagc takes as its limit."""
        if self.limit is None:
            return None
        mine, its = found[self.dagc].p50, found[self.limit].p50
        return its / mine if self.is_rate else mine / its


_BARE = "bare loops around the same rings"
ROWS = (
    Row("echo of an int, one actor", "echo", "ring", _BARE),
    Row("  beside a pipe", "echo", "pipe", "multiprocessing.Pipe, send and recv"),
    Row(f"chain of {STAGES} actors", "chain", "ring chain", _BARE),
    Row(f"fan-out to {STAGES} actors", "fan-out", "ring fan-out", _BARE),
    Row(f"chain of {STAGES}, {IN_FLIGHT} in flight", "rate", "ring rate", _BARE, is_rate=True),
    Row(f"echo of {ARRAY_BYTES >> 20} MB", "array", "copy", "one copy of it"),
    Row(f"compile a chain of {ACTORS}", "compile"),
)


class Echo:
    """What the actors do: nothing that takes time."""

    def echo(self, value: Any) -> Any:
        return value


def bench(total: float, as_json: bool) -> int:
    """Measure for about `total` seconds, after a few for starting the processes, and print it. Returns 0."""
    machine, load = Machine.here(), os.getloadavg()[0]
    rounds: list[dict[str, Sample]] = []
    with _measurements() as measurements:
        each = total / (ROUNDS * len(measurements) * 1.2)  # a warm-up takes a fifth
        for number in range(ROUNDS):
            _progress(f"measuring, round {number + 1} of {ROUNDS} ...")
            rounds.append({name: measure(each) for name, measure in measurements.items()})
    _progress("")
    found = {name: merged([done[name] for done in rounds]) for name in measurements}
    if as_json:
        print(json.dumps(_as_json({**asdict(machine), "load": load}, total, rounds, found), indent=2))
        return 0
    print(f"{machine.cpu}, {machine.cores} cores, load {load:.2f}, Linux {machine.kernel}, Python {machine.python}\n")
    print(*table([["", "p50", "p99", "limit", "dagc/limit"], *(_cells(row, found) for row in ROWS)]), sep="\n")
    print("\nA p99 of a rate is what 99 % of its slices reach. A limit is its p50.")
    if load > BUSY * machine.cores:
        print(f"warning: load {load:.2f} before the run: something else was at work, and figures are too slow")
    return 0


@contextmanager
def _measurements() -> Iterator[dict[str, Measurement]]:
    """Everything that is measured, in the order of its turns: each limit right before what stands beside it."""
    with bare.helpers(STAGES) as helpers:
        init()
        try:
            make = remote(Echo).remote
            actors = [make() for _ in range(ACTORS)]
            _chain_of(actors).teardown()  # all of them have started
            yield {
                "pipe": lambda each: _pipe(helpers[0], each),
                "ring": lambda each: _ring_chain(helpers[:1], each),
                "echo": lambda each: _chain(actors[:1], each),
                "ring chain": lambda each: _ring_chain(helpers, each),
                "chain": lambda each: _chain(actors[:STAGES], each),
                "ring fan-out": lambda each: _ring_fan_out(helpers, each),
                "fan-out": lambda each: _fan_out(actors[:STAGES], each),
                "ring rate": lambda each: _ring_rate(helpers, each),
                "rate": lambda each: _rate(actors[:STAGES], each),
                "copy": _copy,
                "array": lambda each: _array(actors[0], each),
                "compile": lambda each: _compile(actors, each),
            }
        finally:
            shutdown()


# ---- dagc ----


def _chain_of(actors: list[ActorHandle]) -> CompiledGraph:
    with InputNode() as x:
        value: Any = x
        for actor in actors:
            value = actor.echo.bind(value)
    return compile_dag(value, max_inflight=IN_FLIGHT)


def _chain(actors: list[ActorHandle], each: float) -> Sample:
    with _chain_of(actors) as graph:
        return latency(lambda _: graph.execute(1).get(), each)


def _rate(actors: list[ActorHandle], each: float) -> Sample:
    with _chain_of(actors) as graph:
        return throughput(lambda: graph.execute(1), lambda ref: ref.get(), IN_FLIGHT, each)


def _fan_out(actors: list[ActorHandle], each: float) -> Sample:
    with InputNode() as x:
        dag = MultiOutputNode([actor.echo.bind(x) for actor in actors])
    with compile_dag(dag) as graph:
        return latency(lambda _: get(graph.execute(1)), each)


def _array(actor: ActorHandle, each: float) -> Sample:
    sent = np.ones(ARRAY_BYTES, np.uint8)
    with _chain_of([actor]) as graph:
        return latency(lambda _: graph.execute(sent).get(), each)


def _compile(actors: list[ActorHandle], each: float) -> Sample:
    """From a DAG on running actors to a graph that can be executed; tearing down the one before is not counted."""
    made: list[CompiledGraph] = []

    def tear_down() -> None:
        while made:
            made.pop().teardown()

    try:
        return latency(lambda _: made.append(_chain_of(actors)), each, prepare=tear_down, warm_up=1)
    finally:
        tear_down()


# ---- the machine ----


def _pipe(helper: bare.Helper, each: float) -> Sample:
    with bare.pipe_echo(helper) as pipe:

        def step(_: object) -> None:
            pipe.send(1)
            pipe.recv()

        return latency(step, each)


def _ring_chain(helpers: list[bare.Helper], each: float) -> Sample:
    with bare.chain(helpers) as (writer, reader):
        write, read, number = writer.write, reader.read, 0

        def step(_: object) -> None:
            nonlocal number
            number += 1
            write(1, number)
            read(number)

        return latency(step, each)


def _ring_fan_out(helpers: list[bare.Helper], each: float) -> Sample:
    with bare.fan_out(helpers) as (writer, readers):
        write, reads, number = writer.write, [reader.read for reader in readers], 0

        def step(_: object) -> None:
            nonlocal number
            number += 1
            write(1, number)
            for read in reads:
                read(number)

        return latency(step, each)


def _ring_rate(helpers: list[bare.Helper], each: float) -> Sample:
    with bare.chain(helpers) as (writer, reader):
        write, read, number = writer.write, reader.read, 0

        def submit() -> int:
            nonlocal number
            number += 1
            write(1, number)
            return number

        return throughput(submit, read, IN_FLIGHT, each)


def _copy(each: float) -> Sample:
    source, target = np.ones(ARRAY_BYTES, np.uint8), np.zeros(ARRAY_BYTES, np.uint8)
    return latency(lambda _: np.copyto(target, source), each)


# ---- printing ----


def _cells(row: Row, found: Mapping[str, Sample]) -> list[str]:
    show = rate if row.is_rate else duration
    mine, ratio = found[row.dagc], row.ratio(found)
    cells = [row.title, show(mine.p50), show(mine.p99)]
    if row.limit is None or ratio is None:
        return cells
    return [*cells, show(found[row.limit].p50), times(ratio), row.remark]


def _as_json(
    machine: Mapping[str, Any], total: float, rounds: list[dict[str, Sample]], found: Mapping[str, Sample]
) -> dict[str, Any]:
    """Everything, every round of it; times in seconds, rates in steps a second."""
    return {
        "machine": machine,
        "seconds": total,
        "measurements": {
            name: {**asdict(sample), "rounds": [asdict(done[name]) for done in rounds]}
            for name, sample in found.items()
        },
        "rows": [
            {"title": row.title.strip(), "dagc": row.dagc, "limit": row.limit, "dagc_by_limit": row.ratio(found)}
            for row in ROWS
        ],
    }


def _progress(line: str) -> None:
    """What is being done, for who watches a terminal; it is gone when the table comes."""
    if sys.stderr.isatty():
        print(f"\r{line:30}", end="\r" if not line else "", file=sys.stderr, flush=True)
