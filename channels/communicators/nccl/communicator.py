"""One rank of a group over NCCL: what is checked, what is launched, what is looked after."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from channels.communicators.base import Communicator
from channels.communicators.coordination.membership import Membership
from channels.communicators.memory import check_apart, check_overlap, check_timeout
from channels.communicators.nccl.cuda import describe
from channels.communicators.nccl.device_tensors import DeviceTensors
from channels.communicators.nccl.handle import END_S, Handle
from channels.communicators.nccl.streams import COLLECTIVE, RECV, SEND, Streams
from channels.communicators.nccl.watchdog import DESERTED, Counts, Flight, Watchdog
from channels.communicators.requests import PAIRED, Kind, Request
from channels.communicators.tensors import DTYPES, ReduceOp, Tensor, TensorSpec, op_code
from channels.errors import DagcError

__all__ = ["NcclCommunicator", "NcclWork"]

#: Seconds between two looks of a host that waits for the device: first, and at most.
_LOOK_S, _SLOWEST_LOOK_S = 20e-6, 1e-3


@dataclass(frozen=True)
class NcclWork:
    """Sends or receives that run on the device. Dropped without `wait`, they run all the same."""

    _communicator: NcclCommunicator
    _done: Any
    _tensors: list[Any]

    def wait(self) -> list[Any]:
        """Let the calling thread's current stream wait for their end, and give the tensors. The host does not wait.

        Raises what has gone wrong by now with the communicator. May be called again, also with another stream.
        """
        tensors: list[Any] = self._communicator._follow(self._done, self._tensors)
        return tensors

    def synchronize(self) -> None:
        """Wait on the host for their end. Raises what has gone wrong with the communicator; Ctrl-C breaks the group."""
        done = self._done
        self._communicator._wait(lambda: done is None or done.query())


class NcclCommunicator(Communicator):
    """One rank. Made by `NcclTransport.join`."""

    transport = "nccl"
    fixed_order = False
    checks_requests = False
    asynchronous = True
    device_type = "cuda"

    def __init__(self, nccl: Any, torch: Any, streams: Streams, membership: Membership, handle: Handle) -> None:
        device = streams.device
        self.name = membership.group.name
        self.rank = membership.rank
        self.world_size = membership.group.world_size
        self.device = device
        self._torch = torch
        self._membership = membership
        self._handle = handle
        self._tensors = DeviceTensors(torch, device)
        self._streams = streams
        self._counts = Counts()
        self._watchdog = Watchdog(membership, handle, self._counts)
        self._dtypes = [getattr(nccl, f"NCCL_{name.upper()}") for name in DTYPES]
        names = {ReduceOp.PRODUCT: "PROD"}
        self._ops = [getattr(nccl, f"NCCL_{names.get(op, op.name)}") for op in ReduceOp]
        self._busy = threading.Lock()
        self._closed = False
        self._pid = os.getpid()

    # ---- operations of two ranks ----

    def send(self, tensor: Tensor, peer: int, timeout: float | None = None) -> None:
        self.isend([tensor], [peer], timeout).wait()

    def recv(self, into: Tensor | TensorSpec, peer: int, timeout: float | None = None) -> Tensor:
        (tensor,) = self.irecv([into], peer, timeout).wait()
        return tensor

    def isend(self, tensors: Sequence[Tensor], peers: Sequence[int], timeout: float | None = None) -> NcclWork:
        for peer in peers:
            self._check_rank("peer", peer, other=True)
        sources = [self._tensors.readable(tensor) for tensor in tensors]
        requests = [_request(Kind.SEND, sources, peer) for peer in peers if sources]

        def call(comm: Any, stream: int) -> None:
            for peer in peers:
                for source, dtype in sources:
                    comm.send(source.data_ptr(), source.numel(), self._dtypes[dtype], peer, stream)

        done = self._launch(requests, [SEND], [source for source, _ in sources], call, timeout)
        return NcclWork(self, done, list(tensors))

    def irecv(self, into: Sequence[Tensor | TensorSpec], peer: int, timeout: float | None = None) -> NcclWork:
        self._check_rank("peer", peer, other=True)
        targets = [self._tensors.writable(one, "into") for one in into]
        requests = [_request(Kind.RECV, targets, peer)] if targets else []

        def call(comm: Any, stream: int) -> None:
            for target, dtype in targets:
                comm.recv(target.data_ptr(), target.numel(), self._dtypes[dtype], peer, stream)

        tensors = [target for target, _ in targets]
        return NcclWork(self, self._launch(requests, [RECV], tensors, call, timeout), tensors)

    def exchange(
        self, tensor: Tensor, to: int, into: Tensor | TensorSpec, source: int, timeout: float | None = None
    ) -> Tensor:
        """Send to one rank and receive from another one, or the same, at once. Returns what was received.

        All ranks of a ring may do it at the same time, where a send and a recv one after the other would wait for ever.
        """
        self._check_rank("to", to, other=True)
        self._check_rank("source", source, other=True)
        ours = self._tensors.readable(tensor)
        theirs = self._tensors.writable(into, "into")
        check_apart(self.name, ours[0], theirs[0])
        requests = [_request(Kind.SEND, [ours], to), _request(Kind.RECV, [theirs], source)]

        def call(comm: Any, sending: int, receiving: int) -> None:
            comm.send(ours[0].data_ptr(), ours[0].numel(), self._dtypes[ours[1]], to, sending)
            comm.recv(theirs[0].data_ptr(), theirs[0].numel(), self._dtypes[theirs[1]], source, receiving)

        done = self._launch(requests, [SEND, RECV], [ours[0], theirs[0]], call, timeout)
        return self._follow(done, theirs[0])

    # ---- operations of all ranks ----

    def allreduce(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        source, dtype = self._tensors.readable(tensor)
        number = op_code(op)
        into = self._tensors.result(out, source, tuple(source.shape))
        check_overlap(self.name, source, into)
        request = Request(Kind.ALLREDUCE, dtype, tuple(source.shape), number)
        arguments = (source.data_ptr(), into.data_ptr(), source.numel(), self._dtypes[dtype], self._ops[number])
        return self._collective(request, source, into, lambda comm, stream: comm.allReduce(*arguments, stream), timeout)

    def allgather(self, tensor: Tensor, out: Tensor | None = None, timeout: float | None = None) -> Tensor:
        source, dtype = self._tensors.readable(tensor)
        shape = tuple(source.shape)
        gathered = (self.world_size * shape[0], *shape[1:]) if shape else (self.world_size,)
        into = self._tensors.result(out, source, gathered)
        check_overlap(self.name, source, into, into_at=self.rank * source.nbytes)
        request = Request(Kind.ALLGATHER, dtype, shape)
        arguments = (source.data_ptr(), into.data_ptr(), source.numel(), self._dtypes[dtype])
        return self._collective(request, source, into, lambda comm, stream: comm.allGather(*arguments, stream), timeout)

    def reducescatter(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        source, dtype = self._tensors.readable(tensor)
        number, shape = op_code(op), tuple(source.shape)
        request = Request(Kind.REDUCESCATTER, dtype, shape, number)
        if not shape or shape[0] % self.world_size:
            raise ValueError(
                f"communicator {self.name}: {request}; expected a first dimension that can be divided by the world "
                f"size {self.world_size}"
            )
        into = self._tensors.result(out, source, (shape[0] // self.world_size, *shape[1:]))
        check_overlap(self.name, source, into, source_at=self.rank * into.nbytes)
        arguments = (source.data_ptr(), into.data_ptr(), into.numel(), self._dtypes[dtype], self._ops[number])
        return self._collective(
            request, source, into, lambda comm, stream: comm.reduceScatter(*arguments, stream), timeout
        )

    def broadcast(self, tensor: Tensor | TensorSpec, root: int, timeout: float | None = None) -> Tensor:
        self._check_rank("root", root)
        ours = self.rank == root
        data, dtype = self._tensors.readable(tensor) if ours else self._tensors.writable(tensor, "tensor")
        request = Request(Kind.BROADCAST, dtype, tuple(data.shape), peer=root)
        arguments = (data.data_ptr(), data.data_ptr(), data.numel(), self._dtypes[dtype], root)
        self._collective(request, data, data, lambda comm, stream: comm.broadcast(*arguments, stream), timeout)
        return tensor if ours else data

    # ---- tensors ----

    def accepts(self, tensor: Tensor) -> TensorSpec:
        dtype = DTYPES[self._tensors.code(tensor)]
        return TensorSpec(tuple(tensor.shape), dtype, "torch")

    def place(self, tensor: Tensor) -> Tensor:
        return tensor.to(f"cuda:{self.device}")

    def empty(self, spec: TensorSpec) -> Tensor:
        tensor, _ = self._tensors.writable(spec, "the spec")
        return tensor

    # ---- errors that come later, and the end ----

    def check(self) -> None:
        self._membership.check_open(destroyed=self._closed)
        self._check_unbroken()

    def synchronize(self) -> None:
        """Wait on the host until every operation of this communicator has ended.

        Raises ChannelTimeout, ChannelBroken or ChannelClosed if one of them has failed. Ctrl-C breaks the group.
        """
        self._wait(self._watchdog.landed)

    def _wait(self, landed: Callable[[], bool]) -> None:
        look = _LOOK_S
        try:
            while not landed():
                self.check()
                time.sleep(look)
                look = min(2 * look, _SLOWEST_LOOK_S)
        except DagcError:
            raise
        except RuntimeError as error:  # of CUDA: the device cannot say
            self._membership.break_(f"rank {self.rank}: {describe(error)}")
            raise self._error() from error
        except BaseException as error:
            self._membership.break_(f"rank {self.rank} was interrupted while it waited for the device: {error!r}")
            raise
        self.check()

    @property
    def stuck(self) -> bool:
        """NCCL could not be ended within 5 s: the device comes back only with the end of this process."""
        return self._handle.stuck

    def abort(self, reason: str) -> None:
        if not self._closed and os.getpid() == self._pid:
            self._membership.break_(reason)
            self._watchdog.finished(END_S)

    def destroy(self) -> None:
        if not self._closed and os.getpid() == self._pid:
            self._closed = True
            self._membership.leave(self._counts.as_message())
            self._watchdog.leave()

    def __del__(self) -> None:
        if hasattr(self, "_pid"):
            self.destroy()

    def __repr__(self) -> str:
        return f"<NcclCommunicator {self.name}, rank {self.rank} of {self.world_size} on cuda:{self.device}>"

    # ---- inside ----

    def _collective(
        self, request: Request, source: Any, into: Any, call: Callable[[Any, int], None], timeout: float | None
    ) -> Any:
        done = self._launch([request], [COLLECTIVE], [source, into], call, timeout)
        if self.waits_on_host is not None and self.waits_on_host():
            self._wait(done.query)
        return self._follow(done, into)

    def _launch(
        self,
        requests: Sequence[Request],
        names: Sequence[str],
        tensors: Sequence[Any],
        call: Callable[..., None],
        timeout: float | None,
    ) -> Any:
        """`call(communicator, handle of each stream)`, as one operation, behind the current stream; its end, an event.

        `requests`: what is looked after; if there are none, nothing is launched, and None returned.
        """
        check_timeout(timeout)
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                f"communicator {self.name} is in use by another call; it belongs to one thread at a time"
            )
        try:
            self._check_usable(requests)
            if not requests:
                return None
            deadline = None if timeout is None else time.monotonic() + timeout
            flights = [Flight(one, self._counts.begin(one), deadline, timeout or 0.0) for one in requests]
            use = self._handle.group if requests[0].kind in PAIRED else self._handle.call
            self._watchdog.watch(flights)
            try:
                with self._torch.cuda.device(self.device):
                    done = self._streams.launch(
                        names, tensors, lambda *streams: use(lambda comm: call(comm, *streams), self._is_broken)
                    )
            except BaseException as error:
                self._watchdog.forget(flights)
                self._membership.break_(f"rank {self.rank} in {requests[0]}: {describe(error)}")
                if isinstance(error, (RuntimeError, KeyError)):
                    raise self._error() from error
                raise
            for flight in flights:
                flight.done = done
            return done
        finally:
            self._busy.release()

    def _follow(self, done: Any, result: Any) -> Any:
        """The result, which may be used on the current stream from now on. Also after `destroy`: it is orderly."""
        self._check_unbroken()
        if done is not None:
            self._streams.follow(done)
        return result

    def _is_broken(self) -> bool:
        return self._membership.verdict is not None

    def _check_unbroken(self) -> None:
        if self._membership.verdict is not None or self._watchdog.deserted is not None:
            raise self._error()

    def _check_usable(self, requests: Sequence[Request]) -> None:
        self._membership.check_open(destroyed=self._closed)
        left, verdict = self._membership.left, self._membership.verdict
        # If another rank has broken the group because somebody left, this one is told of the same cause.
        if verdict is None or verdict.reason.endswith(DESERTED):
            for request in requests if left else ():
                for rank in [request.peer] if request.kind in PAIRED else sorted(left):
                    if rank in left:
                        raise self._membership.gone(rank, request)
        self._check_unbroken()

    def _error(self) -> DagcError:
        """What to raise, once the watchdog has ended what runs on the device."""
        self._watchdog.finished(END_S + 2.0)
        if self._watchdog.deserted is not None:
            return self._membership.gone(*self._watchdog.deserted)
        error = self._membership.error()
        if self._handle.stuck:
            return type(error)(
                f"{error}; NCCL has not ended within {END_S:g} s: end this process, or the device stays occupied"
            )
        return error


def _request(kind: Kind, tensors: Sequence[tuple[Any, int]], peer: int) -> Request:
    """Of tensors that move as one, each with the code of its dtype."""
    tensor, dtype = tensors[0]
    return Request(kind, dtype, tuple(tensor.shape), peer=peer, tensors=len(tensors))
