"""Cores: the clock of a replay, and the cores that its processes share.

A process is a generator. It asks for something (`sleep`, `compute`), or leaves itself with whoever will `wake` it, and
then yields. Everything happens in the order of time, and at the same time in the order in which it was asked for.

Cores are shared by all who compute, at every moment alike: with k of them on c cores each proceeds at the rate min(1,
c/k), as under a fair scheduler on average. A change costs one operation on a heap: all proceed at the same rate, so who
has the least work left is the first to end whatever happens meanwhile; work is noted as the point on a clock of
progress at which it will be done (the virtual time of Parekh and Gallager, 1993).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator
from itertools import count

__all__ = ["Cores", "Process"]

Process = Generator[None, None, None]


class Cores:
    """`processes`: how many there are at most; if no more than cores, each has one to itself."""

    def __init__(self, cores: int, processes: int) -> None:
        #: Seconds since the beginning.
        self.now = 0.0
        self._cores = cores
        self._shared = processes > cores
        self._ready: deque[Process] = deque()
        self._numbers = count()
        self._sleeping: list[tuple[float, int, Process]] = []
        #: By the progress at which they are done.
        self._computing: list[tuple[float, int, Process]] = []
        self._progress = 0.0
        self._progress_at = 0.0

    def wake(self, process: Process) -> None:
        """It goes on now, after those that were woken before it."""
        self._ready.append(process)

    def sleep(self, process: Process, seconds: float) -> None:
        """It goes on in so many seconds."""
        heapq.heappush(self._sleeping, (self.now + seconds, next(self._numbers), process))

    def compute(self, process: Process, seconds: float) -> None:
        """It goes on when it has had a core for so many seconds."""
        if not self._shared:
            self.sleep(process, seconds)
            return
        self._progress += (self.now - self._progress_at) * self._rate()
        self._progress_at = self.now
        heapq.heappush(self._computing, (self._progress + seconds, next(self._numbers), process))

    def run(self) -> None:
        """Until nothing is left to happen: every process has ended, or waits for somebody to wake it."""
        ready, sleeping, computing = self._ready, self._sleeping, self._computing
        while True:
            while ready:
                next(ready.popleft(), None)
            slept = sleeping[0][0] if sleeping else math.inf
            if computing:
                done = self._progress_at + (computing[0][0] - self._progress) / self._rate()
                if done < slept:
                    self._progress, _, process = computing[0]
                    self._progress_at = self.now = max(self.now, done)
                    # The rate is that of before its end, so it leaves only now.
                    heapq.heappop(computing)
                    next(process, None)
                    continue
            elif not sleeping:
                return
            self.now, _, process = heapq.heappop(sleeping)
            next(process, None)

    def _rate(self) -> float:
        return min(1.0, self._cores / len(self._computing)) if self._computing else 1.0
