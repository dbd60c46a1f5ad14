"""AgreedTransport: a transport that does not compare what its ranks ask for, made one that does.

    AgreedTransport(NcclTransport())     NCCL between the GPUs of one machine

Ranks that ask NCCL for different things hang, or get wrong numbers, and an exception on one rank leaves the others
waiting on their GPUs. Here the ranks first say to each other what they are about to do, on the host, by shared memory
(an allgather of 84 bytes); only what all agree on is begun. So a mismatch is a MismatchError on every rank, and
`decline` works, and the group is as before.

The price: the hosts meet at each operation, so none of them can be more than one operation ahead of the others; the
GPUs go on meanwhile. The rejected alternative, dummy tensors of a rank that has none, needs shapes known beforehand and
finds no mismatch. Of sends and receives the two ranks agree.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from channels.communicators.base import Communicator, GroupHandle, Transport
from channels.communicators.declines import with_cause
from channels.communicators.memory import check_overlap
from channels.communicators.requests import PACKED, PAIRED, Kind, Request, mismatch
from channels.communicators.shm import ShmTransport
from channels.communicators.tensors import DTYPES, ReduceOp, Tensor, TensorSpec, op_code
from channels.errors import ChannelBroken, ChannelClosed, MismatchError

__all__ = ["AgreedCommunicator", "AgreedGroup", "AgreedTransport"]

_LENGTH = struct.Struct("<I")


class AgreedGroup(GroupHandle):
    """The creator's handle of both groups."""

    def __init__(self, inner: GroupHandle, by: GroupHandle) -> None:
        self._groups = (inner, by)
        self.world_size = inner.world_size
        self.id = _LENGTH.pack(len(inner.id)) + inner.id + by.id

    def abort(self, reason: str) -> None:
        for group in self._groups:
            group.abort(reason)

    def destroy(self) -> None:
        for group in self._groups:
            group.destroy()


@dataclass(frozen=True)
class AgreedTransport(Transport):
    """`inner`, whose ranks agree `by` another transport, which reaches all of them."""

    name: ClassVar[str] = "agreed"

    inner: Transport
    by: Transport = field(default_factory=ShmTransport)

    def create(self, world_size: int, name: str = "group") -> AgreedGroup:
        inner = self.inner.create(world_size, name)
        try:
            return AgreedGroup(inner, self.by.create(world_size, name))
        except BaseException:
            inner.destroy()
            raise

    def join(self, group_id: bytes, rank: int, world_size: int, timeout: float | None = None) -> AgreedCommunicator:
        """As Transport.join, of both groups."""
        end = _LENGTH.size
        if len(group_id) < end or len(group_id) < end + _LENGTH.unpack_from(group_id)[0]:
            raise ValueError(f"a group id of {len(group_id)} bytes, which is not of an AgreedTransport")
        end += _LENGTH.unpack_from(group_id)[0]
        deadline = None if timeout is None else time.monotonic() + timeout
        by = self.by.join(group_id[end:], rank, world_size, timeout)
        try:
            inner = self.inner.join(group_id[_LENGTH.size : end], rank, world_size, _left(deadline))
        except BaseException as error:
            by.abort(f"rank {rank} could not join: {error}")
            by.destroy()
            raise
        return AgreedCommunicator(inner, by)


class AgreedCommunicator(Communicator):
    """One rank."""

    transport = "agreed"
    checks_requests = True

    def __init__(self, inner: Communicator, by: Communicator) -> None:
        self.name, self.rank, self.world_size = inner.name, inner.rank, inner.world_size
        self.fixed_order = inner.fixed_order
        self.asynchronous = inner.asynchronous
        self.device_type = inner.device_type
        self._inner = inner
        self._by = by
        self._said = np.empty(self.world_size * PACKED // 4, np.int32)

    @property
    def waits_on_host(self) -> Callable[[], bool] | None:
        return self._inner.waits_on_host

    @waits_on_host.setter
    def waits_on_host(self, asked: Callable[[], bool] | None) -> None:
        self._inner.waits_on_host = asked

    # ---- operations of two ranks ----

    def send(self, tensor: Tensor, peer: int, timeout: float | None = None) -> None:
        self._check_rank("peer", peer, other=True)
        request = _request(Kind.SEND, self.accepts(tensor), peer=peer)
        self._agreed(request, lambda left: self._inner.send(tensor, peer, left), timeout)

    def recv(self, into: Tensor | TensorSpec, peer: int, timeout: float | None = None) -> Tensor:
        self._check_rank("peer", peer, other=True)
        spec, tensor = self._target(into)
        request = _request(Kind.RECV, spec, peer=peer)
        return self._agreed(request, lambda left: self._inner.recv(tensor, peer, left), timeout)

    # ---- operations of all ranks ----

    def allreduce(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        spec = self.accepts(tensor)
        self._check_out(out, spec, spec.shape, tensor)
        request = _request(Kind.ALLREDUCE, spec, op_code(op))
        return self._agreed(request, lambda left: self._inner.allreduce(tensor, op, out, left), timeout)

    def allgather(self, tensor: Tensor, out: Tensor | None = None, timeout: float | None = None) -> Tensor:
        spec = self.accepts(tensor)
        first, *others = spec.shape or (1,)
        self._check_out(out, spec, (self.world_size * first, *others), tensor, into=self.rank * spec.nbytes)
        request = _request(Kind.ALLGATHER, spec)
        return self._agreed(request, lambda left: self._inner.allgather(tensor, out, left), timeout)

    def reducescatter(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        spec = self.accepts(tensor)
        request = _request(Kind.REDUCESCATTER, spec, op_code(op))
        if not spec.shape or spec.shape[0] % self.world_size:
            self._agree(request, timeout)  # another rank may have another shape, and all shall hear of that
            raise ValueError(
                f"communicator {self.name}: {request}; expected a first dimension that can be divided by the world "
                f"size {self.world_size}"
            )
        part = self.rank * (spec.nbytes // self.world_size)
        self._check_out(out, spec, (spec.shape[0] // self.world_size, *spec.shape[1:]), tensor, source=part)
        return self._agreed(request, lambda left: self._inner.reducescatter(tensor, op, out, left), timeout)

    def broadcast(self, tensor: Tensor | TensorSpec, root: int, timeout: float | None = None) -> Tensor:
        self._check_rank("root", root)
        spec, tensor = (self.accepts(tensor), tensor) if self.rank == root else self._target(tensor)
        request = _request(Kind.BROADCAST, spec, peer=root)
        return self._agreed(request, lambda left: self._inner.broadcast(tensor, root, left), timeout)

    def decline(self, timeout: float | None = None, cause: bytes = b"") -> None:
        self._agree(Request(Kind.DECLINE, 0, ()), timeout, cause)

    # ---- the rest ----

    def accepts(self, tensor: Tensor) -> TensorSpec:
        return self._inner.accepts(tensor)

    def place(self, tensor: Tensor) -> Tensor:
        return self._inner.place(tensor)

    def empty(self, spec: TensorSpec) -> Tensor:
        return self._inner.empty(spec)

    def check(self) -> None:
        self._inner.check()

    def synchronize(self) -> None:
        self._inner.synchronize()

    def abort(self, reason: str) -> None:
        self._by.abort(reason)
        self._inner.abort(reason)

    def destroy(self) -> None:
        self._by.destroy()
        self._inner.destroy()

    def __repr__(self) -> str:
        return f"<AgreedCommunicator of {self._inner!r}>"

    # ---- inside ----

    def _agree(self, request: Request, timeout: float | None, cause: bytes = b"") -> None:
        """Returns when all ranks ask for the same, or the peer for the other half. Raises MismatchError on all of them
        if they do not."""
        try:
            asked, same = self._ask(request, timeout)
            if not same:
                raise with_cause(self._by, mismatch(self.name, asked), cause, timeout)
        except (ChannelBroken, ChannelClosed, TimeoutError) as failed:
            self._inner.abort(f"rank {self.rank} in {request}: {failed}")
            raise

    def _ask(self, request: Request, timeout: float | None) -> tuple[dict[int, Request], bool]:
        """What the ranks ask for that take part, and whether it fits together."""
        try:
            if request.kind in PAIRED:
                theirs = self._exchange(request, timeout)
                return {self.rank: request, request.peer: theirs}, request.meets(self.rank, theirs, request.peer)
            asked = self._gather(request, timeout)
            return asked, not asked
        except MismatchError:
            # A send met an operation of all. Every rank knows that now, and asks what it was.
            return self._gather(request, timeout), False

    def _gather(self, request: Request, timeout: float | None) -> dict[int, Request]:
        """What each rank asks for; nothing if it is the same."""
        ours = request.pack()
        said = self._by.allgather(np.frombuffer(ours, np.int32), self._said, timeout).tobytes()
        if said == ours * self.world_size:
            return {}
        return {at // PACKED: Request.unpack(said[at : at + PACKED]) for at in range(0, len(said), PACKED)}

    def _exchange(self, request: Request, timeout: float | None) -> Request:
        """The request of the peer. Who sends speaks first."""
        ours = np.frombuffer(request.pack(), np.int32)
        theirs = np.empty_like(ours)
        deadline = None if timeout is None else time.monotonic() + timeout
        if request.kind is Kind.SEND:
            self._by.send(ours, request.peer, timeout)
        self._by.recv(theirs, request.peer, timeout)
        if request.kind is Kind.RECV:
            self._by.send(ours, request.peer, _left(deadline))
        return Request.unpack(theirs.tobytes())

    def _agreed(self, request: Request, make: Callable[[float | None], Tensor], timeout: float | None) -> Tensor:
        deadline = None if timeout is None else time.monotonic() + timeout
        self.check()  # else the others would begin what this rank cannot
        self._agree(request, timeout)
        try:
            return make(_left(deadline))
        except BaseException as error:
            # The others have begun it.
            self.abort(f"rank {self.rank} failed in {request}: {error!r}")
            raise

    def _target(self, into: Tensor | TensorSpec) -> tuple[TensorSpec, Tensor]:
        """Where a tensor goes, made or looked at before the others are told that this rank takes part."""
        tensor = self._inner.empty(into) if isinstance(into, TensorSpec) else into
        spec = into if isinstance(into, TensorSpec) else self.accepts(into)
        self._check_out(tensor, spec, spec.shape, None)
        return spec, tensor

    def _check_out(
        self,
        out: Tensor | None,
        like: TensorSpec,
        shape: tuple[int, ...],
        tensor: Tensor | None,
        source: int = 0,
        into: int = 0,
    ) -> None:
        """Before the others hear of it: `out` is a contiguous tensor of that shape and the dtype of `like`, and has no
        memory in common with `tensor`, but where byte `source` of that is byte `into` of `out`."""
        if out is None:
            return
        found = self.accepts(out)
        if (found.dtype, found.shape) != (like.dtype, shape):
            raise ValueError(f"out is {found}; expected {TensorSpec(shape, like.dtype, found.library)}, as the result")
        if not _contiguous(out) or (isinstance(out, np.ndarray) and not out.flags.writeable):
            raise ValueError("out is not writable and contiguous; pass one that is, and copy from it")
        if tensor is not None and _contiguous(tensor):  # else a copy of it is read
            check_overlap(self.name, tensor, out, source_at=source, into_at=into)


def _contiguous(tensor: Tensor) -> bool:
    return bool(tensor.flags.c_contiguous if isinstance(tensor, np.ndarray) else tensor.is_contiguous())


def _request(kind: Kind, spec: TensorSpec, op: int = 0, peer: int = -1) -> Request:
    return Request(kind, DTYPES.index(spec.dtype), spec.shape, op, peer)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
