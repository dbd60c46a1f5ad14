"""The contestant "limit": the yardstick ring under plain Python loops, in processes that fork.

Measured: a round trip of an integer; for an array also the one copy into shared memory that it needs, after which the
receiver looks at it where it is. Nothing here serializes, checks or times out.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np

from benchmarks.limit.build import CannotBuildError, Ring, build
from benchmarks.protocol import Answer, refuse, serve
from benchmarks.timing import latency, latency_of_prepared, let_fall_asleep, throughput

PR_SET_PDEATHSIG = 1
#: Ends an actor's loop, and is passed on.
STOP = -1


def echo(value: int) -> int:
    return value


class Limit:
    """What is measured, one method a benchmark."""

    def __init__(self, ring: type[Ring]) -> None:
        self._ring = ring

    def chain(self, actors: int, seconds: float) -> Answer:
        with self._chain(actors) as ends:
            return latency(_round_trip(*ends), seconds)

    def asleep(self, seconds: float) -> Answer:
        with self._chain(1) as ends:
            round_trip = _round_trip(*ends)
            return latency_of_prepared(let_fall_asleep, lambda _: round_trip(), seconds)

    def rate(self, actors: int, depth: int, seconds: float) -> Answer:
        with self._chain(actors) as (first, last):
            write, read = first.write, last.read
            return throughput(lambda: write(1), lambda _: read(0), depth, seconds)

    def fanout(self, actors: int, seconds: float) -> Answer:
        ring = self._ring
        first, lasts = ring(actors), [ring(1) for _ in range(actors)]
        with _forked([_actor(first, index, last) for index, last in enumerate(lasts)], first, lasts):
            write, reads = first.write, [last.read for last in lasts]

            def step() -> None:
                write(1)
                for read in reads:
                    read(0)

            return latency(step, seconds)

    def array(self, nbytes: int, seconds: float) -> Answer:
        source = np.ones(nbytes, np.uint8)
        shared = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
        with self._chain(1) as (first, last):
            write, read = first.write, last.read

            def step() -> None:
                np.copyto(shared, source)
                write(1)
                read(0)

            return latency(step, seconds)

    def arena(self, nbytes: int, seconds: float) -> Answer:
        shared = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
        with self._chain(1) as ends:
            round_trip = _round_trip(*ends)

            def prepare() -> None:
                shared.fill(1)
                round_trip()

            return latency_of_prepared(prepare, lambda _: round_trip(), seconds)

    def memcpy(self, nbytes: int, seconds: float) -> Answer:
        source, target = np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
        return latency(lambda: np.copyto(target, source), seconds)

    @contextmanager
    def _chain(self, actors: int) -> Iterator[tuple[Ring, Ring]]:
        rings = [self._ring(1) for _ in range(actors + 1)]
        loops = [_actor(source, 0, sink) for source, sink in pairwise(rings)]
        with _forked(loops, rings[0], [rings[-1]]):
            yield rings[0], rings[-1]


def _round_trip(first: Ring, last: Ring) -> Callable[[], None]:
    write, read = first.write, last.read

    def step() -> None:
        write(1)
        read(0)

    return step


def _actor(source: Ring, reader: int, sink: Ring) -> Callable[[], None]:
    def loop() -> None:
        read, write = source.read, sink.write
        while (value := read(reader)) != STOP:
            write(echo(value))
        write(STOP)

    return loop


@contextmanager
def _forked(loops: list[Callable[[], None]], first: Ring, lasts: list[Ring]) -> Iterator[None]:
    """A process for each loop, until the block is left: then STOP goes in at `first` and comes out of the `lasts`."""
    pids = [_fork(loop) for loop in loops]
    yield
    first.write(STOP)
    for last in lasts:
        last.read(0)
    for pid in pids:
        os.waitpid(pid, 0)


def _fork(loop: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        loop()
        os._exit(0)
    return pid


def main() -> None:
    try:
        limit = Limit(build())
    except CannotBuildError as reason:
        refuse(str(reason))
        return
    serve({name: getattr(limit, name) for name in ("chain", "asleep", "rate", "fanout", "array", "arena", "memcpy")})


if __name__ == "__main__":
    main()
