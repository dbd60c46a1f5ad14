"""collect_trace: the rows that the parties of a graph have recorded become one Trace."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dagc.executor import TraceKey, recorded
from dagc.graph import DRIVER
from dagc.plan import Plan
from dagc.timing.recorder import DriverRecorder, Rows
from dagc.timing.timeline import PartyTrace, unfused
from dagc.timing.trace import Trace
from runtime.calls import ActorHandle
from runtime.engine import Engine, Loop

__all__ = ["collect_trace"]


def collect_trace(
    plan: Plan,
    driver: DriverRecorder,
    loops: Mapping[str, Loop],
    handles: Mapping[str, ActorHandle],
    engine: Engine,
) -> Trace:
    """Ask every actor at once, ahead of its methods; one whose loop has ended has answered already.

    Raises what an actor raised, ActorDiedError included.
    """
    pids = {name: info.pid for name, info in zip(handles, engine.describe(list(handles.values())), strict=True)}
    rows = driver.rows()
    last = int(rows[0].max(initial=0))
    asked = {
        actor: engine.call(handles[actor], recorded, TraceKey(driver.graph, actor), last)
        for actor, loop in loops.items()
        if not loop.done.done()
    }
    parties = {DRIVER: _party(plan, DRIVER, os.getpid(), rows)}
    for actor, loop in loops.items():
        found: Any = asked[actor].result() if actor in asked else None
        if found is None:
            found = loop.done.result()
        parties[actor] = _party(plan, actor, pids[actor], found)
    return Trace(plan, parties)


def _party(plan: Plan, party: str, pid: int, rows: Rows) -> PartyTrace:
    executions, begins, ends, cpu = rows
    return PartyTrace(party, pid, unfused(plan.schedule[party]), executions, begins, ends, cpu)
