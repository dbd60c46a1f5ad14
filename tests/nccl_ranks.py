"""What ranks do in the tests of NCCL's own rules, on the fake: functions that their processes find by name.

A rank is an `OnHost`; its `inner` is the communicator of device tensors.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from channels.communicators import TensorSpec
from channels.communicators.nccl import handle as handles
from channels.communicators.nccl.streams import COLLECTIVE
from channels.errors import ChannelBroken, ChannelTimeout
from channels.testing_communicators import WATCHDOG
from channels.testing_group_subject import caught
from tests import fakes_nccl
from tests.fakes_nccl import faults
from tests.fakes_nccl.memory import CudaTensor
from tests.host_nccl import OnHost, device_of, exchanged
from tests.ranks import said_in_a_child

#: Works that stay under way between two calls.
_works: list[Any] = []

SIZE = 100_000


def inject(_: OnHost, changes: dict[str, Any]) -> None:
    faults.inject(**changes)


def violations(_: OnHost | None = None) -> list[str]:
    """What was done in this process that a real device would not forgive; from here on it counts anew."""
    found = list(fakes_nccl.violations)
    fakes_nccl.violations.clear()
    return found


def begin_and_compute(communicator: OnHost, kind: str) -> tuple[bool, bool]:
    """Begin a send or a receive whose other side has not come; (what was computed, whether it was over meanwhile)."""
    inner, device = communicator.inner, device_of(communicator)
    if kind == "isend":
        work = inner.isend([torch.full((SIZE,), 5.0, device=device)], [1 - inner.rank])
    else:
        work = inner.irecv([TensorSpec((SIZE,), "float32", "torch")], 1 - inner.rank)
    _works.append(work)
    computed = threading.Event()
    stream = torch.cuda.current_stream()
    stream.enqueue(computed.set)
    stream.synchronize()
    return computed.is_set(), work._done.query()


def finish(communicator: OnHost) -> list[float]:
    """Wait for what was begun, and look at it; a second wait gives the same."""
    work = _works.pop()
    (tensor,) = work.wait()
    assert work.wait()[0] is tensor
    torch.cuda.current_stream().synchronize()
    assert work._done.query()
    return [tensor.min().item(), tensor.max().item()]


def wait_orders_the_stream_and_not_the_host(communicator: OnHost) -> list[bool]:
    """Whether what the current stream was given after `wait` has run, before and after the other side has come."""
    inner = communicator.inner
    faults.inject(may_run=False)
    work = inner.irecv([TensorSpec((4,), "float32", "torch")], 1)
    work.wait()  # comes back although nothing has been received
    after = threading.Event()
    torch.cuda.current_stream().enqueue(after.set)
    before = after.is_set()
    faults.inject(may_run=True)
    inner.synchronize()
    torch.cuda.current_stream().synchronize()
    return [before, after.is_set()]


def send_ones(communicator: OnHost) -> None:
    communicator.inner.isend([torch.ones(4, device=device_of(communicator))], [0])
    communicator.inner.synchronize()


def send_and_forget(communicator: OnHost, marks: bool) -> list[str]:
    """Send a tensor that is dropped at once, and fill the memory that is free then; what was wrong with that."""
    kept = CudaTensor.record_stream
    if not marks:
        CudaTensor.record_stream = lambda self, stream: None  # type: ignore[method-assign]
    try:
        communicator.inner.isend([torch.full((SIZE,), 5.0, device=device_of(communicator))], [1])
        torch.full((SIZE,), 6.0, device=device_of(communicator))
    finally:
        CudaTensor.record_stream = kept  # type: ignore[method-assign]
    return violations()


def receive(communicator: OnHost) -> list[float]:
    found = communicator.inner.recv(TensorSpec((SIZE,), "float32", "torch"), 0)
    return [found.min().item(), found.max().item()]


def calls_of_several(communicator: OnHost) -> list[Any]:
    """What NCCL is told for two tensors to two ranks, and for two from rank 0."""
    inner = communicator.inner
    faults.calls.clear()
    if inner.rank == 0:
        tensors = [torch.ones(3, device=device_of(communicator)), torch.zeros(5, dtype=torch.int64, device="cuda:0")]
        inner.isend(tensors, [1, 2]).wait()
    else:
        inner.irecv([TensorSpec((3,), "float32", "torch"), TensorSpec((5,), "int64", "torch")], 0).wait()
    inner.synchronize()
    return list(faults.calls)


def exchange(communicator: OnHost) -> float:
    return exchanged(communicator, SIZE)


def exchange_in_place(communicator: OnHost) -> str:
    """Receiving into what is being sent, or into a part of it: refused by each rank alone."""
    inner, tensor = communicator.inner, torch.ones(8, device=device_of(communicator))
    peer = 1 - inner.rank
    caught(ValueError, lambda: inner.exchange(tensor, peer, tensor, peer, WATCHDOG))
    return caught(ValueError, lambda: inner.exchange(tensor[:6], peer, tensor[2:], peer, WATCHDOG))


def send_first(communicator: OnHost) -> str:
    """Both send before they receive: NCCL runs the operations of a communicator one by one."""
    inner = communicator.inner
    peer, tensor = 1 - inner.rank, torch.ones(4, device=device_of(communicator))
    inner.isend([tensor], [peer], 0.2)
    inner.irecv([TensorSpec((4,), "float32", "torch")], peer)
    return caught(ChannelBroken if inner.rank else ChannelTimeout, inner.synchronize)


def on_another_device(communicator: OnHost) -> str:
    other = torch.ones(3, device=f"cuda:{(communicator.inner.device + 1) % fakes_nccl.FAKE_DEVICES}")
    return caught(TypeError, communicator.inner.isend, [torch.ones(3, device=device_of(communicator)), other], [1])


# ---- what goes wrong ----


def launch_in_vain(communicator: OnHost) -> list[str]:
    """The call returns at once; the error is that of whatever looks next."""
    inner = communicator.inner
    inner.allreduce(torch.ones(3, device=device_of(communicator)), timeout=0.05)
    told = [caught(ChannelTimeout, inner.synchronize), caught(ChannelBroken, inner.check)]
    return [*told, caught(ChannelBroken, inner.isend, [torch.ones(3, device=device_of(communicator))], [1])]


def wait_on_the_device(communicator: OnHost) -> str:
    inner = communicator.inner

    def wait() -> None:
        inner.allreduce(torch.ones(SIZE, device=device_of(communicator)))
        inner.synchronize()

    return caught(ChannelBroken, wait)


def fail_on_the_device(communicator: OnHost) -> str:
    """A kernel goes wrong on the stream of the operation: CUDA tells everybody who looks at it from then on."""

    def illegal() -> None:
        raise MemoryError("of a kernel")

    def wait() -> None:
        communicator.inner._streams[COLLECTIVE].enqueue(illegal)
        communicator.inner.allreduce(torch.ones(3, device=device_of(communicator)))
        communicator.inner.synchronize()

    return caught(ChannelBroken, wait)


def wait_for_a_work(communicator: OnHost) -> str:
    """A receive that was begun when the group was whole, waited for when it is broken."""
    return caught(ChannelBroken, _works.pop().wait)


def end_and_look(communicator: OnHost, seconds: float) -> bool:
    """Destroy; whether NCCL is stuck after it was given so long."""
    handles.END_S = seconds
    communicator.inner.destroy()
    communicator.inner._watchdog.finished(WATCHDOG)
    return communicator.inner.stuck


def is_stuck(communicator: OnHost) -> bool:
    """Once the thread that ends it has come back."""
    ending = communicator.inner._handle._ending
    assert ending is not None, "it was ended"
    ending.join(WATCHDOG)
    return communicator.inner.stuck


def use_in_a_child(communicator: OnHost) -> str:
    """What the communicator says to a forked child."""
    return said_in_a_child(communicator, communicator.inner.check)
