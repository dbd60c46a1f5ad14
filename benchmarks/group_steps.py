"""What a rank does in benchmarks/communicators.py."""

from __future__ import annotations

import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from channels.communicators import Communicator, ReduceOp

__all__ = ["measure", "start_gloo", "stop_gloo"]


def start_gloo(communicator: Communicator, store: str) -> None:
    """A file for the store: no port is opened but gloo's own, between the ranks."""
    # gloo asks for the address of the host's name otherwise, which need not be there.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch: Any = importlib.import_module("torch")
    importlib.import_module("torch.distributed")
    torch.set_num_threads(1)
    n = communicator.world_size
    files = torch.distributed.FileStore(store, n)
    torch.distributed.init_process_group("gloo", store=files, rank=communicator.rank, world_size=n)


def stop_gloo(_: Communicator) -> None:
    sys.modules["torch.distributed"].destroy_process_group()


def measure(communicator: Communicator, name: str, op: str, size: int, seconds: float) -> float:
    """The median of the steps, in seconds. All ranks make as many."""
    step = _step_of(communicator, name, op, size)
    start = time.perf_counter()
    for _ in range(3):
        step()
    took = (time.perf_counter() - start) / 3
    count = int(communicator.allreduce(np.array([min(max(seconds / took, 5.0), 2e4)]), ReduceOp.MIN)[0])
    times = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _step_of(communicator: Communicator, name: str, op: str, size: int) -> Callable[[], object]:
    n, count = communicator.world_size, max(size // 4, 1)
    if op == "reducescatter":
        count = -(-count // n) * n
    given = np.zeros(count, np.float32)
    out = np.zeros({"allgather": count * n, "reducescatter": count // n}.get(op, count), np.float32)
    if name == "memcpy":
        target = np.zeros_like(given)
        return lambda: np.copyto(target, given)
    if name == "shm":
        calls: Mapping[str, Callable[[], object]] = {
            "allreduce": lambda: communicator.allreduce(given, out=given),
            "allgather": lambda: communicator.allgather(given, out=out),
            "reducescatter": lambda: communicator.reducescatter(given, out=out),
            "broadcast": lambda: communicator.broadcast(given, 0),
        }
        return calls[op]
    torch: Any = sys.modules["torch"]
    dist, tensor, result = torch.distributed, torch.from_numpy(given), torch.from_numpy(out)
    calls = {
        "allreduce": lambda: dist.all_reduce(tensor),
        "allgather": lambda: dist.all_gather_into_tensor(result, tensor),
        "reducescatter": lambda: dist.reduce_scatter_tensor(result, tensor),
        "broadcast": lambda: dist.broadcast(tensor, 0),
    }
    return calls[op]
