"""NCCL communicators for what gives numpy arrays and CPU tensors: the conformance suite.

Each operation copies its tensors to the device, waits for its end, and copies the result back. What the communicator
does with strides, with memory that overlaps, and with wrong arguments, is left to it: the copies have the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from channels.communicators import Communicator, ReduceOp, TensorSpec
from channels.communicators.nccl import NcclCommunicator, NcclTransport, NcclWork
from channels.testing_ranks import WATCHDOG

__all__ = ["HostNcclTransport", "OnHost", "device_of", "exchanged"]


@dataclass(frozen=True)
class HostNcclTransport(NcclTransport):
    """NCCL, of host tensors. Each rank takes the device of its number."""

    def join(self, group_id: bytes, rank: int, world_size: int, timeout: float | None = None) -> Any:
        torch.cuda.set_device(self.device if self.device is not None else rank)
        return OnHost(super().join(group_id, rank, world_size, timeout))


class OnHost(Communicator):
    """One rank."""

    transport = "nccl"
    fixed_order = NcclCommunicator.fixed_order
    checks_requests = NcclCommunicator.checks_requests
    asynchronous = NcclCommunicator.asynchronous

    def __init__(self, inner: NcclCommunicator) -> None:
        self.inner = inner
        self.name, self.rank, self.world_size = inner.name, inner.rank, inner.world_size

    def send(self, tensor: Any, peer: int, timeout: float | None = None) -> None:
        self.inner.send(self._device(tensor), peer, timeout)
        self.inner.synchronize()

    def recv(self, into: Any, peer: int, timeout: float | None = None) -> Any:
        result = self.inner.recv(self._target(into), peer, timeout)
        self.inner.synchronize()
        return _back(result, into)

    def isend(self, tensors: Sequence[Any], peers: Sequence[int], timeout: float | None = None) -> Any:
        work = self.inner.isend([self._device(one) for one in tensors], peers, timeout)
        return _HostWork(work, lambda _: list(tensors))

    def irecv(self, into: Sequence[Any], peer: int, timeout: float | None = None) -> Any:
        work = self.inner.irecv([self._target(one) for one in into], peer, timeout)
        return _HostWork(work, lambda found: [_back(*both) for both in zip(found, into, strict=True)])

    def allreduce(
        self, tensor: Any, op: ReduceOp | str = ReduceOp.SUM, out: Any = None, timeout: float | None = None
    ) -> Any:
        return self._collective(lambda given, to: self.inner.allreduce(given, op, to, timeout), tensor, out)

    def allgather(self, tensor: Any, out: Any = None, timeout: float | None = None) -> Any:
        return self._collective(lambda given, to: self.inner.allgather(given, to, timeout), tensor, out)

    def reducescatter(
        self, tensor: Any, op: ReduceOp | str = ReduceOp.SUM, out: Any = None, timeout: float | None = None
    ) -> Any:
        return self._collective(lambda given, to: self.inner.reducescatter(given, op, to, timeout), tensor, out)

    def broadcast(self, tensor: Any, root: int, timeout: float | None = None) -> Any:
        ours = self.rank == root and not isinstance(tensor, TensorSpec)
        result = self.inner.broadcast(self._device(tensor) if ours else self._target(tensor), root, timeout)
        self.inner.synchronize()
        return tensor if ours else _back(result, tensor)

    def check(self) -> None:
        self.inner.check()

    def synchronize(self) -> None:
        self.inner.synchronize()

    def abort(self, reason: str) -> None:
        self.inner.abort(reason)

    def destroy(self) -> None:
        self.inner.destroy()

    # ---- inside ----

    def _collective(self, operation: Callable[[Any, Any], Any], tensor: Any, out: Any) -> Any:
        given, to = self._both(tensor, out)
        result = operation(given, to)
        self.inner.synchronize()
        if out is not None:
            return _back(result, out)
        return result.cpu().numpy() if isinstance(tensor, np.ndarray) else result.cpu()

    def _both(self, tensor: Any, out: Any) -> tuple[Any, Any]:
        """Both on the device; if they share memory here, there too."""
        if not all(isinstance(one, (np.ndarray, torch.Tensor)) for one in (tensor, out)):
            return self._device(tensor), self._device(out)
        if isinstance(out, np.ndarray) and not out.flags.writeable:
            raise ValueError("out is read-only; expected a writable, contiguous array")
        one, other = _plain(tensor).detach(), _plain(out)
        first = min(one.data_ptr(), other.data_ptr())
        size = max(one.data_ptr() + one.nbytes, other.data_ptr() + other.nbytes) - first
        if size >= one.nbytes + other.nbytes or not (one.is_contiguous() and other.is_contiguous()):
            return self._device(tensor), self._device(out)
        buffer = self._device(torch.empty(size, dtype=torch.uint8))
        views = []
        for plain in (one, other):
            start = plain.data_ptr() - first
            view = buffer[start : start + plain.nbytes].view(plain.dtype).view(plain.shape)
            views.append(view.copy_(plain))
        return views[0], views[1]

    def _device(self, given: Any) -> Any:
        """A copy there; what is no tensor is left as it is, for the communicator to refuse."""
        if not isinstance(given, (np.ndarray, torch.Tensor)):
            return given
        return _plain(given).to(f"cuda:{self.inner.device}")

    def _target(self, into: Any) -> Any:
        return TensorSpec(into.shape, into.dtype, "torch") if isinstance(into, TensorSpec) else self._device(into)


@dataclass(frozen=True)
class _HostWork:
    _work: NcclWork
    _back: Callable[[list[Any]], list[Any]]

    def wait(self) -> list[Any]:
        found = self._work.wait()
        self._work.synchronize()
        return self._back(found)

    def synchronize(self) -> None:
        self._work.synchronize()


def _back(result: torch.Tensor, into: Any) -> Any:
    """What lies on the device, into the tensor that was given here, or as one of that spec."""
    if isinstance(into, TensorSpec):
        return result.cpu().numpy() if into.library == "numpy" else result.cpu()
    _plain(into).copy_(result.cpu())
    return into


def _plain(given: Any) -> torch.Tensor:
    if isinstance(given, torch.Tensor):
        return given
    if not given.dtype.isnative:
        raise TypeError(f"an array of dtype {given.dtype!r}; torch has none in another byte order")
    if not given.flags.writeable or not given.flags.aligned or any(stride < 0 for stride in given.strides):
        given = given.copy()
    return torch.from_numpy(given)


def device_of(communicator: OnHost) -> torch.device:
    """Where the tensors of its `inner` are."""
    return torch.device("cuda", communicator.inner.device)


def exchanged(communicator: OnHost, size: int) -> float:
    """Round the ring, in all ranks at once: what each gets of the rank before it."""
    inner, n = communicator.inner, communicator.world_size
    ours = torch.full((size,), float(inner.rank), device=device_of(communicator))
    spec = TensorSpec((size,), "float32", "torch")
    found = inner.exchange(ours, (inner.rank + 1) % n, spec, (inner.rank - 1) % n, WATCHDOG)
    return float(found.min().item())
