"""What waiting costs on this machine: it decides the latency of everything. Measured in a few hundred milliseconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from dagc.cli.bare import Helper, chain, helpers
from dagc.cli.finding import Finding, ok, problem
from dagc.cli.timing import latency
from dagc.tables import duration

__all__ = ["Waits", "measure_waits", "waiting"]

_SECONDS = 0.1
#: Before a message: long enough for the other side to have given up its first few looks and gone to sleep.
_PAUSE_SECONDS = 5e-4
#: A machine that is not disturbed takes 3 to 60 us, by its processors' sleep states and by whether it is virtual.
_SLOW_WAKE = 1e-3


@dataclass(frozen=True)
class Waits:
    """Seconds, p50."""

    #: Of one sched_yield with nobody else to run.
    yield_: float
    #: A message there and back between two processes that yield while they wait, as in a busy graph.
    awake: float
    #: The same between two that sleep: two futex wake-ups, as in a graph that was idle.
    asleep: float


def measure_waits() -> Waits:
    yielding = latency(lambda _: os.sched_yield(), _SECONDS / 10).p50
    with helpers(1) as found:
        return Waits(yielding, _echo(found, None, 0.0), _echo(found, 0.0, _PAUSE_SECONDS))


def waiting(measure: Callable[[], Waits] = measure_waits) -> Finding:
    waits = measure()
    wake = waits.asleep / 2
    found = f"wake-up {duration(wake)}, sched_yield {duration(waits.yield_)}, echo {duration(waits.awake)}"
    if wake > _SLOW_WAKE:
        advice = "something else keeps the processors busy, or a quota holds them back: see cores and dagc bench"
        return problem("wake-ups", found, advice)
    return ok("wake-ups", found)


def _echo(found: list[Helper], yield_us: float | None, pause: float) -> float:
    with chain(found, yield_us) as (writer, reader):
        number = 0

        def step(_: object) -> None:
            nonlocal number
            number += 1
            writer.write(1, number)
            reader.read(number)

        return latency(step, _SECONDS, prepare=lambda: time.sleep(pause)).p50
