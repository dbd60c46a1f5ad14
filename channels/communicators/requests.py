"""What a rank asks for: compared with what the others ask for, shown in errors, a fixed number of bytes on the wire."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from channels.communicators.tensors import DTYPES, ReduceOp
from channels.errors import MismatchError

__all__ = ["PACKED", "PAIRED", "Kind", "Request", "mismatch"]

_OPS = tuple(op.value for op in ReduceOp)
#: Dimensions that are sent and shown; those beyond are compared by a digest of all.
_DIMS = 8
#: kind, dtype, op, dimensions, peer, digest of the shape, the first dimensions
_PACKED = struct.Struct(f"<BBBxIi8s{_DIMS}Q")
#: Bytes of a request on the wire.
PACKED = _PACKED.size


class Kind(IntEnum):
    """The operations."""

    ALLREDUCE = 1
    ALLGATHER = 2
    REDUCESCATTER = 3
    BROADCAST = 4
    SEND = 5
    RECV = 6
    DECLINE = 7
    #: Not asked for: the answer of a rank that cannot take part in an operation of all, because `peer` has left.
    GIVEN_UP = 8


#: Those of two ranks; all take part in the others.
PAIRED = (Kind.SEND, Kind.RECV)


@dataclass(frozen=True)
class Request:
    """One rank's request."""

    kind: Kind
    #: The place of the dtype in DTYPES.
    dtype: int
    shape: tuple[int, ...]
    #: The number of the ReduceOp.
    op: int = 0
    #: The root of a broadcast, the other rank of a send or a recv.
    peer: int = -1
    #: How many move as one; this is the first. Not on the wire: where requests are compared there is one at a time.
    tensors: int = 1
    #: Of the whole shape. A received request may have lost some of it.
    dimensions: int = -1
    digest: bytes = b""

    def __post_init__(self) -> None:
        if self.dimensions < 0:
            object.__setattr__(self, "dimensions", len(self.shape))
            object.__setattr__(self, "digest", hashlib.blake2b(repr(self.shape).encode(), digest_size=8).digest())
            object.__setattr__(self, "shape", self.shape[:_DIMS])

    def pack(self) -> bytes:
        dims = (*self.shape, *(0,) * (_DIMS - len(self.shape)))
        return _PACKED.pack(self.kind, self.dtype, self.op, self.dimensions, self.peer, self.digest, *dims)

    @classmethod
    def unpack(cls, data: bytes) -> Request:
        """Raises ValueError if a peer sent what is none."""
        kind, dtype, op, dimensions, peer, digest, *dims = _PACKED.unpack(data)
        if dtype >= len(DTYPES) or op >= len(_OPS):
            raise ValueError(f"a request of dtype {dtype} and op {op}; is the other rank another version?")
        return cls(Kind(kind), dtype, tuple(dims[:dimensions]), op, peer, dimensions=dimensions, digest=digest)

    def meets(self, rank: int, other: Request, other_rank: int) -> bool:
        """Whether this request of `rank` is the other half of what `other_rank` asks for."""
        return (
            {self.kind, other.kind} == {Kind.SEND, Kind.RECV}
            and (self.peer, other.peer) == (other_rank, rank)
            and (self.dtype, self.dimensions, self.digest) == (other.dtype, other.dimensions, other.digest)
        )

    def __str__(self) -> str:
        if self.kind is Kind.DECLINE:
            return "nothing: it declined"
        more = ", ..." if self.dimensions > len(self.shape) else "," if self.dimensions == 1 else ""
        tensor = f"{DTYPES[self.dtype]} ({', '.join(map(str, self.shape))}{more})"
        name = self.kind.name.lower()
        if self.kind in (Kind.ALLREDUCE, Kind.REDUCESCATTER):
            return f"{name} {_OPS[self.op]} of {tensor}"
        where = {Kind.SEND: f" to rank {self.peer}", Kind.RECV: f" from rank {self.peer}"}
        where[Kind.BROADCAST] = where[Kind.RECV]
        others = f" and {self.tensors - 1} more" if self.tensors > 1 else ""
        return f"{name} of {tensor}{others}{where.get(self.kind, '')}"


def mismatch(name: str, asked: Mapping[int, Request]) -> MismatchError:
    """The error, the same on every rank that has the same requests before it."""
    ranks: dict[str, list[int]] = {}
    for rank, request in sorted(asked.items()):
        ranks.setdefault(str(request), []).append(rank)
    parts = "; ".join(f"{_ranks(some)}: {text}" for text, some in ranks.items())
    texts = {rank: str(request) for rank, request in asked.items()}
    declined = [rank for rank, request in sorted(asked.items()) if request.kind is Kind.DECLINE]
    return MismatchError(f"communicator {name}: the ranks asked for different things at once: {parts}", texts, declined)


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
