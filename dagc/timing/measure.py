"""measure_costs: a trace in, what everything in it costs out.

Medians over executions, without the first few, in which memory is touched for the first time. Two things cannot be
read off directly.

A recv that waited. Its own time begins with the end of the send; but if its reader slept, being woken is in it. Recvs
that found their message there tell what taking it costs; what the others took longer is the wake-up.

A run that was not on a core all the time. Its thread slept, in a `sleep` or for a GPU, or others had the core: machines
have fewer cores than graphs have parties. The first is a cost of the call; the second is what a replay makes up itself
from the number of cores, so it must not be in the costs. The least time off the core does not tell them apart: where
cores are always contended, no run is spared. But cores are shared fairly: while `wanting` threads want them, a thread
that needs `cpu` seconds waits for about cpu * (wanting / cores - 1). So one that used little and was away for long
slept. How many want a core is seen in the runs of all parties, each counted with the share of its span in which it
does. That depends on how long it slept: iterated, beginning with all of the time off the core.

What is left differs from run to run, since no scheduler is fair within milliseconds. Where more parties compute than
there are cores, a low percentile of it is taken: sleep is never shorter than it was asked for, and waiting often is.
(On 2 cores, 4 stages that compute for 2 ms and sleep for 4: the 10th percentile is 4.1 ms, the median 5.5.) Calls whose
sleep varies a lot seem shorter than they are then. With cores for all it is the median.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dagc.errors import GraphError
from dagc.graph import DRIVER
from dagc.plan import OpKind, Plan
from dagc.timing.costs import RECV, WAKE, Costs, RunCost
from dagc.timing.timeline import PartyTrace
from dagc.timing.waits import aligned, published, wait_ends

__all__ = ["measure_costs"]

Floats = NDArray[np.float64]

#: Executions that are dropped at the beginning, if there are four times as many.
_WARM_UP = 5
#: Rows that the demand for cores is computed from; the others add nothing but time.
_MOST_ROWS = 300
_LOW_PERCENTILE = 10
_ROUNDS = 30


def measure_costs(plan: Plan, parties: Mapping[str, PartyTrace], cores: int | None = None) -> Costs:
    """The costs of a trace; `cores`: of the machine where it was measured, by default of this one.

    Raises GraphError if there is no execution that all parties have.
    """
    traces = aligned(parties)
    count = len(traces[DRIVER].executions)
    if count == 0:
        raise GraphError(
            "no execution is in the traces of all parties; expected some: execute the graph while it is traced"
        )
    over = wait_ends(plan, traces)
    kept = slice(min(_WARM_UP, count // 4), None)
    sends: dict[str, float] = {}
    joins: dict[str, list[NDArray[np.int64]]] = {}
    for party, trace in traces.items():
        for i, op in enumerate(trace.ops):
            own = trace.ends[kept, i] - over[party][kept, i]
            if op.kind is OpKind.SEND:
                sends[op.target] = _median(own)
            elif op.kind is OpKind.JOIN:
                joins.setdefault(op.target, []).append(own)
    recvs, wake = _recvs(plan, traces, over, kept)
    runs = _runs(traces, kept, len(os.sched_getaffinity(0)) if cores is None else cores)
    # A collective is stamped without CPU time. That what it takes is not on a core is right for GPUs; for others it is
    # right on a machine like the one where it was measured.
    runs.update({group: RunCost(0.0, _median(np.concatenate(own))) for group, own in joins.items()})
    return Costs(runs, sends, recvs, wake, _between(traces[DRIVER], kept))


def _recvs(
    plan: Plan, traces: Mapping[str, PartyTrace], over: Mapping[str, NDArray[np.int64]], kept: slice
) -> tuple[dict[str, float], float]:
    """By channel what taking a message costs, and what a reader that slept takes longer."""
    found: dict[str, float] = {}
    waited: dict[str, float] = {}
    rendezvous: set[str] = set()
    columns = {
        (party, op.kind, op.target): i
        for party, trace in traces.items()
        for i, op in enumerate(trace.ops)
        if op.kind in (OpKind.SEND, OpKind.RECV)
    }
    for channel in plan.channels:
        send = columns.get((channel.writer, OpKind.SEND, channel.name))
        if send is None:
            found[channel.name] = 0.0
            continue
        there = published(traces[channel.writer], [send])[kept, 0]
        at_once, later = [], []
        for reader in channel.readers:
            trace, i = traces[reader], columns[reader, OpKind.RECV, channel.name]
            own = trace.ends[kept, i] - over[reader][kept, i]
            was_there = there <= trace.begins[kept, i]
            at_once.append(own[was_there])
            later.append(own[~was_there])
        if channel.slots == 0:
            # Both ends are there before anything happens; nobody is woken for it.
            found[channel.name] = _median(np.concatenate(at_once + later))
            rendezvous.add(channel.name)
            continue
        if any(map(len, at_once)):
            found[channel.name] = _median(np.concatenate(at_once))
        if any(map(len, later)):
            waited[channel.name] = _median(np.concatenate(later))
    both = [waited[name] - found[name] for name in waited if name in found]
    usual = [found[name] for name in found if name not in rendezvous]
    if both:
        wake = max(0.0, float(np.median(both)))
    else:
        # No channel has both kinds: what taking costs elsewhere, or usually, tells the parts of a wait apart.
        taking = float(np.median(usual)) if usual else RECV
        wake = max(0.0, float(np.median(list(waited.values()))) - taking) if waited else WAKE
    for name, seconds in waited.items():
        found.setdefault(name, max(0.0, seconds - wake))
    return found, wake


def _runs(traces: Mapping[str, PartyTrace], kept: slice, cores: int) -> dict[str, RunCost]:
    names, begins, ends, cpus = [], [], [], []
    running: set[str] = set()
    for party, trace in traces.items():
        for i, op in enumerate(trace.ops):
            if op.kind is OpKind.RUN:
                running.add(party)
                names.append(op.target)
                begins.append(trace.begins[kept, i][-_MOST_ROWS:])
                ends.append(trace.ends[kept, i][-_MOST_ROWS:])
                cpus.append(trace.cpu[kept, i][-_MOST_ROWS:])
    if not names:
        return {}
    begin, end = np.array(begins, np.float64), np.array(ends, np.float64)
    span = end - begin
    # The two clocks are read one after the other.
    cpu = np.minimum(np.array(cpus, np.float64), span)
    contended = len(running) > cores
    off = _off(begin, end, cpu, cores) if contended else span - cpu
    off = np.percentile(off, _LOW_PERCENTILE if contended else 50, axis=1)
    return {name: RunCost(float(np.median(cpu[i])) * 1e-9, float(off[i]) * 1e-9) for i, name in enumerate(names)}


def _off(begin: Floats, end: Floats, cpu: Floats, cores: int) -> Floats:
    """What each run, (calls, rows), was off its core by itself, and not because others had it."""
    span = end - begin
    away = span - cpu
    off = away
    times = np.concatenate([begin.ravel(), end.ravel()])
    order = np.argsort(times, kind="stable")
    times = times[order]
    steps = np.diff(times, prepend=times[0])
    for _ in range(_ROUNDS):
        # Of a call, not of one run of it: a single run that waited would seem to want the core all the time.
        wants = np.sum(span - off, axis=1) / np.maximum(np.sum(span, axis=1), 1.0)
        wanting = np.broadcast_to(wants[:, np.newaxis], span.shape).ravel()
        level = np.cumsum(np.concatenate([wanting, -wanting])[order])
        area = np.cumsum(np.concatenate([[0.0], level[:-1]]) * steps)
        during = np.interp(end, times, area) - np.interp(begin, times, area)
        others = during / np.maximum(span, 1.0) - wants[:, np.newaxis]
        waited = cpu * np.maximum(0.0, (1.0 + others) / cores - 1.0)
        off = np.maximum(0.0, away - waited)
    return off


def _between(driver: PartyTrace, kept: slice) -> float:
    """The gaps before the ops of an execution, in which the driver did something else. Threads may overlap."""
    if len(driver.executions) < 2:
        return 0.0
    begins, ends = driver.begins.ravel(), driver.ends.ravel()
    order = np.argsort(begins, kind="stable")
    reached = np.maximum.accumulate(ends[order])
    gaps = np.zeros(len(begins), np.int64)
    gaps[order[1:]] = np.maximum(0, begins[order[1:]] - reached[:-1])
    return _median(gaps.reshape(driver.begins.shape).sum(axis=1)[kept])


def _median(nanoseconds: NDArray[np.int64]) -> float:
    return float(np.median(nanoseconds)) * 1e-9
