"""How a contestant measures: the same loops for all of them, around whatever one step is for each.

A measurement lasts a given time rather than a number of steps, so that all contestants are exposed to the same noise,
however fast they are. Steps are timed one by one with `time.perf_counter_ns`. A fifth of the time, and at least
WARM_UP_STEPS, is spent first on steps that are not counted: Ray's ten buffers of a channel are first touched then. The
garbage collector stays on, as in the programs that this stands for.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from benchmarks.protocol import Answer

__all__ = [
    "idle_percent",
    "latency",
    "latency_async",
    "latency_of_prepared",
    "let_fall_asleep",
    "summary",
    "throughput",
]

now = time.perf_counter_ns
WARM_UP_SHARE = 0.2
WARM_UP_STEPS = 20
#: At least so many steps are counted, however long they take.
FEWEST = 3
#: Between the last use of a graph and the beginning of its idleness.
SETTLE_SECONDS = 0.5
#: Long enough for whoever waits to stop polling and sleep.
PAUSE_SECONDS = 2e-3


def latency(step: Callable[[], object], seconds: float) -> Answer:
    """Microseconds that one call of `step` takes."""
    times: list[int] = []
    for end, fewest in _phases(seconds):
        times.clear()
        while now() < end or len(times) < fewest:
            start = now()
            step()
            times.append(now() - start)
    return summary(times)


def latency_of_prepared(
    prepare: Callable[[], Any], step: Callable[[Any], object], seconds: float, warm_up_steps: int = WARM_UP_STEPS
) -> Answer:
    """As `latency`, of `step(prepare())`, where the preparation takes its time but is not counted."""
    times: list[int] = []
    for end, fewest in _phases(seconds, warm_up_steps):
        times.clear()
        while now() < end or len(times) < fewest:
            prepared = prepare()
            start = now()
            step(prepared)
            times.append(now() - start)
            del prepared
    return summary(times)


async def latency_async(step: Callable[[], Awaitable[object]], seconds: float) -> Answer:
    """As `latency`, of `await step()`, with nothing else to do for the event loop."""
    times: list[int] = []
    for end, fewest in _phases(seconds):
        times.clear()
        while now() < end or len(times) < fewest:
            start = now()
            await step()
            times.append(now() - start)
    return summary(times)


def throughput(submit: Callable[[], Any], collect: Callable[[Any], object], depth: int, seconds: float) -> Answer:
    """Steps a second with `depth` of them in flight: each result that is collected makes place for the next."""
    flying = deque(submit() for _ in range(depth))
    done, elapsed = 0, 1
    for end, fewest in _phases(seconds):
        start, done = now(), 0
        while now() < end or done < fewest:
            collect(flying.popleft())
            flying.append(submit())
            done += 1
        elapsed = now() - start
    while flying:
        collect(flying.popleft())
    return {"per_second": done / elapsed * 1e9, "samples": done}


def idle_percent(pid: int, seconds: float) -> Answer:
    """Processor time of a process that has nothing to do, in percent of one core."""
    time.sleep(SETTLE_SECONDS)
    before = _cpu_seconds(pid)
    time.sleep(seconds)
    return {"percent": (_cpu_seconds(pid) - before) / seconds * 100, "samples": 1}


def let_fall_asleep() -> None:
    """Compute for a while. The caller itself stays awake."""
    end = now() + int(PAUSE_SECONDS * 1e9)
    while now() < end:
        pass


def summary(nanoseconds: Sequence[int]) -> Answer:
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {
        "p50_us": ordered[len(ordered) // 2] / 1e3,
        "p99_us": ordered[min(last, len(ordered) * 99 // 100)] / 1e3,
        "samples": len(ordered),
    }


def _cpu_seconds(pid: int) -> float:
    """What all threads of another process have used so far; to the nanosecond, where psutil has 10 ms."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def _phases(seconds: float, warm_up_steps: int = WARM_UP_STEPS) -> Iterator[tuple[int, int]]:
    """(when it ends, how many steps at least) of the warm-up, then of the measurement. Each begins when asked for."""
    for share, fewest in ((WARM_UP_SHARE, warm_up_steps), (1.0, FEWEST)):
        yield now() + int(share * seconds * 1e9), fewest
