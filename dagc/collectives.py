"""Collectives as nodes of a DAG: `a, b = dagc.allreduce.bind([w0.part.bind(x), w1.part.bind(x)], op="sum")`.

Each takes one node of each of several actors, its ranks in this order, and gives as many: what the collective leaves on
that rank. Nothing passes through the driver. Values are numpy arrays or torch tensors; see channels/communicators.

    allreduce       the reduction of all, on every rank
    allgather       all, one after the other along dimension 0, on every rank
    reducescatter   of the reduction, rank i's part along dimension 0 on rank i
    broadcast       what the rank `root` has, on every rank

Actors whose ranks are the same share one communicator, however many collectives they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, final

from channels.communicators import ReduceOp, Transport
from dagc.bind import InputNode, InputPart
from dagc.errors import GraphError, WrongArgumentsError
from runtime.calls import BoundCall, BoundReturn, DagNode, next_order
from runtime.tensor_transport import TRANSPORTS, TensorTransport

__all__ = ["BoundCollective", "CollectiveValue", "allgather", "allreduce", "broadcast", "reducescatter"]


@dataclass(frozen=True, eq=False)
class BoundCollective:
    """A collective, recorded."""

    #: "allreduce", "allgather", "reducescatter" or "broadcast".
    kind: str
    nodes: tuple[DagNode, ...]
    #: Of a reduction: one of ReduceOp's values; else "".
    op: str
    #: Of a broadcast: the rank that has the value; else 0.
    root: int
    transport: str | Transport
    order: int

    def __repr__(self) -> str:
        return f"{self.kind}.bind([...])"


@dataclass(frozen=True, eq=False)
class CollectiveValue(DagNode):
    """What a collective leaves on one rank."""

    collective: BoundCollective
    rank: int
    _transport: list[TensorTransport] = field(default_factory=list, repr=False)

    def __repr__(self) -> str:
        return f"{self.collective!r}[{self.rank}]"


@final
class Collective:
    """`dagc.allreduce` and its like: they are only bound, never called."""

    def __init__(self, kind: str, *, reduces: bool = False, has_root: bool = False) -> None:
        self._kind = kind
        self._reduces = reduces
        self._has_root = has_root

    def bind(
        self,
        nodes: Sequence[Any],
        *more: NoReturn,
        op: str | ReduceOp | None = None,
        root: int | None = None,
        transport: Any = "auto",
    ) -> tuple[CollectiveValue, ...]:
        """Record it. `nodes`: one of each rank's actor, as what `bind` of its methods returned.

        op (allreduce, reducescatter): "sum" by default, "product", "min", "max", "avg". root (broadcast): the rank
        whose value all get, 0 by default. transport: "shm", "nccl", "gloo", a Transport of your own, or
        "auto": NCCL if each rank has a GPU of its own, else shared memory.

        Raises GraphError for nodes that are no results of calls, and for an option that makes no sense;
        WrongArgumentsError for more than the nodes without a name.
        """
        name = f"{self._kind}.bind"
        if more:
            raise WrongArgumentsError(f"{name}: {len(more) + 1} arguments; {self._instead(nodes, more)}")
        if not isinstance(nodes, (list, tuple)) or not nodes:
            raise GraphError(f"{name}({nodes!r}); expected a list of nodes, one of each rank's actor")
        for i, node in enumerate(nodes):
            if isinstance(node, (InputNode, InputPart)):
                raise GraphError(f"{name}: element {i} is {node!r}, which no actor has; bind a method to it first")
            if not isinstance(node, (BoundCall, BoundReturn, CollectiveValue)):
                raise GraphError(f"{name}: element {i} is {node!r}; expected a node, as what bind of a method returns")
        if op is not None and not self._reduces:
            raise GraphError(f"{name}(op={op!r}): {self._kind} does not reduce; leave op out")
        if root is not None and not self._has_root:
            raise GraphError(f"{name}(root={root!r}): {self._kind} has no root; leave it out")
        ops = [known.value for known in ReduceOp]
        chosen = op.value if isinstance(op, ReduceOp) else "sum" if op is None else op
        if self._reduces and chosen not in ops:
            raise GraphError(f"{name}(op={op!r}); expected one of {', '.join(ops)}")
        if root is not None and (not isinstance(root, int) or isinstance(root, bool) or not 0 <= root < len(nodes)):
            raise GraphError(f"{name}(root={root!r}); expected the index of one of the {len(nodes)} nodes")
        if not isinstance(transport, Transport) and transport not in TRANSPORTS:
            raise GraphError(
                f"{name}(transport={transport!r}); expected a Transport, or one of {', '.join(TRANSPORTS)}"
            )
        made = BoundCollective(
            self._kind, tuple(nodes), chosen if self._reduces else "", root or 0, transport, next_order()
        )
        return tuple(CollectiveValue(made, rank) for rank in range(len(nodes)))

    def _instead(self, nodes: Any, more: tuple[Any, ...]) -> str:
        """What to write for several arguments."""
        if isinstance(nodes, DagNode):
            return f"put the nodes into one list, {self._kind}.bind([a, b])"
        option = f"op={more[0]!r}" if self._reduces else f"root={more[0]!r}" if self._has_root else "transport=..."
        return f"options are keywords, {self._kind}.bind([a, b], {option})"

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise GraphError(f"{self._kind}(...) cannot be called; write {self._kind}.bind([a, b]) for nodes of a DAG")

    def __repr__(self) -> str:
        return f"dagc.{self._kind}"


allreduce = Collective("allreduce", reduces=True)
allgather = Collective("allgather")
reducescatter = Collective("reducescatter", reduces=True)
broadcast = Collective("broadcast", has_root=True)
