"""What a user writes beside `method.bind`: the input of a DAG, its parts, and several outputs.

    with dagc.InputNode() as x:                    x is what execute(...) will be given
        a = stage.forward.bind(x[0], mask=x.mask)  or parts of it: execute(batch, mask=m)
    graph = dagc.compile(dagc.MultiOutputNode([a, x[0]]))

These are records, like the BoundCalls of runtime/calls.py; dagc/build.py turns a tree of them into a Graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, final

from dagc.errors import GraphError, InputPartError
from dagc.program import InputAccess
from runtime.calls import BoundCall, DagNode, recorded_calls
from runtime.tensor_transport import TensorTransport

__all__ = ["InputNode", "InputPart", "MultiOutputNode"]


@final
class InputNode(DagNode):
    """What `execute` is given. Use it whole, or its parts: `x[0]`, `x["mask"]` and `x.mask` are arguments of `execute`.

    Every call that is bound inside `with InputNode() as x:`, by the thread or coroutine that entered it, is made in
    each execution, also one whose value nobody reads (a leaf). Of calls that are bound elsewhere those are made that an
    output needs.
    """

    __slots__ = ("_calls", "_tokens", "_transports")

    def __init__(self) -> None:
        self._calls: list[BoundCall] = []
        self._tokens: list[Token[list[BoundCall] | None]] = []
        #: Of all of the input (None) and of its parts, which are made anew each time they are named.
        self._transports: dict[int | str | None, list[TensorTransport]] = {}

    @property
    def _transport(self) -> list[TensorTransport]:  # type: ignore[override]
        return self._transports.setdefault(None, [])

    def __enter__(self) -> InputNode:
        self._tokens.append(recorded_calls.set(self._calls))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            recorded_calls.reset(self._tokens.pop())
        except ValueError:
            raise GraphError(
                "this `with InputNode()` was entered in another thread or coroutine; write a DAG in one of them"
            ) from None

    def __getitem__(self, key: int | str) -> InputPart:
        """The positional argument of `execute` with this index, or the keyword argument of this name."""
        if isinstance(key, str) and key.isidentifier():
            return InputPart(self, key)
        if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
            return InputPart(self, key)
        raise GraphError(
            f"input[{key!r}]; expected the index of a positional argument of execute, as input[0], or the name of a "
            "keyword argument, as input['mask']"
        )

    def __getattr__(self, name: str) -> InputPart:
        if name.startswith("_"):  # copy, inspect and notebooks look for such names on every object
            raise AttributeError(f"the input has no attribute {name!r}; for an argument of execute write x[{name!r}]")
        return InputPart(self, name)

    def __repr__(self) -> str:
        return "input"


@dataclass(frozen=True)
class InputPart(DagNode):
    """One argument of `execute`. The same key of the same input gives an equal part."""

    input: InputNode = field(repr=False)
    key: int | str

    @property
    def _transport(self) -> list[TensorTransport]:  # type: ignore[override]
        return self.input._transports.setdefault(self.key, [])

    def __getitem__(self, key: object) -> Any:
        raise self._refused(f"{self!r}[{key!r}]")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._refused(f"{self!r}.{name}")

    def _refused(self, found: str) -> InputPartError:
        return InputPartError(
            f"{found}: only the arguments of execute can be picked, not what lies in them; bind {self!r} and take the "
            "part inside the method, or give execute the part as an argument of its own"
        )

    def __repr__(self) -> str:
        return str(InputAccess(self.key))


@dataclass(frozen=True, eq=False)
class MultiOutputNode(DagNode):
    """Several results: `execute` returns a list of refs, in this order. The same node may stand in it twice.

    Raises GraphError for anything but a list or tuple of at least one node of the DAG.
    """

    nodes: tuple[DagNode, ...]

    def __init__(self, nodes: Sequence[DagNode]) -> None:
        if not isinstance(nodes, (list, tuple)):
            raise GraphError(f"MultiOutputNode({nodes!r}); expected a list or a tuple of nodes, as what bind returns")
        if not nodes:
            raise GraphError("MultiOutputNode([]); expected at least one node")
        for i, node in enumerate(nodes):
            if isinstance(node, MultiOutputNode):
                raise GraphError(
                    f"element {i} of MultiOutputNode is a MultiOutputNode; put its nodes into one list, as [a, *others]"
                )
            if isinstance(node, (list, tuple)) and any(isinstance(item, DagNode) for item in node):
                raise GraphError(
                    f"element {i} of MultiOutputNode is a {type(node).__name__} of nodes; put them into one list, "
                    "as [a, *others]"
                )
            if not isinstance(node, DagNode):
                raise GraphError(f"element {i} of MultiOutputNode is {node!r}; expected a node, as what bind returns")
        object.__setattr__(self, "nodes", tuple(nodes))

    def __repr__(self) -> str:
        return f"MultiOutputNode({list(self.nodes)!r})"
