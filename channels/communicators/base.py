"""The contract of a communicator: tensors between the ranks of a group.

Every implementation passes `channels.testing_communicators.check_communicator`. The rules it checks:

1. A group is made once, by anybody (`Transport.create`); its id, plain bytes, is delivered to whoever takes part. Each
   rank is joined once. `join` returns when every rank has joined.
2. An operation of all ranks (allreduce, allgather, reducescatter, broadcast) begins when the last rank has called it.
   All ranks call the same ones in the same order. A `send` meets the `recv` of its peer; it may wait for it, so two
   ranks must not both send first. When an operation returns, `tensor` may be changed and the result is there (on a GPU:
   in the order of the stream).
3. Tensors are numpy arrays or torch tensors of float16, bfloat16 (torch only), float32, float64, int32 or int64, of any
   shape, also empty. The result is of the same library as the argument. Gradients are not recorded.
4. What is read (`tensor`) may have any strides: it is copied if need be. What is written (`out`, the tensor of `recv`
   and of `broadcast`) must be contiguous and writable: ValueError otherwise, as in torch.distributed.
5. The result is the same on every rank to the bit, and the same in every run. Integers wrap around; their average is
   the wrapped sum divided with truncation towards zero, as NCCL's. Where `fixed_order` is true, the minimum and the
   maximum of a NaN are NaN; sums and products are made in the order of the ranks, those of float16 and bfloat16 in
   float32 and rounded once, and an average divides the sum. Elsewhere the result is right within the rounding of its
   dtype, what overflows halfway depends on the order, and a minimum or maximum may ignore a NaN, as C's fmin and fmax.
6. If the ranks ask for different things (shape, dtype, op, root, another operation), every one of them raises
   MismatchError, which says what each rank asked for; no tensor was changed, and the group is as before. So where
   `checks_requests` is true; elsewhere such a program has no defined result. If somebody declined, its `cause` is on
   every rank what the lowest rank that did gave to `decline`.
7. What no rank could do (a tensor of another dtype, an unknown op, an `out` that does not fit) is a TypeError or
   ValueError before the others hear of it: they wait on.
8. `abort`, of any member in any thread or of the creator, wakes every rank wherever it waits. From then on every
   operation of every rank raises ChannelBroken with the reason.
9. A rank that does not come within `timeout`: ChannelTimeout, and the group is broken, because nobody knows what the
   others have got: every other rank raises ChannelBroken, which names both. The same after Ctrl-C, and if the process
   of a rank ends in the middle of an operation and that is seen. `timeout=None` waits for ever, `timeout=0` not at all.
10. `destroy` is orderly: it disturbs nobody who is still busy with an operation in which this rank has done its part.
   Who waits for a rank that is gone raises ChannelClosed; so does every operation of a communicator that was destroyed.
   It may be called twice. Dropping a communicator destroys it.
11. A communicator belongs to one thread at a time, but for `abort` and `destroy`.
12. `isend` and `irecv` move several tensors as one: all of an `isend` meet all of the peer's `irecv`, in their order,
    and count as one operation. A `Work` that is dropped without `wait` breaks nothing, but what it should have brought
    is then not there. A transport whose operations run on their own (`asynchronous`) begins them at the call; elsewhere
    an `isend` is made by the call and an `irecv` by `wait`, and works are waited for in the order of their calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from channels.communicators.tensors import ReduceOp, Tensor, TensorSpec
from channels.devices import to_host

__all__ = ["Communicator", "GroupHandle", "Transport", "Work"]


class Work(Protocol):
    """Sends or receives that were begun, as torch.distributed.Work."""

    def wait(self) -> list[Tensor]:
        """The tensors that were received, or sent: they may be used now (on a GPU: in the order of the stream)."""
        ...

    def synchronize(self) -> None:
        """Wait on the host until they have come or gone. Raises what has gone wrong meanwhile."""
        ...


@dataclass(frozen=True)
class _Made:
    """A work of a communicator that makes its operations in the thread that calls them."""

    make: Callable[[], list[Tensor]]

    def wait(self) -> list[Tensor]:
        return self.make()

    def synchronize(self) -> None:
        """`wait` has done it."""


class Communicator(ABC):
    """One rank of a group."""

    #: The name of the transport, as in `Transport.name`.
    transport: str
    #: Rule 5: results do not depend on how the transport cuts its work.
    fixed_order: bool
    #: Rule 6: a mismatch is found.
    checks_requests: bool
    #: "cpu" or "cuda": of torch's tensors that it takes.
    device_type: str = "cpu"
    #: Rule 12: operations run while the thread that called them does something else.
    asynchronous: bool = False

    #: Asked at each operation of all ranks, where they are `asynchronous`: whether the host shall wait for its end
    #: before the current stream may. See channels/transfer/sharing.py.
    waits_on_host: Callable[[], bool] | None = None

    #: In every error message.
    name: str
    rank: int
    world_size: int

    @abstractmethod
    def send(self, tensor: Tensor, peer: int, timeout: float | None = None) -> None:
        """Give `tensor` to rank `peer`, which calls `recv`."""

    @abstractmethod
    def recv(self, into: Tensor | TensorSpec, peer: int, timeout: float | None = None) -> Tensor:
        """Take the tensor that rank `peer` sends: into the one given, or into a new one of that spec. Returns it."""

    def isend(self, tensors: Sequence[Tensor], peers: Sequence[int], timeout: float | None = None) -> Work:
        """Give all tensors to each of `peers`, each of which calls `irecv` for as many."""
        for peer in peers:
            for tensor in tensors:
                self.send(tensor, peer, timeout)
        return _Made(lambda: list(tensors))

    def irecv(self, into: Sequence[Tensor | TensorSpec], peer: int, timeout: float | None = None) -> Work:
        """Take the tensors of one `isend` of `peer`, each into the tensor given, or into a new one of that spec."""
        return _Made(lambda: [self.recv(one, peer, timeout) for one in into])

    def accepts(self, tensor: Tensor) -> TensorSpec:
        """The spec of a tensor that this rank may give. Raises TypeError for one that the transport cannot take."""
        return TensorSpec.of(tensor)

    def place(self, tensor: Tensor) -> Tensor:
        """A torch tensor where this communicator takes it: on the host, or on this rank's GPU; a copy if need be."""
        return to_host(tensor)

    def empty(self, spec: TensorSpec) -> Tensor:
        """A new tensor of this spec, not initialised, where this communicator takes it: on a GPU, on this rank's."""
        return spec.empty()

    def check(self) -> None:  # noqa: B027 - what is synchronous has nothing to say here
        """Raise what has gone wrong with operations since they were begun, without waiting.

        Only where they are `asynchronous`: there a tensor may hold anything once this raises. Elsewhere the operations
        themselves have raised it.
        """

    def synchronize(self) -> None:  # noqa: B027 - what is synchronous has ended
        """Wait on the host until every operation of this rank has ended. Raises what `check` raises."""

    @abstractmethod
    def allreduce(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        """The reduction of all ranks' tensors, element by element, on every rank. `out` may be `tensor`."""

    @abstractmethod
    def allgather(self, tensor: Tensor, out: Tensor | None = None, timeout: float | None = None) -> Tensor:
        """All ranks' tensors, one after the other along dimension 0, on every rank.

        (d0, d1, ...) -> (world_size * d0, d1, ...); () -> (world_size,). `tensor` may be its own part of `out`.
        """

    @abstractmethod
    def reducescatter(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        """As `allreduce`, and of the result this rank's part along dimension 0.

        (world_size * d0, d1, ...) -> (d0, d1, ...). `out` may be this rank's part of `tensor`. If dimension 0 cannot be
        divided by the world size, every rank raises ValueError and the group is as before.
        """

    @abstractmethod
    def broadcast(self, tensor: Tensor | TensorSpec, root: int, timeout: float | None = None) -> Tensor:
        """The tensor of rank `root` on every rank, written into `tensor` or into a new one of that spec. Returns it.

        The root gives a tensor, and gets it back.
        """

    def decline(self, timeout: float | None = None, cause: bytes = b"") -> None:  # noqa: ARG002 - of who can tell
        """Take part in the next operation of all ranks without a tensor, because there is none.

        Every rank raises MismatchError, which says that this one declined and brings `cause` (rule 6), and the group is
        as before; if all decline nothing happens. Where requests are not checked nobody would find out, so there it
        aborts the group.
        """
        self.abort(f"rank {self.rank} declined an operation, and {self.transport} has no way to tell the others")

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Rule 8. Does nothing after `destroy`."""

    @abstractmethod
    def destroy(self) -> None:
        """Rule 10: leave the group."""

    def _check_rank(self, what: str, rank: int, *, other: bool = False) -> None:
        """Raises ValueError if it is no rank of the group, or with `other` this very one; `what` names it."""
        if not 0 <= rank < self.world_size or (other and rank == self.rank):
            but = f", but not {self.rank}, which is this rank" if other else ""
            raise ValueError(f"communicator {self.name}: {what}={rank}; expected 0 to {self.world_size - 1}{but}")


class GroupHandle(ABC):
    """The creator's handle of a group, whether it takes part itself or not. The group lives no longer than this."""

    #: Send this to whoever joins.
    id: bytes
    world_size: int

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Every member raises ChannelBroken(reason) from now on, and whoever waits is woken; also if members died."""

    @abstractmethod
    def destroy(self) -> None:
        """Give back what the group needed. Aborts it first; members that are still there stay safe to call."""


class Transport(ABC):
    """A way for tensors: makes groups, and joins them. Picklable."""

    name: ClassVar[str]
    #: Rule 12, of its communicators.
    asynchronous: ClassVar[bool] = False

    @abstractmethod
    def create(self, world_size: int, name: str = "group") -> GroupHandle:
        """A new group. `name` stands in the error messages of its members.

        Raises ValueError for a world size that cannot be, and what the transport raises if it lacks memory.
        """

    @abstractmethod
    def join(self, group_id: bytes, rank: int, world_size: int, timeout: float | None = None) -> Communicator:
        """Take part as `rank`; returns when all have joined.

        Raises ValueError for an id, rank or world size that do not fit together; ChannelBroken if the group cannot be
        reached, is broken, or has this rank already; ChannelTimeout, which breaks the group, if a rank does not join.
        """
