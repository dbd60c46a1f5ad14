"""What ranks do on real GPUs: functions that their processes find by name. A rank is an `OnHost`."""

from __future__ import annotations

from typing import Any

import torch

from channels.communicators import TensorSpec
from channels.errors import ChannelBroken, ChannelTimeout
from channels.testing_group_subject import caught
from tests.host_nccl import OnHost, device_of, exchanged

#: 64 MiB of float32: too much for NCCL's buffers, so a send waits for its receive.
SIZE = 16 << 20
#: What `chain` ends with after 20 steps on two ranks: x -> 2 * (x + 1), from 0.
CHAIN_OF_20 = float(2 * (2**20 - 1))

#: Works that stay under way between two calls.
_works: list[Any] = []


def send_and_compute(communicator: OnHost) -> tuple[bool, bool]:
    """Begin a send that nobody receives yet, and compute; (whether that is right, whether the send is over)."""
    device = device_of(communicator)
    work = communicator.inner.isend([torch.full((SIZE,), 5.0, device=device)], [1])
    _works.append(work)
    square = torch.full((512, 512), 2.0, device=device)
    found = (square @ square).sum().item()  # which waits for the current stream
    return found == 4.0 * 512**3, work._done.query()


def receive_and_look(communicator: OnHost) -> list[float]:
    found = communicator.inner.recv(TensorSpec((SIZE,), "float32", "torch"), 0)
    return [found.min().item(), found.max().item()]


def finish(communicator: OnHost) -> bool:
    work = _works.pop()
    work.wait()
    torch.cuda.current_stream().synchronize()
    return bool(work._done.query())


def chain(communicator: OnHost, steps: int) -> float:
    device = device_of(communicator)
    value, busy = torch.zeros(SIZE, device=device), torch.ones((2048, 2048), device=device)
    for _ in range(steps):
        busy = (busy @ busy).clamp(0, 1)  # so that the operation really has to wait
        value = communicator.inner.allreduce(value + busy[0, 0])
    low, high = value.min().item(), value.max().item()
    assert low == high
    return float(low)


def send_and_forget(communicator: OnHost, times: int) -> None:
    """The memory of each is free for the next as soon as its stream lets go of it."""
    device = device_of(communicator)
    for number in range(times):
        communicator.inner.isend([torch.full((SIZE,), float(number), device=device)], [1])
        torch.full((SIZE,), -1.0, device=device)
    communicator.inner.synchronize()


def receive_all(communicator: OnHost, times: int) -> list[float]:
    spec = TensorSpec((SIZE,), "float32", "torch")
    found = [communicator.inner.recv(spec, 0) for _ in range(times)]
    assert all(bool((one == one[0]).all()) for one in found)
    return [one[0].item() for one in found]


def exchange(communicator: OnHost) -> float:
    return exchanged(communicator, SIZE)


def wait_on_the_device(communicator: OnHost, operation: str) -> tuple[str, bool]:
    """For a rank that does not come; what was said, and whether NCCL is stuck."""
    inner, ours = communicator.inner, torch.ones(SIZE, device=device_of(communicator))

    def wait() -> None:
        if operation == "allreduce":
            inner.allreduce(ours)
        else:
            inner.recv(ours, 1)
        inner.synchronize()

    return caught(ChannelBroken, wait), inner.stuck


def timed_out(communicator: OnHost) -> str:
    inner = communicator.inner
    inner.allreduce(torch.ones(SIZE, device=device_of(communicator)), timeout=0.5)
    return caught(ChannelTimeout, inner.synchronize)


def sum_of_ranks(communicator: OnHost) -> float:
    total = communicator.inner.allreduce(torch.full((3,), float(communicator.rank), device=device_of(communicator)))
    return float(total[0].item())


def free_bytes(communicator: OnHost) -> int:
    sum_of_ranks(communicator)
    free, _ = torch.cuda.mem_get_info(device_of(communicator))
    return int(free)
