"""What ranks do in the tests of communicators: functions that their processes find by name, of numpy arrays."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from channels.communicators import Communicator, TensorSpec, Transport
from channels.errors import ChannelBroken, ChannelClosed, ChannelTimeout
from channels.testing_communicators import WATCHDOG
from channels.testing_group_subject import _joined, caught

#: Groups and communicators that this process has made, and keeps.
_made: list[Any] = []


def perform(communicator: Communicator, operation: str, peer: int = 0, timeout: float | None = WATCHDOG) -> Any:
    """allreduce, allgather, send or recv of four floats, or of a million if it is a "large" one."""
    size = 1_000_000 if operation.startswith("large ") else 4
    tensor, kind = np.ones(size, np.float32), operation.removeprefix("large ")
    if kind in ("send", "recv"):
        return getattr(communicator, kind)(tensor, peer, timeout)
    return getattr(communicator, kind)(tensor, timeout=timeout)


def broken(communicator: Communicator, operation: str, peer: int) -> str:
    return caught(ChannelBroken, perform, communicator, operation, peer)


def timed_out(communicator: Communicator, operation: str, timeout: float, peer: int = 1) -> str:
    return caught(ChannelTimeout, perform, communicator, operation, peer, timeout)


def closed(communicator: Communicator, operation: str, peer: int = 0) -> str:
    return caught(ChannelClosed, perform, communicator, operation, peer)


def leave(communicator: Communicator) -> None:
    communicator.destroy()


def sum_of_ranks(communicator: Communicator) -> float:
    return float(communicator.allreduce(np.array([communicator.rank], np.float64), timeout=WATCHDOG)[0])


def send_and_receive(communicator: Communicator, peer: int) -> float:
    """Give one's rank, and get the other's: the one with the smaller number sends first."""
    mine, theirs = np.array([communicator.rank], np.float64), TensorSpec((1,), "float64")
    if communicator.rank < peer:
        communicator.send(mine, peer, WATCHDOG)
    found = communicator.recv(theirs, peer, WATCHDOG)
    if communicator.rank > peer:
        communicator.send(mine, peer, WATCHDOG)
    return float(found[0])


def send_and_receive_of_two(communicator: Communicator) -> float:
    return send_and_receive(communicator, 1 - communicator.rank)


def interrupted(communicator: Communicator, operation: str) -> str:
    """As by Ctrl-C, while it waits."""
    ctrl_c = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    ctrl_c.start()
    try:
        perform(communicator, operation, timeout=None)
    except KeyboardInterrupt:
        return "interrupted"
    return "not interrupted"


def many_tiles(communicator: Communicator, size: int) -> None:
    """All operations on tensors that are cut into tiles."""
    n, rank = communicator.world_size, communicator.rank
    everybody = [np.arange(size, dtype=np.float64) * (r + 1) for r in range(n)]
    total = sum(everybody)
    assert np.array_equal(communicator.allreduce(everybody[rank].copy()), total)
    mine = everybody[rank].copy()
    communicator.allreduce(mine, out=mine)
    assert np.array_equal(mine, total)
    assert np.array_equal(communicator.allgather(everybody[rank]), np.concatenate(everybody))
    blocks = [np.tile(array, n) for array in everybody]
    assert np.array_equal(communicator.reducescatter(blocks[rank]), total)
    for root in range(n):
        given = everybody[root] if rank == root else TensorSpec((size,), "float64")
        assert np.array_equal(communicator.broadcast(given, root), everybody[root])


def beside_torch_distributed(communicator: Communicator, _: str) -> float:
    """A program's own default process group, of this process alone."""
    import torch.distributed as distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        return float(communicator.allreduce(np.array([communicator.rank + 1.0]))[0])
    finally:
        distributed.destroy_process_group()


def make_group(transport: Transport, world_size: int) -> bytes:
    _made.append(transport.create(world_size))
    return _made[-1].id


def join(transport: Transport, group_id: bytes, rank: int) -> None:
    _made.append(transport.join(group_id, rank, 2, WATCHDOG))


def wait_in_vain() -> str:
    """With what `join` has made."""
    communicator = _made.pop()
    try:
        return broken(communicator, "recv", 1 - communicator.rank)
    finally:
        communicator.destroy()


def fork_and_stay(communicator: Communicator) -> int:
    """A child that keeps whatever it has got, until it is killed."""
    child = os.fork()
    if child == 0:
        time.sleep(10 * WATCHDOG)
        os._exit(0)
    return child


def use_in_a_child(communicator: Communicator) -> str:
    """What the communicator says to a forked child, which also drops it."""
    return said_in_a_child(communicator, lambda: perform(communicator, "allreduce"))


def said_in_a_child(communicator: Communicator, use: Callable[[], object]) -> str:
    """What `use` raises in a forked child, which then aborts and destroys the communicator there, without effect."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = caught(ChannelBroken, use)
            communicator.abort("a child says so")
            communicator.destroy()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            text = repr(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


def destroyed_beside(communicator: Communicator) -> str:
    destroyer = threading.Timer(0.05, communicator.destroy)
    destroyer.start()
    text = caught(ChannelClosed, perform, communicator, "allreduce")
    destroyer.join()
    return text


def drop(communicator: Communicator, group_id: bytes, rank: int) -> None:
    """The last references: that of the suite, and, when this returns, this one."""
    del _joined[group_id, rank]
