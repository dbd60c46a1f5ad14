"""build_graph: what was bound becomes a Graph, with a name for every node.

The order of the calls is the order in which they were bound, but each comes after those that it needs. With the order
"bind" each actor makes its calls in this order.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from dagc.bind import MultiOutputNode
from dagc.collectives import BoundCollective, CollectiveValue
from dagc.containers import map_leaves
from dagc.errors import GraphError
from dagc.graph import Call, Collective, Done, Graph, Group, Input, Node, Output, Pick, Value
from dagc.homes import assign_homes, word_of
from dagc.program import InputAccess
from dagc.records import Bound, Problem, Records, collect
from runtime.calls import BoundCall, BoundReturn, DagNode

__all__ = ["build_graph"]

#: Lines of the graph's text that an error shows around the one that it is about.
_CONTEXT = 12


def build_graph(output: Any) -> Graph:
    """The graph whose output is `output`: what a bind returned, or a MultiOutputNode of several.

    Raises GraphError, with the call, its place in the graph and what to write, for: an output that is no node or
    contains no call; a cycle; two InputNodes; an input that is used both whole and in parts; an ObjectRef among the
    arguments; a generator; a node in a place where its value cannot be put (a set, a dict key, a subclass of list,
    tuple or dict).
    """
    if isinstance(output, (list, tuple)):
        raise GraphError(f"the output is a {type(output).__name__}; for several results write MultiOutputNode([a, b])")
    if not isinstance(output, DagNode):
        raise GraphError(f"the output is {output!r}; expected a node of a DAG, as what handle.method.bind(...) returns")
    multi = isinstance(output, MultiOutputNode)
    outputs = output.nodes if isinstance(output, MultiOutputNode) else (output,)
    records = collect(outputs)
    if not records.calls and not records.problems:
        raise GraphError(f"the output {output!r} contains no call; bind at least one method, as handle.method.bind(x)")
    calls = _in_order(records)
    names = _Names(records, calls)
    if len(calls) < len(records.calls):
        records.problems.insert(0, _cycle(records, calls, names))
    records.problems += names.twice()
    if records.problems:
        raise _refused(records.problems[0], records, names)
    nodes: list[Node] = [Input(InputAccess(key)) for key in _input_order(records)]
    ended = {id(call) for after in records.after.values() for call in after} | {id(call) for call in records.leaves}
    for call in calls:
        if isinstance(call, BoundCollective):
            nodes += names.collective(call)
            continue
        nodes.append(names.call(call))
        nodes += [Pick(names.of[id(call)], index) for index in sorted(records.picks.get(id(call), ()))]
        if id(call) in ended:
            nodes.append(Done(names.of[id(call)]))
    leaves = tuple(Done(names.of[id(call)]).name for call in records.leaves)
    nodes.append(Output(tuple(names.value(node) for node in outputs), multi, leaves))
    transports = {names.value(node): said for node, said in records.transports}
    return Graph(tuple(nodes), names.homes.actors, names.homes.workers, names.groups, transports)


def _in_order(records: Records) -> list[Bound]:
    """The calls in the order in which they were bound, but each after those that it needs; without those of a cycle.

    It is nearly always such an order already; only `after`, or a list that was changed after it was bound, can make an
    earlier call need a later one. Kahn's algorithm, with a heap for the order.
    """
    missing = {id(call): len(records.needs[id(call)]) for call in records.calls}
    needed_by: dict[int, list[Bound]] = {}
    for call in records.calls:
        for need in records.needs[id(call)]:
            needed_by.setdefault(id(need), []).append(call)
    ready = [(call.order, call) for call in records.calls if not missing[id(call)]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, call = heapq.heappop(ready)
        ordered.append(call)
        for user in needed_by.get(id(call), ()):
            missing[id(user)] -= 1
            if not missing[id(user)]:
                heapq.heappush(ready, (user.order, user))
    return ordered


class _Names:
    """What every call is called, and the calls with names where the records were."""

    def __init__(self, records: Records, ordered: Sequence[Bound]) -> None:
        known = {id(call) for call in ordered}
        calls = [*ordered, *(call for call in records.calls if id(call) not in known)]
        self._after = records.after
        self._collectives = [call for call in calls if isinstance(call, BoundCollective)]
        self.homes = assign_homes(records, calls)
        self.of: dict[int, str] = {}
        #: Collective -> the names of its values, rank by rank.
        self.ranks: dict[int, tuple[str, ...]] = {}
        self.groups: dict[str, Group] = {}
        self._counts: dict[str, int] = {}
        for call in calls:
            if isinstance(call, BoundCollective):
                members = self.homes.ranks[id(call)]
                self.ranks[id(call)] = tuple(self._next(f"{member}.{call.kind}") for member in members)
                self.of[id(call)] = self._next(call.kind)
                group = Group(call.kind, members, call.op, call.root, call.transport)
                self.groups[self.of[id(call)]] = group
            else:
                self.of[id(call)] = self._next(f"{self.homes.of[id(call)]}.{word_of(call.method.name)}")

    def _next(self, name: str) -> str:
        count = self._counts[name] = self._counts.get(name, -1) + 1
        return f"{name}#{count}" if count else name

    def twice(self) -> list[Problem]:
        """Collectives in which an actor has two ranks."""
        found = []
        for call in self._collectives:
            members = self.homes.ranks[id(call)]
            several = [member for member in dict.fromkeys(members) if members.count(member) > 1]
            if several:
                found.append(
                    Problem(
                        f"{several[0]} has {members.count(several[0])} of its ranks; expected each rank on an actor of "
                        "its own: combine what one actor has in a method of it",
                        call,
                    )
                )
        return found

    def collective(self, call: BoundCollective) -> list[Collective]:
        members = self.homes.ranks[id(call)]
        return [
            Collective(name, member, self.value(node), self.of[id(call)], rank)
            for rank, (name, member, node) in enumerate(zip(self.ranks[id(call)], members, call.nodes, strict=True))
        ]

    def value(self, node: DagNode) -> str:
        if isinstance(node, CollectiveValue):
            return self.ranks[id(node.collective)][node.rank]
        if isinstance(node, BoundReturn):
            return Pick(self.of[id(node.call)], node.index).name
        return self.of[id(node)] if isinstance(node, BoundCall) else repr(node)

    def call(self, call: BoundCall) -> Call:
        return Call(
            name=self.of[id(call)],
            actor=self.homes.of[id(call)],
            method=call.method.name,
            args=tuple(map_leaves(argument, self._replace) for argument in call.args),
            kwargs={key: map_leaves(argument, self._replace) for key, argument in call.kwargs.items()},
            num_returns=call.method.num_returns,
            function=call.function,
            after=tuple(Done(self.of[id(other)]).name for other in self._after[id(call)]),
        )

    def _replace(self, leaf: Any) -> Any:
        return Value(self.value(leaf)) if isinstance(leaf, DagNode) else leaf


def _cycle(records: Records, ordered: Sequence[Bound], names: _Names) -> Problem:
    """The problem of the calls that Kahn's algorithm could not order: one of the cycles among them."""
    done = {id(call) for call in ordered}
    call = next(call for call in records.calls if id(call) not in done)
    path: dict[int, Bound] = {}
    while id(call) not in path:
        path[id(call)] = call
        call = next(need for need in records.needs[id(call)] if id(need) not in done)
    circle = list(path)[list(path).index(id(call)) :]
    shown = [names.of[key] for key in (*circle, circle[0])]
    if len(shown) > 12:
        shown[6:-5] = [f"... {len(shown) - 11} more ..."]
    return Problem(
        "the graph has a cycle: by after(...), or by a list or dict that was changed after it was bound, a call needs "
        f"its own result\n  {' needs '.join(shown)}\nto carry state from one execution to the next keep it in an actor",
        call,
    )


def _refused(problem: Problem, records: Records, names: _Names) -> GraphError:
    """The error, with the calls as far as they were bound, and a mark at the one that it is about."""
    if problem.call is None:
        return GraphError(problem.text)
    calls = records.calls
    at = next(i for i, call in enumerate(calls) if call is problem.call)
    shown = range(max(0, at - _CONTEXT), min(len(calls), at + _CONTEXT + 1))
    width = max(len(names.of[id(calls[i])]) for i in shown)
    lines = []
    for i in shown:
        call = calls[i]
        try:
            made = str(names.call(call)) if isinstance(call, BoundCall) else repr(call)
        except RecursionError:  # an argument contains itself, which is then the problem
            made = f"{calls[i]!r}"
        lines.append(f"  {names.of[id(calls[i])].ljust(width)} = {made}{'  <-- here' if i == at else ''}")
    if shown.start > 0:
        lines.insert(0, f"  ... {shown.start} calls before ...")
    if shown.stop < len(calls):
        lines.append(f"  ... {len(calls) - shown.stop} calls after ...")
    text = "\n".join(lines)
    return GraphError(f"{names.of[id(problem.call)]}: {problem.text}\n\n{text}")


def _input_order(records: Records) -> list[int | str | None]:
    """Positions in their order, then keywords in the order of first use."""

    def place(key: int | str | None) -> tuple[int, float]:
        user = records.inputs[key]
        return (0, key) if isinstance(key, int) else (1, float("inf") if user is None else user.order)

    return sorted(records.inputs, key=place)
