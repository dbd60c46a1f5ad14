"""Chrome trace JSON, which https://ui.perfetto.dev and chrome://tracing open.

One process a party, in the order of the plan; one complete event ("X") an op; an arrow (a flow, "s" to "f") from each
send to its recvs. Written line by line: the text of thousands of executions is more than should be held at once.

After the Trace Event Format (Google, 2016). What the viewers want beyond it: events of one thread must nest, so
ops of a party that overlap (a driver may have several threads) are dealt to several rows; and an arrow must begin and
end inside its two events, and not end before it begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dagc.files import replaced
from dagc.plan import OpKind, Plan
from dagc.timing.timeline import PartyTrace
from dagc.timing.waits import columns_of

__all__ = ["write_chrome"]


def write_chrome(plan: Plan, parties: Mapping[str, PartyTrace], path: str | os.PathLike[str]) -> None:
    """Write the traces of all parties to `path`, which is replaced when all is written. Raises OSError."""
    with replaced(path) as file:
        file.write('{"displayTimeUnit": "ns", "traceEvents": [\n')
        before = ""
        for line in _events(plan, parties):
            file.write(before)
            file.write(line)
            before = ",\n"
        file.write("\n]}\n")


def _events(plan: Plan, parties: Mapping[str, PartyTrace]) -> Iterator[str]:
    start = min((int(trace.begins.min()) for trace in parties.values() if trace.begins.size), default=0)
    pids = _pids(plan, parties)
    messages, arrows = _arrows(plan, parties)
    recorded = {party: set(trace.executions.tolist()) for party, trace in parties.items()}
    # Perfetto knows a thread by its tid alone, so these are different in all processes, too.
    more_tids = count(1 + max(pids.values()))
    for order, party in enumerate(plan.schedule):
        trace, pid = parties[party], pids[party]
        lanes = _lanes(trace.begins, trace.ends)
        yield _metadata("process_name", pid, pid, name=party)
        yield _metadata("process_sort_index", pid, pid, sort_index=order)
        tid_of = np.array([pid, *(next(more_tids) for _ in range(int(lanes.max(initial=0))))])
        for lane, tid in enumerate(tid_of.tolist()):
            yield _metadata("thread_name", pid, tid, name=party if lane == 0 else f"{party} ({lane + 1})")
        heads = [f'{{"ph":"X","name":{json.dumps(op.target)},"cat":"{op.kind.value}","pid":{pid}' for op in trace.ops]
        rows = zip(
            trace.executions.tolist(),
            (trace.begins - start).tolist(),
            (trace.ends - start).tolist(),
            tid_of[lanes].tolist(),
            strict=True,
        )
        for execution, begins, ends, tids in rows:
            for column, head in enumerate(heads):
                begin, end, tid = begins[column], ends[column], tids[column]
                yield (
                    f'{head},"tid":{tid},"ts":{begin / 1e3:.3f},"dur":{(end - begin) / 1e3:.3f},'
                    f'"args":{{"execution":{execution}}}}}'
                )
                for arrow in arrows.get((party, column), ()):
                    if execution in recorded[arrow.other]:
                        # From the begin of the send: its end may be after the end of the recv.
                        at = begin if arrow.phase == "s" else max(begin, end - 1)
                        binding = "" if arrow.phase == "s" else '"bp":"e",'
                        yield (
                            f'{{"ph":"{arrow.phase}",{binding}"id":{execution * messages + arrow.number},'
                            f'"name":"message","cat":"message","pid":{pid},"tid":{tid},"ts":{at / 1e3:.3f}}}'
                        )


def _metadata(event: str, pid: int, tid: int, **args: str | int) -> str:
    return json.dumps({"ph": "M", "name": event, "pid": pid, "tid": tid, "args": args})


def _pids(plan: Plan, parties: Mapping[str, PartyTrace]) -> dict[str, int]:
    """The parties' own; but if some are threads of one process, numbers, since a viewer's process is a party here.

    Never 0, which viewers take for the idle thread of a core.
    """
    own = {party: parties[party].pid for party in plan.schedule}
    if len({*own.values(), 0}) == len(own) + 1:
        return own
    return {party: number for number, party in enumerate(plan.schedule, start=1)}


class _Arrow(NamedTuple):
    """One end of the arrows of a message from a send to one of its readers."""

    #: "s": it begins here; "f": it ends here.
    phase: str
    #: The party at the other end.
    other: str
    #: Of the message to this reader, among all messages of an execution.
    number: int


def _arrows(plan: Plan, parties: Mapping[str, PartyTrace]) -> tuple[int, dict[tuple[str, int], list[_Arrow]]]:
    """How many messages go to a reader in an execution, all in all; and the ends of arrows by party and column."""
    found: dict[tuple[str, int], list[_Arrow]] = {}
    numbers = count()
    for channel in plan.channels:
        sends = columns_of(parties[channel.writer], OpKind.SEND, channel.name)
        for reader in channel.readers:
            recvs = columns_of(parties[reader], OpKind.RECV, channel.name)
            for send, recv in zip(sends, recvs, strict=False):
                number = next(numbers)
                found.setdefault((channel.writer, send), []).append(_Arrow("s", reader, number))
                found.setdefault((reader, recv), []).append(_Arrow("f", channel.writer, number))
    return next(numbers), found


def _lanes(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """A row of the viewer for each op, in the shape of `begins`: the first in which the one before has ended."""
    lanes = np.zeros(begins.shape, np.int64)
    flat_begins, flat_ends = begins.ravel(), ends.ravel()
    order = np.argsort(flat_begins, kind="stable")
    if np.all(flat_begins[order][1:] >= flat_ends[order][:-1]):
        return lanes
    until: list[int] = []
    for i in order.tolist():
        lane = next((n for n, end in enumerate(until) if end <= flat_begins[i]), len(until))
        until[lane : lane + 1] = [int(flat_ends[i])]
        lanes.ravel()[i] = lane
    return lanes
