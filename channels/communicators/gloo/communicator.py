"""One rank of a group over gloo: the operations, and what becomes of them when something goes wrong."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from channels.communicators.base import Communicator
from channels.communicators.coordination.interrupts import Stand
from channels.communicators.coordination.membership import VERDICT_S, Membership
from channels.communicators.declines import with_cause
from channels.communicators.gloo.direct import STALL_S, Direct, reduce
from channels.communicators.gloo.links import Late, Links, Lost
from channels.communicators.gloo.rounds import Answer, NotThere, Rounds
from channels.communicators.memory import byte_tensor, check_overlap, check_timeout, copy, result_memory
from channels.communicators.requests import PAIRED, Kind, Request
from channels.communicators.tensors import (
    ReduceOp,
    Tensor,
    TensorSpec,
    empty_like,
    op_code,
    readable,
    writable,
)
from channels.errors import DagcError, MismatchError

if TYPE_CHECKING:
    import torch

__all__ = ["GlooCommunicator", "interrupted"]

#: The part of an operation that other ranks see; it is given the deadline.
_Move = Callable[[float | None], None]


class GlooCommunicator(Communicator):
    """One rank. Made by `GlooTransport.join`."""

    transport = "gloo"
    fixed_order = True
    checks_requests = True

    def __init__(self, membership: Membership, links: Links, stand: Stand) -> None:
        self.name = membership.group.name
        self.rank = membership.rank
        self.world_size = membership.group.world_size
        self._membership = membership
        self._links = links
        self._stand = stand
        self._rounds = Rounds(links, self.name, self.rank, self.world_size)
        self._direct = Direct(links, self.rank, self.world_size)
        self._busy = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        # Not a reference to this object: dropping it must destroy it.
        membership.on_change = partial(_cut_if_broken, membership, links)
        membership.on_change()

    # ---- operations ----

    def send(self, tensor: Tensor, peer: int, timeout: float | None = None) -> None:
        self._check_rank("peer", peer, other=True)
        memory, dtype, shape = readable(tensor)
        source = byte_tensor(memory)

        def move(deadline: float | None) -> None:
            self._rounds.pair(request, source if source.numel() <= self._rounds.inline else None, deadline)
            if source.numel() > self._rounds.inline:
                self._direct.send(source, peer)

        request = Request(Kind.SEND, dtype, tuple(shape), peer=peer)
        self._run(request, [peer], move, timeout)

    def recv(self, into: Tensor | TensorSpec, peer: int, timeout: float | None = None) -> Tensor:
        self._check_rank("peer", peer, other=True)
        tensor = into.empty() if isinstance(into, TensorSpec) else into
        memory, dtype, shape = writable(tensor, "into")
        target = byte_tensor(memory)

        def move(deadline: float | None) -> None:
            answer = self._rounds.pair(request, None, deadline)
            if target.numel() > self._rounds.inline:
                self._direct.recv(target, peer)
            else:
                copy(target, answer.payload[: target.numel()])

        request = Request(Kind.RECV, dtype, tuple(shape), peer=peer)
        self._run(request, [peer], move, timeout)
        return tensor

    def allreduce(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        memory, dtype, shape = readable(tensor)
        if out is None:
            out = empty_like(tensor, shape)
        source, into = byte_tensor(memory), byte_tensor(result_memory(out, dtype, shape))
        check_overlap(self.name, source, into)
        request = Request(Kind.ALLREDUCE, dtype, tuple(shape), op_code(op))

        def move(deadline: float | None) -> None:
            if source.numel() > self._rounds.inline:
                self._rounds.all(request, {}, deadline)
                self._direct.allreduce(dtype, request.op, source, into)
            else:
                answers = self._rounds.all(request, dict.fromkeys(self._others, source), deadline)
                self._reduce(request, source, answers, into)

        self._run(request, self._others, move, timeout)
        return out

    def allgather(self, tensor: Tensor, out: Tensor | None = None, timeout: float | None = None) -> Tensor:
        memory, dtype, shape = readable(tensor)
        gathered = (self.world_size * shape[0], *shape[1:]) if shape else (self.world_size,)
        if out is None:
            out = empty_like(tensor, gathered)
        source, into = byte_tensor(memory), byte_tensor(result_memory(out, dtype, gathered))
        size = source.numel()
        blocks = {rank: into[rank * size : (rank + 1) * size] for rank in range(self.world_size)}
        check_overlap(self.name, source, into, into_at=self.rank * size)
        request = Request(Kind.ALLGATHER, dtype, tuple(shape))

        def move(deadline: float | None) -> None:
            if size > self._rounds.inline:
                self._rounds.all(request, {}, deadline)
                self._direct.allgather(source, into)
                return
            answers = self._rounds.all(request, dict.fromkeys(self._others, source), deadline)
            for rank, block in blocks.items():
                copy(block, source if rank == self.rank else answers[rank].payload[:size])

        self._run(request, self._others, move, timeout)
        return out

    def reducescatter(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        memory, dtype, shape = readable(tensor)
        request = Request(Kind.REDUCESCATTER, dtype, tuple(shape), op_code(op))
        if not shape or shape[0] % self.world_size:
            # Refused by the operation itself, on all ranks: another one may have another shape.
            self._run(request, self._others, lambda deadline: self._agree(request, deadline), timeout)
            raise ValueError(
                f"communicator {self.name}: {request}; expected a first dimension that can be divided by the world "
                f"size {self.world_size}"
            )
        part = (shape[0] // self.world_size, *shape[1:])
        if out is None:
            out = empty_like(tensor, part)
        source, into = byte_tensor(memory), byte_tensor(result_memory(out, dtype, part))
        size = into.numel()
        blocks = {rank: source[rank * size : (rank + 1) * size] for rank in range(self.world_size)}
        check_overlap(self.name, source, into, source_at=self.rank * size)

        def move(deadline: float | None) -> None:
            if size > self._rounds.inline:
                self._rounds.all(request, {}, deadline)
                self._direct.reducescatter(dtype, request.op, source, into)
            else:
                answers = self._rounds.all(request, blocks, deadline)
                self._reduce(request, blocks[self.rank], answers, into)

        self._run(request, self._others, move, timeout)
        return out

    def broadcast(self, tensor: Tensor | TensorSpec, root: int, timeout: float | None = None) -> Tensor:
        self._check_rank("root", root)
        ours = self.rank == root
        result = tensor.empty() if isinstance(tensor, TensorSpec) and not ours else tensor
        memory, dtype, shape = readable(result) if ours else writable(result, "tensor")
        data = byte_tensor(memory)
        request = Request(Kind.BROADCAST, dtype, tuple(shape), peer=root)

        def move(deadline: float | None) -> None:
            if data.numel() > self._rounds.inline:
                self._rounds.all(request, {}, deadline)
                self._direct.broadcast(data, root)
                return
            answers = self._rounds.all(request, dict.fromkeys(self._others, data) if ours else {}, deadline)
            if not ours:
                copy(data, answers[root].payload[: data.numel()])

        self._run(request, self._others, move, timeout)
        return result

    def decline(self, timeout: float | None = None, cause: bytes = b"") -> None:
        request = Request(Kind.DECLINE, 0, ())
        self._run(request, self._others, lambda deadline: self._agree(request, deadline), timeout, cause)

    # ---- inside ----

    @property
    def _others(self) -> list[int]:
        return [rank for rank in range(self.world_size) if rank != self.rank]

    def _run(self, request: Request, peers: list[int], move: _Move, timeout: float | None, cause: bytes = b"") -> None:
        try:
            self._run_alone(request, peers, move, timeout)
        except MismatchError as error:
            with_cause(self, error, cause, timeout)
            raise

    def _run_alone(self, request: Request, peers: list[int], move: _Move, timeout: float | None) -> None:
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                f"communicator {self.name} is in use by another call; it belongs to one thread at a time"
            )
        try:
            self._check_usable(request, peers)
            self._stand.call(
                lambda: self._attempt(request, lambda: move(deadline), timeout),
                lambda error: self._membership.break_(interrupted(self.rank, str(request), error)),
            )
        finally:
            self._busy.release()

    def _attempt(self, request: Request, move: Callable[[], None], timeout: float | None) -> None:
        """Make the move; what goes wrong in it ends for everybody."""
        try:
            move()
        except NotThere as missing:
            self._membership.late(f"come to this {request}", missing.ranks, timeout or 0.0, 0)
            raise self._membership.error() from missing
        except (Lost, Late) as lost:
            raise self._lost(lost, request) from lost
        except MismatchError:
            raise
        except BaseException as error:
            self._membership.break_(f"rank {self.rank} failed in {request}: {error!r}")
            raise

    def _lost(self, lost: Lost | Late, request: Request) -> DagcError:
        """The reason behind the end of a connection, which the coordinator knows, or hears in a moment."""
        if self._closed:
            return self._membership.destroyed()
        self._membership.settle(lambda: lost.peer in self._membership.left, VERDICT_S)
        if self._membership.verdict is None and lost.peer in self._membership.left:
            return self._membership.gone(lost.peer, request)
        why = f"moved nothing for {STALL_S:g} s" if isinstance(lost, Late) else f"was lost: {lost}"
        self._membership.break_(f"rank {self.rank} in {request}: the connection to rank {lost.peer} {why}")
        return self._membership.error()

    def _check_usable(self, request: Request, peers: list[int]) -> None:
        self._membership.check_open(destroyed=self._closed)
        self._membership.check()
        for peer in peers:
            if peer in self._membership.left:
                if request.kind not in PAIRED:
                    self._rounds.give_up(self._membership.left, peer)
                raise self._membership.gone(peer, request)

    def _reduce(self, request: Request, ours: torch.Tensor, answers: Mapping[int, Answer], into: torch.Tensor) -> None:
        size = ours.numel()
        sources = [ours if rank == self.rank else answers[rank].payload[:size] for rank in range(self.world_size)]
        reduce(request.dtype, request.op, sources, into)

    def _agree(self, request: Request, deadline: float | None) -> None:
        self._rounds.all(request, {}, deadline)

    # ---- the end ----

    def abort(self, reason: str) -> None:
        if not self._closed and os.getpid() == self._pid:
            self._membership.break_(reason)

    def destroy(self) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._membership.leave()
        if not self._busy.acquire(blocking=False):  # another thread is in an operation
            self._links.cut()
            self._busy.acquire()
        self._rounds.close()
        self._links.close()
        self._busy.release()
        self._membership.close()
        self._stand.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.destroy()

    def __repr__(self) -> str:
        return f"<GlooCommunicator {self.name}, rank {self.rank} of {self.world_size}>"


def _cut_if_broken(membership: Membership, links: Links) -> None:
    if membership.verdict is not None:
        links.cut()


def interrupted(rank: int, doing: str, error: BaseException) -> str:
    """The reason with which Ctrl-C breaks a group."""
    return f"rank {rank} was interrupted in {doing}: {error!r}"
