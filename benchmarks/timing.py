"""How a contestant measures: the same loops for all of them, around whatever one step is for each.

A measurement lasts a given time rather than a number of steps, so that all contestants are exposed to the same noise,
however fast they are. Steps are timed one by one with `time.perf_counter_ns`; a fifth of the time is spent first, on steps
that are not counted. The garbage collector stays on, as in the programs that this stands for.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.protocol import Answer

__all__ = ["cpu_seconds", "latency", "latency_async", "latency_of_prepared", "summary", "throughput"]

now = time.perf_counter_ns
WARM_UP = 0.2
#: At least so many steps are counted, however long they take.
FEWEST = 3


def latency(step: Callable[[], object], seconds: float) -> Answer:
    """Microseconds that one call of `step` takes."""
    times: list[int] = []
    for end, counted in _phases(seconds):
        while now() < end or len(times) < (FEWEST if counted else 0):
            start = now()
            step()
            if counted:
                times.append(now() - start)
    return summary(times)


def latency_of_prepared(prepare: Callable[[], Any], step: Callable[[Any], object], seconds: float) -> Answer:
    """As `latency`, of `step(prepare())`, where the preparation takes its time but is not counted."""
    times: list[int] = []
    for end, counted in _phases(seconds):
        while now() < end or len(times) < (FEWEST if counted else 0):
            prepared = prepare()
            start = now()
            step(prepared)
            if counted:
                times.append(now() - start)
            del prepared
    return summary(times)


async def latency_async(step: Callable[[], Awaitable[object]], seconds: float) -> Answer:
    """As `latency`, of `await step()`, with nothing else to do for the event loop."""
    times: list[int] = []
    for end, counted in _phases(seconds):
        while now() < end or len(times) < (FEWEST if counted else 0):
            start = now()
            await step()
            if counted:
                times.append(now() - start)
    await asyncio.sleep(0)
    return summary(times)


def throughput(submit: Callable[[], Any], collect: Callable[[Any], object], depth: int, seconds: float) -> Answer:
    """Steps a second with `depth` of them in flight: each result that is collected makes place for the next."""
    flying = deque(submit() for _ in range(depth))
    done = 0
    for end, counted in _phases(seconds):
        start, done = now(), 0
        while now() < end or done < (FEWEST if counted else 0):
            collect(flying.popleft())
            flying.append(submit())
            done += 1
        elapsed = now() - start
    while flying:
        collect(flying.popleft())
    return {"per_second": done / elapsed * 1e9, "samples": done}


def summary(nanoseconds: Sequence[int]) -> Answer:
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {
        "p50_us": ordered[len(ordered) // 2] / 1e3,
        "p99_us": ordered[min(last, len(ordered) * 99 // 100)] / 1e3,
        "samples": len(ordered),
    }


def cpu_seconds(pid: int) -> float:
    """Processor time that all threads of another process have used so far; to the nanosecond, where psutil has 10 ms."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def _phases(seconds: float) -> Any:
    """(end, counted): the warm-up, then the measurement. Each begins when it is asked for."""
    for share, counted in ((WARM_UP, False), (1.0, True)):
        yield now() + int(share * seconds * 1e9), counted
