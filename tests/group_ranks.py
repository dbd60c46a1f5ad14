"""What the ranks of test groups do; other processes import it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from channels.communicators import Communicator, ShmTransport, TensorSpec
from channels.communicators.shm import ShmGroup
from channels.errors import ChannelBroken


def reduce_for_ever(communicator: Communicator, size: int) -> None:
    """Until something is raised. Every result is looked at."""
    ours = np.full(size, communicator.rank + 1, np.float32)
    total = communicator.world_size * (communicator.world_size + 1) / 2
    while True:
        found = communicator.allreduce(ours)
        assert found.min() == found.max() == total


def mixed_for_ever(communicator: Communicator, size: int) -> None:
    """As `reduce_for_ever`, with every operation there is, of all sizes up to that."""
    _work(communicator, size, 1 << 60)


def _work(communicator: Communicator, size: int, times: int) -> None:
    rank, n = communicator.rank, communicator.world_size
    for count in range(times):
        now = (size >> count % 12) + n
        ours = np.full(now, rank + count, np.int64)
        gathered = communicator.allgather(ours)
        assert (gathered.reshape(n, now) == np.arange(n)[:, None] + count).all()
        part = communicator.reducescatter(gathered)
        assert (part == n * (rank + count)).all()
        assert (communicator.broadcast(ours, count % n) == count % n + count).all()
        if rank == count % n:
            communicator.send(ours, (rank + 1) % n)
        elif (rank - 1) % n == count % n:
            communicator.recv(TensorSpec((now,), "int64"), (rank - 1) % n)


def sum_once(communicator: Communicator, size: int = 4, timeout: float | None = None) -> float:
    return float(communicator.allreduce(np.full(size, communicator.rank, np.float64), timeout=timeout)[-1])


def sum_often(communicator: Communicator, times: int) -> float:
    return sum(sum_once(communicator) for _ in range(times))


def receive(communicator: Communicator, peer: int) -> None:
    communicator.recv(TensorSpec((4,), "float32"), peer)


def abort(communicator: Communicator, reason: str) -> None:
    communicator.abort(reason)


def destroy(communicator: Communicator) -> None:
    communicator.destroy()


def sum_while_counting(communicator: Communicator) -> int:
    """How far another thread counts while this one waits."""
    done = threading.Event()
    counted = 0

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1

    counter = threading.Thread(target=count)
    counter.start()
    sum_once(communicator)
    done.set()
    counter.join()
    return counted


def sum_in_two_threads(communicator: Communicator) -> str:
    """The error of the second call; the first one waits."""
    begun = threading.Event()
    errors: list[str] = []

    def second() -> None:
        begun.wait()
        whole = np.zeros(5)
        while not errors:
            try:
                communicator.allreduce(whole[:-1], out=whole[1:])
            except ValueError:  # refused for its overlap, and unheard: the first call is not there yet
                continue
            except RuntimeError as error:
                errors.append(str(error))
                communicator.abort("that is enough")

    thread = threading.Thread(target=second)
    thread.start()
    begun.set()
    try:
        sum_once(communicator)
    except ChannelBroken:
        thread.join()
    return errors[0]


def sum_in_a_fork(communicator: Communicator) -> tuple[float, int]:
    """What the parent gets after a forked child has tried, and how the child ended: 7 if all was well."""
    pid = os.fork()
    if pid == 0:
        try:
            sum_once(communicator)
        except ChannelBroken as error:
            communicator.abort("from the child")
            communicator.destroy()
            del communicator
            os._exit(7 if "fork" in str(error) else 8)
        os._exit(9)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return sum_once(communicator), ended


def sum_and_cpu_seconds(communicator: Communicator) -> float:
    """Processor time that it takes to wait."""
    before = time.process_time()
    sum_once(communicator)
    return time.process_time() - before


def interrupted_by_itself(communicator: Communicator) -> str:
    """SIGINT comes again and again, to the handler that is set here, while the others are waited for."""
    count = 0

    def handler(number: int, frame: Any) -> None:
        nonlocal count
        count += 1
        if count == 20:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise OverflowError("the handler's own")

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        communicator.allreduce(np.ones(4))
    except OverflowError as error:
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    return "nothing was raised"


def belongings() -> tuple[int, int]:
    """Open descriptors of this process, and arenas that it maps."""
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count("dagc-arena")


_groups: list[ShmGroup] = []
_held: list[Communicator] = []


def create(world_size: int) -> bytes:
    """A group of this process, which keeps it."""
    _groups.append(ShmTransport().create(world_size, "of another process"))
    return _groups[-1].id


def join_and_sum(group_id: bytes, rank: int, world_size: int) -> float:
    return sum_once(ShmTransport().join(group_id, rank, world_size, 30))


def join_and_hold(group_id: bytes, rank: int, world_size: int) -> None:
    _held.append(ShmTransport().join(group_id, rank, world_size, 30))


def sum_held(times: int) -> float:
    return sum_often(_held.pop(), times)


def join_and_work(group_id: bytes, rank: int, world_size: int, times: int) -> None:
    communicator = ShmTransport().join(group_id, rank, world_size, 30)
    _work(communicator, 2000, times)
