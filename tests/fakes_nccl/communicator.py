"""CuPy's binding of NCCL: `cupy.cuda.nccl`, as far as communicators call it, with the habits of CuPy 14 and of NCCL.

FAKE_CUPY=13 gives those of CuPy 13: unique ids are tuples of signed numbers. NCCL_COMM_BLOCKING=0 makes communicators
non-blocking, as it does with the real ones: calls are in progress for a while, which CuPy reports as KeyError(7).
FAKE_NCCL_CONFIG=1 gives what no CuPy has yet: NcclConfig(blocking=0).
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Callable
from typing import Any

import torch

from tests.fakes_nccl import fabric, memory, streams
from tests.fakes_nccl.faults import calls, faults, violations

NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)
NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_UINT32, NCCL_INT64, NCCL_UINT64, NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = (
    range(9)
)
NCCL_BFLOAT16 = 9
_DTYPES = {
    NCCL_INT32: torch.int32,
    NCCL_INT64: torch.int64,
    NCCL_FLOAT16: torch.float16,
    NCCL_FLOAT32: torch.float32,
    NCCL_FLOAT64: torch.float64,
    NCCL_BFLOAT16: torch.bfloat16,
}
_SIZES = {dtype: torch.empty(0, dtype=found).element_size() for dtype, found in _DTYPES.items()}
_ERRORS = {
    1: "NCCL_ERROR_UNHANDLED_CUDA_ERROR: unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
    2: "NCCL_ERROR_SYSTEM_ERROR: unhandled system error (run with NCCL_DEBUG=INFO for details)",
    3: "NCCL_ERROR_INTERNAL_ERROR: internal error - please report this issue to the NCCL developers",
    4: "NCCL_ERROR_INVALID_ARGUMENT: invalid argument (run with NCCL_DEBUG=WARN for details)",
    5: "NCCL_ERROR_INVALID_USAGE: invalid usage (run with NCCL_DEBUG=WARN for details)",
    6: "NCCL_ERROR_REMOTE_ERROR: remote process exited or there was a network error",
}
_IN_PROGRESS = 7
_ID_BYTES = 128
#: Kind, dtype, op or root, count.
_REQUEST = "=BBxxixxxxQ"

available = True

_roots: list[fabric.Root] = []
_alive: list[NcclCommunicator] = []
_group = threading.local()


class NcclError(RuntimeError):
    """As CuPy's: the constructor raises KeyError for a status that it does not know."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(_ERRORS[status])


class NcclConfig:
    """As CuPy 14's, which has only this; with FAKE_NCCL_CONFIG also what it lacks."""

    def __init__(self, *, split_share: int = 0, blocking: int | None = None) -> None:
        if blocking is not None and not os.environ.get("FAKE_NCCL_CONFIG"):
            raise TypeError("__init__() got an unexpected keyword argument 'blocking'")
        self.split_share = split_share
        self.blocking = blocking


def get_version() -> int:
    return int(os.environ.get("FAKE_NCCL_VERSION", "22705"))


def get_unique_id() -> Any:
    root = fabric.Root()
    _roots.append(root)
    data = root.name.encode().ljust(_ID_BYTES, b"\0")
    return tuple(part - 256 if part > 127 else part for part in data) if _is_13() else data


def groupStart() -> None:  # noqa: N802 - CuPy's name
    _group.depth = getattr(_group, "depth", 0) + 1
    if _group.depth == 1:
        _group.operations = []


def groupEnd() -> None:  # noqa: N802 - CuPy's name
    if not getattr(_group, "depth", 0):
        raise NcclError(5)
    _group.depth -= 1
    if _group.depth == 0:
        operations, _group.operations = _group.operations, []
        calls.append(("group", len(operations), 0))
        by_comm: dict[NcclCommunicator, list[_Operation]] = {}
        for operation in operations:
            by_comm.setdefault(operation.comm, []).append(operation)
        for comm, its in by_comm.items():
            comm._enqueue(its)


class _Operation:
    """One call: what it does, on which stream, in which memory."""

    def __init__(self, comm: NcclCommunicator, name: str, stream: int, count: int, dtype: int, number: int) -> None:
        self.comm = comm
        self.name = name
        self.count = count
        self.dtype = dtype
        #: The op, the root or the peer.
        self.number = number
        try:
            self.stream = streams.by_handle(stream)
        except KeyError:
            raise NcclError(1) from None
        #: (address, bytes) of what is read and written.
        self.source: tuple[int, int] | None = None
        self.into: tuple[int, int] | None = None

    def request(self) -> bytes:
        """What must be the same on the other ranks."""
        if self.name in ("send", "recv"):
            return struct.pack(_REQUEST, 0, self.dtype, 0, self.count)
        kind = ("allReduce", "allGather", "reduceScatter", "broadcast").index(self.name) + 1
        return struct.pack(_REQUEST, kind, self.dtype, self.number, self.count)


class NcclCommunicator:
    """One rank. Waits for ever for ranks that do not come."""

    #: The handle; CuPy's has this attribute, too.
    comm = 0

    def __init__(self, ndev: int, commId: Any, rank: int, config: NcclConfig | None = None) -> None:  # noqa: N803
        if not isinstance(commId, tuple if _is_13() else bytes):
            raise TypeError(f"Argument 'commId' has incorrect type, got {type(commId).__name__}")
        if len(commId) != _ID_BYTES or not 0 <= rank < ndev:
            raise NcclError(4)
        self._size, self._rank = ndev, rank
        self._device = streams.current_device()
        self._stop = fabric.Stop()
        self._connections: dict[int, list[fabric.Connection]] = {}
        self._met: set[int] = set()
        self._last: threading.Event | None = None
        self._under_way = 0
        self._changed = threading.Condition()
        self._on_host = threading.Lock()
        self._error = 0
        self._state = _IN_PROGRESS
        self._blocking = (
            not (config is not None and config.blocking == 0) and os.environ.get("NCCL_COMM_BLOCKING") != "0"
        )
        self.comm = id(self)
        _alive.append(self)
        root = bytes(part & 0xFF for part in commId).rstrip(b"\0").decode()
        if self._blocking:
            self._connect(root)
            if self._state:
                self._clear()
                raise NcclError(self._state)
        else:
            threading.Thread(target=self._connect, args=(root,), name="fake-nccl-init", daemon=True).start()
            raise NcclError(_IN_PROGRESS)

    def _connect(self, root: str) -> None:
        with self._on_host:
            try:
                faults.may_init.wait()
                found = fabric.connect(root, self._rank, self._size, streams.physical(self._device), self._stop)
                self._connections = {rank: ends for rank, (_, ends) in found.items() if rank != self._rank}
                devices = [said["device"] for said, _ in found.values()]
                self._state = 5 if len(set(devices)) < len(devices) else 0  # "Duplicate GPU detected"
            except fabric.Aborted:
                self._state = 3
            except OSError:
                self._state = 6

    # ---- operations ----

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:  # noqa: N802
        self._begin("allReduce", stream, count, datatype, op, (sendbuf, count), (recvbuf, count))

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:  # noqa: N802
        self._begin("allGather", stream, count, datatype, 0, (sendbuf, count), (recvbuf, count * self._size))

    def reduceScatter(self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int) -> None:  # noqa: N802
        self._begin(
            "reduceScatter", stream, recvcount, datatype, op, (sendbuf, recvcount * self._size), (recvbuf, recvcount)
        )

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        self._begin("broadcast", stream, count, datatype, root, (sendbuff, count), (recvbuff, count))

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._begin("send", stream, count, datatype, peer, (sendbuf, count), None)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._begin("recv", stream, count, datatype, peer, None, (recvbuf, count))

    def check_async_error(self) -> None:
        if not self.comm:
            raise NcclError(4)
        if self._state or self._error or faults.async_error:
            raise NcclError(self._state or self._error or faults.async_error)

    # ---- the end ----

    def abort(self) -> None:
        """Ends what runs here. Nobody else hears of it."""
        if self.comm:
            faults.may_end.wait()
            self._stop.set()
            with self._on_host:  # a call that waits for a rank comes back by this
                pass
            with self._changed:
                self._changed.wait_for(lambda: not self._under_way)
            self._clear()

    def destroy(self) -> None:
        """Waits for what runs, and for all ranks to do the same."""
        if self.comm:
            faults.may_end.wait()
            with self._changed:
                self._changed.wait_for(lambda: not self._under_way or self._stop.is_set)
            hosts = {rank: ends[1] for rank, ends in self._connections.items()}
            for one in hosts.values():
                one.put(b"X")
            try:
                self._await(b"X", hosts)
            except fabric.Aborted:
                return
            self._clear()

    def __del__(self) -> None:
        if self.comm:
            violations.append(
                "a communicator was collected before it was destroyed or aborted: ncclCommDestroy may hang"
            )

    def _clear(self) -> None:
        self.comm = 0
        for ends in self._connections.values():
            for one in ends:
                one.close()
        self._stop.close()
        if self in _alive:
            _alive.remove(self)

    # ---- inside ----

    def _begin(
        self,
        name: str,
        stream: int,
        count: int,
        dtype: int,
        number: int,
        source: tuple[int, int] | None,
        into: tuple[int, int] | None,
    ) -> None:
        if not self.comm or dtype not in _SIZES:
            raise NcclError(4)
        if self._state == _IN_PROGRESS:
            raise NcclError(5)  # "Attempt to use communicator before the previous operation returned ncclSuccess"
        if name in faults.refuses:
            raise NcclError(faults.refuses.pop(name))
        operation = _Operation(self, name, stream, count, dtype, number)
        if operation.stream.index != self._device:
            raise NcclError(1)
        if name in ("send", "recv", "broadcast") and not 0 <= number < self._size:
            raise NcclError(4)
        operation.source, operation.into = self._checked(source, dtype), self._checked(into, dtype)
        calls.append((name, count, operation.stream.number))
        if getattr(_group, "depth", 0):
            _group.operations.append(operation)
        else:
            self._enqueue([operation])

    def _checked(self, memory_of: tuple[int, int] | None, dtype: int) -> tuple[int, int] | None:
        """In bytes. Like NCCL_CHECK_POINTERS=1."""
        if memory_of is None:
            return None
        address, size = memory_of[0], memory_of[1] * _SIZES[dtype]
        if size:
            block = memory.block_at(address, size)
            if block is None or block.device != self._device:
                raise NcclError(4)
        return address, size

    def _enqueue(self, operations: list[_Operation]) -> None:
        """One kernel of all of them, on all of their streams, behind the kernel before it."""
        if not self._on_host.acquire(blocking=False):
            violations.append("a communicator was used by two threads at once")
            self._on_host.acquire()
        try:
            self._meet({one.number for one in operations if one.name in ("send", "recv")} - {self._rank})
            used = list({one.stream: None for one in operations})
            before, over = self._last, threading.Event()
            self._last = over
            ranges = [
                (part[0], part[0] + part[1], one.stream, one.name)
                for one in operations
                for part in (one.source, one.into)
                if part is not None and part[1]
            ]
            end_use = memory.begin_use(ranges)
            with self._changed:
                self._under_way += 1
            came = [threading.Event() for _ in used]

            def kernel() -> None:
                try:
                    for one in came[1:]:
                        self._unless_stopped(one)
                    if before is not None:
                        self._unless_stopped(before)
                    self._unless_stopped(faults.may_run)
                    self._run(operations)
                except fabric.Aborted:
                    pass
                finally:
                    end_use()
                    over.set()
                    with self._changed:
                        self._under_way -= 1
                        self._changed.notify_all()

            used[0].enqueue(kernel)
            for stream, arrived in zip(used[1:], came[1:], strict=True):
                stream.enqueue(arrived.set)
                stream.enqueue(over.wait)
        finally:
            self._on_host.release()
        if not self._blocking:
            # In progress until the next look.
            self._state = _IN_PROGRESS
            threading.Thread(target=self._taken, daemon=True).start()
            raise NcclError(_IN_PROGRESS)

    def _taken(self) -> None:
        self._state = 0

    def _meet(self, peers: set[int]) -> None:
        """The first send or recv of two ranks connects them: the host waits for the other one."""
        hosts = {rank: self._connections[rank][1] for rank in peers - self._met}
        for one in hosts.values():
            one.put(b"H")
        try:
            self._await(b"H", hosts)
        except fabric.Aborted:
            raise NcclError(3) from None
        self._met |= peers

    def _await(self, kind: bytes, hosts: dict[int, fabric.Connection]) -> None:
        missing = dict(hosts)

        def done() -> bool:
            for rank, one in list(missing.items()):
                if one.take(kind) is not None:
                    del missing[rank]
            return not missing and all(one.sent for one in hosts.values())

        fabric.until(done, list(hosts.values()), self._stop, lambda: None)

    def _unless_stopped(self, event: threading.Event) -> None:
        while not event.wait(0.002):
            if self._stop.is_set:
                raise fabric.Aborted

    def _died(self) -> None:
        if faults.notices_deaths:
            self._error = 6

    # ---- kernels, in the thread of a stream ----

    def _run(self, operations: list[_Operation]) -> None:
        paired = [one for one in operations if one.name in ("send", "recv")]
        for one in operations:
            if one not in paired:
                self._collective(one)
        if paired:
            self._pairs(paired)

    def _collective(self, one: _Operation) -> None:
        assert one.source is not None
        assert one.into is not None
        if one.count == 0:
            return  # NCCL meets nobody for nothing
        mine = _read(one.source)
        ends = {rank: both[0] for rank, both in self._connections.items()}
        for end in ends.values():
            silent = one.name == "broadcast" and one.number != self._rank
            end.put(b"C", one.request() + (b"" if silent else mine))
        theirs: dict[int, bytes] = {}

        def done() -> bool:
            for rank, end in ends.items():
                if rank not in theirs and (frame := end.take(b"C")) is not None:
                    theirs[rank] = frame
            return len(theirs) == len(ends) and all(end.sent for end in ends.values())

        fabric.until(done, list(ends.values()), self._stop, self._died)
        head = len(one.request())
        if any(frame[:head] != one.request() for frame in theirs.values()):
            # The ranks disagree. The real one computes something, or waits: this one waits.
            fabric.until(lambda: False, [], self._stop, lambda: None)
        parts = [theirs[rank][head:] if rank != self._rank else mine for rank in range(self._size)]
        _write(one.into, _result(one, parts, self._rank))

    def _pairs(self, operations: list[_Operation]) -> None:
        """A recv says that it is there; a send waits for that, and then sends."""
        ends = {one.number: self._connections[one.number][0] for one in operations if one.number != self._rank}
        sends = [one for one in operations if one.name == "send"]
        recvs = [one for one in operations if one.name == "recv"]
        for one in recvs:
            ends[one.number].put(b"R", one.request())
        refused: list[bool] = []

        def done() -> bool:
            for one in list(sends):
                if any(other.number == one.number for other in sends[: sends.index(one)]):
                    continue  # in their order
                if (ready := ends[one.number].take(b"R")) is not None:
                    sends.remove(one)
                    if ready != one.request():
                        refused.append(True)
                        continue
                    assert one.source is not None
                    ends[one.number].put(b"D", _read(one.source))
            for one in list(recvs):
                if any(other.number == one.number for other in recvs[: recvs.index(one)]):
                    continue
                if (data := ends[one.number].take(b"D")) is not None:
                    recvs.remove(one)
                    assert one.into is not None
                    _write(one.into, data)
            return not refused and not sends and not recvs and all(end.sent for end in ends.values())

        fabric.until(done, list(ends.values()), self._stop, self._died)


def _result(one: _Operation, parts: list[bytes], rank: int) -> bytes:
    if one.name == "broadcast":
        return parts[one.number]
    if one.name == "allGather":
        return b"".join(parts)
    dtype = _DTYPES[one.dtype]
    tensors = [torch.frombuffer(bytearray(part), dtype=dtype) for part in parts]
    if one.name == "reduceScatter":
        tensors = [tensor[rank * one.count : (rank + 1) * one.count] for tensor in tensors]
    if one.number == NCCL_AVG and dtype.is_floating_point:
        tensors = [tensor * (1 / len(tensors)) for tensor in tensors]  # before the sum, as NCCL: no overflow
    total = tensors[0]
    combine: dict[int, Callable[..., torch.Tensor]] = {
        NCCL_SUM: torch.add,
        NCCL_AVG: torch.add,
        NCCL_PROD: torch.mul,
        NCCL_MIN: torch.fmin,  # which ignores a NaN
        NCCL_MAX: torch.fmax,
    }
    for tensor in tensors[1:]:  # in the tensor's own precision, which is worse than it need be
        total = combine[one.number](total, tensor)
    if one.number == NCCL_AVG and not dtype.is_floating_point:
        total = torch.div(total, len(tensors), rounding_mode="trunc")
    return total.to(dtype).contiguous().view(torch.uint8).numpy().tobytes()


def _read(where: tuple[int, int]) -> bytes:
    return ctypes.string_at(*where)


def _write(where: tuple[int, int], data: bytes) -> None:
    assert len(data) == where[1], f"{len(data)} bytes for {where[1]}"
    ctypes.memmove(where[0], data, len(data))


def _is_13() -> bool:
    return os.environ.get("FAKE_CUPY") == "13"


def exported() -> list[str]:
    """The names that the binding has."""
    names = [name for name in globals() if name.startswith("NCCL_")]
    names += ["NcclCommunicator", "NcclError", "available", "get_unique_id", "get_version", "groupEnd", "groupStart"]
    return names if _is_13() else [*names, "NcclConfig"]


def shutdown() -> None:
    """End what this process still has."""
    for root in _roots:
        root.close()
    _roots.clear()
    for comm in _alive:
        faults.may_end.set()
        comm.abort()
