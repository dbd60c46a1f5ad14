"""collect: what was bound, found from the outputs backwards. The user's records are only read.

The walk keeps its own stack: a DAG may be 10,000 calls deep, and Python's recursion limit is 1,000. It raises nothing
but notes what is wrong, and with which call, so that the error can show that call among all the others (dagc/build.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dagc.bind import InputNode, InputPart, MultiOutputNode
from dagc.collectives import BoundCollective, CollectiveValue
from dagc.containers import is_container, parts
from runtime.calls import BoundCall, BoundReturn, DagNode
from runtime.refs import ObjectRef
from runtime.tensor_transport import TensorTransport

__all__ = ["Bound", "Problem", "Records", "collect"]


#: What stands in an order: a call, or a collective of several actors.
Bound = BoundCall | BoundCollective


class Problem(NamedTuple):
    """Why the DAG is refused, and the call that it is about, if it is about one."""

    text: str
    call: Bound | None = None


@dataclass
class Records:
    """All that belongs to a graph. Calls are keys by their id, since they compare by identity."""

    #: Calls and collectives, in the order in which they were bound.
    calls: list[Bound] = field(default_factory=list)
    #: Call -> the calls that it needs, for their values or only for the order; one may stand there twice.
    needs: dict[int, list[Bound]] = field(default_factory=dict)
    #: Call -> the nodes among its arguments, left to right.
    arguments: dict[int, list[DagNode]] = field(default_factory=dict)
    #: Call -> those that it needs for the order alone, each once.
    after: dict[int, list[BoundCall]] = field(default_factory=dict)
    #: Calls that nothing needs, no output either.
    leaves: list[BoundCall] = field(default_factory=list)
    #: Parts of the input (None: all of it) -> the call that was bound first of those that use it; None: an output.
    inputs: dict[int | str | None, Bound | None] = field(default_factory=dict)
    #: Call -> the indices of its values that are used.
    picks: dict[int, set[int]] = field(default_factory=dict)
    #: Values of which something was said about how their tensors travel.
    transports: list[tuple[DagNode, TensorTransport]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def collect(outputs: tuple[DagNode, ...]) -> Records:
    """The calls that the outputs need, and those that were bound beside them in a `with InputNode()`."""
    walk = _Walk()
    for node in outputs:
        walk.enter(node, None, "the output")
    walk.drain()
    records = walk.records
    # Scopes may bring calls of other scopes; each is looked at once.
    scopes = [scope for call in records.calls if (scope := _scope(call)) is not None]
    if walk.input is not None:
        scopes.append(walk.input._calls)
    seen: set[int] = set()
    beside: list[BoundCall] = []
    while scopes:
        scope = scopes.pop()
        if id(scope) in seen:
            continue
        seen.add(id(scope))
        known = len(records.calls)
        for call in scope:
            if id(call) not in records.needs:
                beside.append(call)
                walk.enter(call, None, "", whole=False)
                walk.drain()
        scopes += [scope for call in records.calls[known:] if (scope := _scope(call)) is not None]
        if walk.input is not None:
            scopes.append(walk.input._calls)
    needed = {id(need) for needs in records.needs.values() for need in needs}
    records.leaves = sorted((call for call in beside if id(call) not in needed), key=_bound_when)
    records.calls.sort(key=_bound_when)
    return records


def _bound_when(call: Bound) -> int:
    return call.order


def _scope(call: Bound) -> list[BoundCall] | None:
    """A collective has no effect but its values: one that nobody reads is not made."""
    return call.scope if isinstance(call, BoundCall) else None


class _Walk:
    def __init__(self) -> None:
        self.records = Records()
        self.input: InputNode | None = None
        self._to_do: list[Bound] = []

    def drain(self) -> None:
        while self._to_do:
            call = self._to_do.pop()
            if isinstance(call, BoundCollective):
                for rank, node in enumerate(call.nodes):
                    self.enter(node, call, f"element {rank} of {call!r}")
                continue
            for place, argument in _arguments(call):
                for node in self._nodes_in(call, place, argument):
                    self.enter(node, call, place)
            data = {id(need) for need in self.records.needs[id(call)]}
            # Whoever uses the value of a call comes after it anyway.
            after = [other for other in dict.fromkeys(call._after) if id(other) not in data]
            self.records.after[id(call)] = after
            for other in after:
                self.enter(other, call, "", whole=False)

    def enter(self, node: DagNode, user: Bound | None, place: str, *, whole: bool = True) -> None:
        """`user`, or with None an output, uses the node. `whole`: it wants the value of it, not only its end."""
        records = self.records
        if whole and node._transport:
            records.transports.append((node, node._transport[0]))
        if user is not None and whole:
            records.arguments.setdefault(id(user), []).append(node)
        if isinstance(node, InputNode):
            self._use_input(node, None, user, place)
        elif isinstance(node, InputPart):
            self._use_input(node.input, node.key, user, place)
        elif isinstance(node, CollectiveValue):
            self._need(node.collective, user)
        elif isinstance(node, (BoundCall, BoundReturn)):
            call = node if isinstance(node, BoundCall) else node.call
            if isinstance(node, BoundReturn):
                records.picks.setdefault(id(call), set()).add(node.index)
            elif whole and call.method.num_returns > 1:
                self._refuse(
                    f"{place} is all of {call!r}, which returns {call.method.num_returns} values; use the tuple that "
                    "bind returned, or bind with .options(num_returns=1) for one value that is a tuple",
                    user,
                )
            if self._need(call, user) and call.method.generator:
                self._refuse(
                    f"{call!r} is of a generator, whose values come one at a time; a compiled method gives them at "
                    "once: return a list, or bind one call for each value",
                    call,
                )
        elif isinstance(node, MultiOutputNode):
            self._refuse(f"{place} is a MultiOutputNode; it can only be the output itself; pass a list of nodes", user)
        else:
            self._refuse(f"{place} is {node!r}, a {type(node).__name__}, which this version cannot compile", user)

    def _need(self, call: Bound, user: Bound | None) -> bool:
        """`user` needs the call. True if it is new."""
        records = self.records
        if user is not None:
            records.needs[id(user)].append(call)
        new = id(call) not in records.needs
        if new:
            records.needs[id(call)] = []
            records.calls.append(call)
            self._to_do.append(call)
        return new

    def _use_input(self, node: InputNode, key: int | str | None, user: Bound | None, place: str) -> None:
        inputs = self.records.inputs
        if self.input is None:
            self.input = node
        elif self.input is not node:
            self._refuse(
                f"{place} is of a second InputNode; a graph has one: use its parts x[0], x[1] for several", user
            )
        first = inputs.setdefault(key, user)
        if user is not None and (first is None or user.order < first.order):
            inputs[key] = user
        if (
            None in inputs
            and len(inputs) > 1
            and not any("in parts" in problem.text for problem in self.records.problems)
        ):
            part = next(k for k in inputs if k is not None)
            others = [inputs[None], inputs[part]]
            whole, picked = (repr(other) if other is not None else "the output" for other in others)
            self._refuse(
                f"the input is used whole, by {whole}, and in parts, {InputPart(node, part)!r} by {picked}; use parts "
                "everywhere, x[0] for what is now x, or pass x whole and take the parts inside the methods",
                user,
            )

    def _refuse(self, text: str, call: Bound | None) -> None:
        self.records.problems.append(Problem(text, call))

    def _nodes_in(self, call: BoundCall, place: str, argument: Any) -> Iterator[DagNode]:
        """The nodes in an argument, left to right; a node that stands there twice comes twice."""
        stack: list[_Level] = [_Level(None, iter((argument,)), None)]
        while stack:
            _, items, refused = stack[-1]
            for item in items:
                if isinstance(item, DagNode):
                    if refused is not None:
                        self._refuse(f"{place} has {item!r} {refused}; use a plain list, tuple or dict value", call)
                    yield item
                elif isinstance(item, ObjectRef):
                    self._refuse(
                        f"{place} is or holds {item!r}, whose value a compiled graph would have to know beforehand; "
                        "bind dagc.get(ref), or bind the input and pass the value to execute",
                        call,
                    )
                elif isinstance(item, (list, tuple, dict, set, frozenset)):
                    if any(item is level.container for level in stack):
                        self._refuse(f"{place} holds a {type(item).__name__} that contains itself", call)
                        continue
                    stack.extend(_levels(item, refused))
                    break
            else:
                stack.pop()


class _Level(NamedTuple):
    """A container that is being walked."""

    container: Any
    #: What is left of it.
    items: Iterator[Any]
    #: Why a node in it is refused, if it is.
    refused: str | None


def _levels(container: Any, refused: str | None) -> Iterator[_Level]:
    if isinstance(container, dict):
        yield _Level(container, iter(tuple(container)), refused or "as a dict key")
    if is_container(container):
        yield _Level(container, parts(container), refused)
    elif isinstance(container, dict):
        yield _Level(container, iter(container.values()), refused or f"in a {type(container).__name__}")
    else:
        yield _Level(container, iter(container), refused or f"in a {type(container).__name__}")


def _arguments(call: BoundCall) -> Iterator[tuple[str, Any]]:
    for i, argument in enumerate(call.args):
        yield f"argument {i} of {call!r}", argument
    for key, argument in call.kwargs.items():
        yield f"argument {key!r} of {call!r}", argument
