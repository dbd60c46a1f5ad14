"""Communicators between the processes of one machine, in shared memory (csrc/collective.h).

The group's memory lies in the arena of its creator: sealed, nameless, gone with its last user. Ranks copy into it what
others need, and reduce disjoint parts of it in parallel; nobody serves anybody, and an idle group costs nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from channels import _ring, shm
from channels.communicators.base import Communicator, GroupHandle, Transport
from channels.communicators.declines import with_cause
from channels.communicators.tensors import (
    DTYPES,
    Memory,
    ReduceOp,
    Tensor,
    TensorSpec,
    empty_like,
    op_code,
    readable,
    writable,
)
from channels.errors import MismatchError

__all__ = ["MAX_WORLD_SIZE", "ShmCommunicator", "ShmGroup", "ShmTransport"]

#: Ranks of one group.
MAX_WORLD_SIZE = 128

#: The kinds of operations, as in csrc/collective.h.
_JOIN, _ALLREDUCE, _ALLGATHER, _REDUCESCATTER, _BROADCAST, _SEND, _RECV = range(7)
_REDUCING = (_ALLREDUCE, _REDUCESCATTER)
_KINDS = ("join", "allreduce", "allgather", "reducescatter", "broadcast", "send", "recv")
_OPS = tuple(op.value for op in ReduceOp)

#: An id: this mark, the world size, the address (pid, fd, key, block, generation), then the name.
_MARK = b"dshm"
_ID = struct.Struct("<4sIIiQQQ")

#: A rank, and what it asked for: kind, dtype, op, peer, number of dimensions, the first eight dimensions.
_Asked = tuple[int, int, int, int, int, int, tuple[int, ...]]


@dataclass(frozen=True)
class ShmTransport(Transport):
    """Shared memory. Options are for measurements; the defaults suit tensors of all sizes."""

    name: ClassVar[str] = "shm"

    #: Bytes of a tile; a rank has memory for three of them. Measured: two ranks reduce 16 MiB in the same time with 96
    #: to 192 KiB; with half of that, or twice that, it takes longer.
    stage_bytes: int = 128 * 1024
    #: Bytes up to which all ranks exchange everything in one step; None: as suits the machine. A rank has memory for
    #: two of them. Measured: one step is quicker than two up to 1 KiB if each rank has a core; up to 8 KiB if they take
    #: turns, for then a step costs as many changes of process.
    flat_bytes: int | None = None

    def create(self, world_size: int, name: str = "group") -> ShmGroup:
        """Raises ArenaFullError if there is no memory."""
        if not 1 <= world_size <= MAX_WORLD_SIZE:
            raise ValueError(f"world_size={world_size}; expected 1 to {MAX_WORLD_SIZE}")
        flat = self.flat_bytes
        if flat is None:
            flat = 1024 if world_size <= len(os.sched_getaffinity(0)) else 8192
        return ShmGroup(_ring.Group(world_size, _lines(flat), _lines(self.stage_bytes)), world_size, name)

    def join(self, group_id: bytes, rank: int, world_size: int, timeout: float | None = None) -> ShmCommunicator:
        address, size, name = _parse(group_id)
        if size != world_size:
            raise ValueError(f"communicator {name}: world_size={world_size}, but the group was made for {size} ranks")
        if not 0 <= rank < world_size:
            raise ValueError(f"communicator {name}: rank={rank}; expected 0 to {world_size - 1}")
        yield_us = shm.YIELD_US_UNDER_QUOTA if shm.cpu_quota() else shm.YIELD_US
        member = _ring.Member(name, address, world_size, rank, yield_us)
        try:
            member.run(_JOIN, 0, 0, 0, (), None, None, timeout)
        except BaseException:
            member.leave()
            raise
        return ShmCommunicator(member, name, rank, world_size)


class ShmGroup(GroupHandle):
    """Its memory. Dropping it breaks the group."""

    def __init__(self, group: _ring.Group, world_size: int, name: str) -> None:
        self._group: _ring.Group | None = group
        self.world_size = world_size
        self.name = name
        self.id = _ID.pack(_MARK, world_size, *group.address) + name.encode(errors="replace")

    def abort(self, reason: str) -> None:
        group = self._group  # looked at once: another thread may destroy it
        if group is not None:
            group.abort(_reason(reason))

    def waits(self) -> dict[int, int]:
        """Which ranks wait in this moment, asleep, and for which other ones. A circle of them waits for ever."""
        group = self._group
        return {} if group is None else group.waits()

    def destroy(self) -> None:
        self._group = None  # whose end breaks it

    def __repr__(self) -> str:
        return f"<ShmGroup {self.name} of {self.world_size}>"


class ShmCommunicator(Communicator):
    """One rank. Made by `ShmTransport.join`."""

    transport = "shm"
    fixed_order = True
    checks_requests = True

    def __init__(self, member: _ring.Member, name: str, rank: int, world_size: int) -> None:
        self._member = member
        self.name = name
        self.rank = rank
        self.world_size = world_size

    def send(self, tensor: Tensor, peer: int, timeout: float | None = None) -> None:
        self._check_rank("peer", peer, other=True)
        memory, dtype, shape = readable(tensor)
        self._run(_SEND, dtype, 0, peer, shape, memory, None, timeout)

    def recv(self, into: Tensor | TensorSpec, peer: int, timeout: float | None = None) -> Tensor:
        self._check_rank("peer", peer, other=True)
        tensor = into.empty() if isinstance(into, TensorSpec) else into
        memory, dtype, shape = writable(tensor, "into")
        self._run(_RECV, dtype, 0, peer, shape, None, memory, timeout)
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
        into = _result(out, dtype, shape)
        self._run(_ALLREDUCE, dtype, op_code(op), 0, shape, memory, into, timeout)
        return out

    def allgather(self, tensor: Tensor, out: Tensor | None = None, timeout: float | None = None) -> Tensor:
        memory, dtype, shape = readable(tensor)
        gathered = (self.world_size * shape[0], *shape[1:]) if shape else (self.world_size,)
        if out is None:
            out = empty_like(tensor, gathered)
        self._run(_ALLGATHER, dtype, 0, 0, shape, memory, _result(out, dtype, gathered), timeout)
        return out

    def reducescatter(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        memory, dtype, shape = readable(tensor)
        into: Memory = bytearray()
        if shape and shape[0] % self.world_size == 0:
            part = (shape[0] // self.world_size, *shape[1:])
            if out is None:
                out = empty_like(tensor, part)
            into = _result(out, dtype, part)
        # What cannot be divided is refused by the operation itself, on all ranks: another one may have another shape.
        self._run(_REDUCESCATTER, dtype, op_code(op), 0, shape, memory, into, timeout)
        return out

    def broadcast(self, tensor: Tensor | TensorSpec, root: int, timeout: float | None = None) -> Tensor:
        self._check_rank("root", root)
        if self.rank == root:
            memory, dtype, shape = readable(tensor)
            self._run(_BROADCAST, dtype, 0, root, shape, memory, None, timeout)
            return tensor
        into = tensor.empty() if isinstance(tensor, TensorSpec) else tensor
        memory, dtype, shape = writable(into, "tensor")
        self._run(_BROADCAST, dtype, 0, root, shape, None, memory, timeout)
        return into

    def decline(self, timeout: float | None = None, cause: bytes = b"") -> None:
        # To join once more is what no other operation asks for; if all do, they have only met.
        self._run(_JOIN, 0, 0, 0, (), None, None, timeout, cause)

    def abort(self, reason: str) -> None:
        self._member.abort(_reason(reason))

    def destroy(self) -> None:
        self._member.leave()

    def __repr__(self) -> str:
        return f"<ShmCommunicator {self.name}, rank {self.rank} of {self.world_size}>"

    def _run(
        self,
        kind: int,
        dtype: int,
        op: int,
        peer: int,
        shape: tuple[int, ...],
        source: Memory,
        into: Memory,
        timeout: float | None,
        cause: bytes = b"",
    ) -> None:
        asked = self._member.run(kind, dtype, op, peer, shape, source, into, timeout)
        if asked is not None:
            # No name for it: a frame that holds what it raises is garbage of which only the collector gets rid.
            raise with_cause(self, _mismatch(self.name, asked), cause, timeout)


def _result(out: Tensor, dtype: int, shape: tuple[int, ...]) -> Memory:
    memory, found_dtype, found_shape = writable(out, "out")
    if found_dtype != dtype or found_shape != shape:
        raise ValueError(
            f"out is {DTYPES[found_dtype]} {tuple(found_shape)}; expected {DTYPES[dtype]} {tuple(shape)}, "
            "which the result has"
        )
    return memory


def _mismatch(name: str, asked: Sequence[_Asked]) -> MismatchError:
    texts = {request[0]: _text(request) for request in asked}
    ranks: dict[str, list[int]] = {}
    for rank, text in texts.items():
        ranks.setdefault(text, []).append(rank)
    parts = "; ".join(f"{_ranks(some)}: {text}" for text, some in ranks.items())
    declined = [rank for rank, kind, *_ in asked if kind == _JOIN]
    return MismatchError(f"communicator {name}: the ranks asked for different things at once: {parts}", texts, declined)


def _text(request: _Asked) -> str:
    _, kind, dtype, op, peer, ndim, dims = request
    if kind == _JOIN:
        return "nothing: it declined"
    shape = f"({', '.join(map(str, dims))}{',' if ndim == 1 else ''}{', ...' if ndim > len(dims) else ''})"
    tensor = f"{_name(DTYPES, dtype)} {shape}"
    if kind in _REDUCING:
        return f"{_KINDS[kind]} {_name(_OPS, op)} of {tensor}"
    where = {_BROADCAST: f" from rank {peer}", _SEND: f" to rank {peer}", _RECV: f" from rank {peer}"}.get(kind, "")
    return f"{_name(_KINDS, kind)} of {tensor}{where}"


def _name(names: Sequence[str], code: int) -> str:
    """The codes come from other processes."""
    return names[code] if code < len(names) else f"unknown ({code})"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _parse(group_id: bytes) -> tuple[tuple[int, int, int, int, int], int, str]:
    if len(group_id) < _ID.size or group_id[: len(_MARK)] != _MARK:
        raise ValueError(f"not the id of a group in shared memory: {bytes(group_id[:16])!r}; expected ShmGroup.id")
    _, size, *address = _ID.unpack_from(group_id)
    pid, fd, key, block, generation = address
    return (pid, fd, key, block, generation), size, group_id[_ID.size :].decode(errors="replace")


def _reason(reason: str) -> str:
    return reason.encode(errors="replace").decode() or "it was aborted"


def _lines(size: int) -> int:
    """Whole cache lines."""
    return -(-size // 64) * 64
