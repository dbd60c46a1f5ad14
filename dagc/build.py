"""build_graph: the tree of recorded calls under an output becomes a Graph. The user's records are only read.

The order of the calls is the order in which they were bound. Each actor makes its calls in this order.

The walk keeps its own stack: a DAG may be 10,000 calls deep, and Python's recursion limit is 1,000.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dagc.bind import InputNode, InputPart, MultiOutputNode
from dagc.containers import is_container, map_leaves, parts
from dagc.errors import GraphError
from dagc.graph import DRIVER, Call, Graph, Input, Node, Output, Pick, Value
from dagc.program import InputAccess
from runtime.calls import ActorHandle, BoundCall, BoundReturn, DagNode
from runtime.refs import ObjectRef

if TYPE_CHECKING:
    from runtime.ids import ActorId

__all__ = ["build_graph"]


def build_graph(output: Any) -> Graph:
    """The graph whose output is `output`: what a bind returned, or a MultiOutputNode of several.

    Raises GraphError, with the call and what to write, for: an output that is no node or contains no call; a cycle; two
    InputNodes; an input that is used both whole and in parts; an ObjectRef among the arguments; a node in a place
    where its value cannot be put (a set, a dict key, a subclass of list, tuple or dict).
    """
    if isinstance(output, (list, tuple)):
        raise GraphError(f"the output is a {type(output).__name__}; for several results write MultiOutputNode([a, b])")
    if not isinstance(output, DagNode):
        raise GraphError(f"the output is {output!r}; expected a node of a DAG, as what handle.method.bind(...) returns")
    multi = isinstance(output, MultiOutputNode)
    walk = _Walk()
    for node in output.nodes if isinstance(output, MultiOutputNode) else (output,):
        walk.visit(node)
    if not walk.calls:
        raise GraphError(f"the output {output!r} contains no call; bind at least one method, as handle.method.bind(x)")
    return _number(walk, output, multi)


@dataclass
class _Walk:
    """What a walk from the outputs has found so far."""

    #: Complete, each after those that it needs.
    calls: list[BoundCall] = field(default_factory=list)
    #: Call -> the calls that need it, by id; one that is needed twice stands there twice.
    needed_by: dict[int, list[BoundCall]] = field(default_factory=dict)
    #: Parts of the input (None: all of it) -> who used it first, for errors.
    inputs: dict[int | str | None, str] = field(default_factory=dict)
    #: Call -> the indices of its values that are used; by id, since calls compare by identity.
    picks: dict[int, set[int]] = field(default_factory=dict)
    _input: InputNode | None = None
    #: By id: True for a complete call, False for one whose arguments are being walked.
    _complete: dict[int, bool] = field(default_factory=dict)

    def visit(self, output: DagNode) -> None:
        """Depth first: the calls below `output`, then its own."""
        stack: list[tuple[BoundCall, Iterator[DagNode]]] = []
        self._enter(output, "the output", stack)
        while stack:
            call, arguments = stack[-1]
            node = next(arguments, None)
            if node is None:
                stack.pop()
                self._complete[id(call)] = True
                self.calls.append(call)
            else:
                self._enter(node, f"an argument of {call!r}", stack)

    def _enter(self, node: DagNode, user: str, stack: list[tuple[BoundCall, Iterator[DagNode]]]) -> None:
        if isinstance(node, InputNode):
            self._use_input(node, None, user)
        elif isinstance(node, InputPart):
            self._use_input(node.input, node.key, user)
        elif isinstance(node, (BoundCall, BoundReturn)):
            call = node if isinstance(node, BoundCall) else node.call
            if isinstance(node, BoundReturn):
                self.picks.setdefault(id(call), set()).add(node.index)
            elif call.method.num_returns > 1:
                raise GraphError(
                    f"{user} is all of {call!r}, which returns {call.method.num_returns} values; use the tuple that "
                    "bind returned, or bind with .options(num_returns=1) for one value that is a tuple"
                )
            if stack:
                self.needed_by.setdefault(id(call), []).append(stack[-1][0])
            complete = self._complete.get(id(call))
            if complete is None:
                self._complete[id(call)] = False
                stack.append((call, _nodes_in(call)))
            elif not complete:
                raise _cycle([entered for entered, _ in stack], call)
        elif isinstance(node, MultiOutputNode):
            raise GraphError(f"{user} is a MultiOutputNode; it can only be the output itself; pass a list of its nodes")
        else:
            raise GraphError(f"{user} is {node!r}, a {type(node).__name__}, which this version cannot compile")

    def _use_input(self, node: InputNode, key: int | str | None, user: str) -> None:
        if self._input is None:
            self._input = node
        elif self._input is not node:
            raise GraphError(f"{user} is of a second InputNode; a graph has one: use its parts x[0], x[1] for several")
        self.inputs.setdefault(key, user)
        if None in self.inputs and len(self.inputs) > 1:
            part, by = next((k, by) for k, by in self.inputs.items() if k is not None)
            raise GraphError(
                f"the input is used whole ({self.inputs[None]}) and in parts ({InputPart(node, part)!r} is {by}); use "
                "parts everywhere, x[0] for what is now x, or pass x whole and take the parts inside the methods"
            )


#: A container that is being walked: itself, what is left of it, and why a node in it is refused, if it is.
_Level = tuple[Any, Iterator[Any], str | None]


def _nodes_in(call: BoundCall) -> Iterator[DagNode]:
    """The nodes among the arguments of a call, left to right; a node that stands there twice comes twice."""
    for place, argument in _arguments(call):
        stack: list[_Level] = [(None, iter((argument,)), None)]
        while stack:
            _, items, refused = stack[-1]
            for item in items:
                if isinstance(item, DagNode):
                    if refused is not None:
                        raise GraphError(f"{place} has {item!r} {refused}; use a plain list, tuple or dict value")
                    yield item
                elif isinstance(item, ObjectRef):
                    raise GraphError(
                        f"{place} is or holds {item!r}, whose value a compiled graph would have to know beforehand; "
                        "bind dagc.get(ref), or bind the input and pass the value to execute"
                    )
                elif isinstance(item, (list, tuple, dict, set, frozenset)):
                    if any(item is container for container, _, _ in stack):
                        raise GraphError(f"{place} holds a {type(item).__name__} that contains itself")
                    stack.extend(_levels(item, refused))
                    break
            else:
                stack.pop()


def _levels(container: Any, refused: str | None) -> Iterator[_Level]:
    if isinstance(container, dict):
        yield container, iter(tuple(container)), refused or "as a dict key"
    if is_container(container):
        yield container, parts(container), refused
    elif isinstance(container, dict):
        yield container, iter(container.values()), refused or f"in a {type(container).__name__}"
    else:
        yield container, iter(container), refused or f"in a {type(container).__name__}"


def _arguments(call: BoundCall) -> Iterator[tuple[str, Any]]:
    for i, argument in enumerate(call.args):
        yield f"argument {i} of {call!r}", argument
    for key, argument in call.kwargs.items():
        yield f"argument {key!r} of {call!r}", argument


def _cycle(path: list[BoundCall], call: BoundCall) -> GraphError:
    start = next(i for i, entered in enumerate(path) if entered is call)
    names = [f"{entered.handle!r}.{entered.method.name}" for entered in (*path[start:], call)]
    if len(names) > 12:
        names[6:-5] = [f"... {len(names) - 11} more ..."]
    return GraphError(
        "the graph has a cycle: a list or dict was changed after it was bound, so that a call needs its own result\n"
        f"  {' needs '.join(names)}\nbind a new list; to carry state from one execution to the next keep it in an actor"
    )


def _in_bind_order(walk: _Walk) -> list[BoundCall]:
    """The calls in the order in which they were bound, but each after those that it needs.

    The order of `bind` says what an actor does first where data does not: forwards of all micro-batches before the
    backwards, say. It is nearly always such an order already; only a list that was changed after it was bound can make
    an earlier call need a later one. Kahn's algorithm, with a heap for the order.
    """
    missing = {id(call): 0 for call in walk.calls}
    for users in walk.needed_by.values():
        for user in users:
            missing[id(user)] += 1
    ready = [(call.order, call) for call in walk.calls if not missing[id(call)]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, call = heapq.heappop(ready)
        ordered.append(call)
        for user in walk.needed_by.get(id(call), ()):
            missing[id(user)] -= 1
            if not missing[id(user)]:
                heapq.heappush(ready, (user.order, user))
    return ordered


def _number(walk: _Walk, output: DagNode, multi: bool) -> Graph:
    """Give every node its name and put the names where the records were."""
    calls = _in_bind_order(walk)
    actors = _name_actors(calls)
    names: dict[int, str] = {}
    counts: dict[str, int] = {}
    nodes: list[Node] = [Input(InputAccess(key)) for key in sorted(walk.inputs, key=_input_order)]

    def name_of(leaf: Any) -> str:
        if isinstance(leaf, BoundReturn):
            return Pick(names[id(leaf.call)], leaf.index).name
        return names[id(leaf)] if isinstance(leaf, BoundCall) else repr(leaf)

    def replace(leaf: Any) -> Any:
        return Value(name_of(leaf)) if isinstance(leaf, DagNode) else leaf

    for call in calls:
        actor, _ = actors[call.handle._actor_id]
        name = f"{actor}.{call.method.name}"
        count = counts[name] = counts.get(name, -1) + 1
        names[id(call)] = f"{name}#{count}" if count else name
        args = tuple(map_leaves(argument, replace) for argument in call.args)
        kwargs = {key: map_leaves(argument, replace) for key, argument in call.kwargs.items()}
        nodes.append(Call(names[id(call)], actor, call.method.name, args, kwargs, call.method.num_returns))
        nodes += [Pick(names[id(call)], index) for index in sorted(walk.picks.get(id(call), ()))]
    targets = output.nodes if isinstance(output, MultiOutputNode) else (output,)
    nodes.append(Output(tuple(name_of(node) for node in targets), multi))
    return Graph(tuple(nodes), dict(actors.values()))


def _name_actors(calls: list[BoundCall]) -> dict[ActorId, tuple[str, ActorHandle]]:
    """Each actor's name: the one that its user gave it, else its class and an index by first appearance."""
    named: dict[ActorId, tuple[str, ActorHandle]] = {}
    counts: dict[str, int] = {}
    handles = {call.handle._actor_id: call.handle for call in calls}
    # A name given by the user may hold anything; names in the plan are words.
    words = {actor: re.sub(r"[^\w-]", "_", handle._label) for actor, handle in handles.items()}
    given = [words[actor] for actor, handle in handles.items() if handle._named]
    for actor, handle in handles.items():
        word = words[actor]
        if handle._named and given.count(word) == 1 and word != DRIVER:
            named[actor] = word, handle
            continue
        count = counts.get(word, -1) + 1
        while f"{word}_{count}" in given:
            count += 1
        counts[word] = count
        named[actor] = f"{word}_{count}", handle
    return named


def _input_order(key: int | str | None) -> tuple[int, int]:
    """Positions in their order, then keywords in the order of first use, which is what sorting keeps."""
    return (0, key) if isinstance(key, int) else (1, 0)
