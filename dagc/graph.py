"""Graph: the user's DAG as a frozen list of named values, each defined before it is used. Prints like a program.

    input            = argument of execute
    Stage_0.split    = Stage_0.split(input, 'rows')
    Stage_0.split[0] = value 0 of Stage_0.split
    Stage_1.forward  = Stage_1.forward(Stage_0.split[0], scale=2.0)
    Log_0.write      = Log_0.write(Stage_1.forward)
    Log_0.write.done = end of Log_0.write
    output           = Stage_1.forward after Log_0.write

The names on the left are the names everywhere: of channels and ops in the plan, of spans in the trace, in errors.
They contain no white space, so that the plan's text parses back; `#1` marks the second call of the same method.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dagc.containers import is_container, leaves
from dagc.errors import GraphError

if TYPE_CHECKING:
    from dagc.program import InputAccess
    from runtime.calls import ActorHandle
    from runtime.functions import RemoteFunction
    from runtime.tensor_transport import TensorTransport

__all__ = [
    "DRIVER",
    "Call",
    "Collective",
    "Done",
    "Graph",
    "Group",
    "Input",
    "Node",
    "Output",
    "Pick",
    "Value",
    "verify",
]

#: The party that compiles the graph, writes its inputs and reads its outputs. Actors are never called so.
DRIVER = "driver"
#: How many characters of a constant's repr are shown.
_CONSTANT_WIDTH = 40


@dataclass(frozen=True)
class Value:
    """Stands for a node's value in the arguments of a call; anything else there is a constant."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Input:
    """What `execute` was given: all of it, or one argument."""

    access: InputAccess

    @property
    def name(self) -> str:
        return str(self.access)

    @property
    def uses(self) -> tuple[str, ...]:
        return ()

    def __str__(self) -> str:
        key = self.access.key
        return "argument of execute" if key is None else f"argument {key} of execute"


# eq=False: constants may be arrays, whose == is not a bool. A node is itself.
@dataclass(frozen=True, eq=False)
class Call:
    """A call of a method, or of a function. With num_returns > 1 only its Picks are values."""

    name: str
    #: The name in the graph of the actor that makes it.
    actor: str
    #: The name of the method or of the function.
    method: str
    #: Templates: Values stand for values, also inside lists, tuples and dicts.
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    num_returns: int = 1
    #: None: a method of the actor. Else what is called in the actor's process instead.
    function: RemoteFunction | None = None
    #: Names of Done nodes: calls that must have been made before.
    after: tuple[str, ...] = ()

    @cached_property
    def uses(self) -> tuple[str, ...]:
        """The names of the values among its arguments, each once, left to right, then of what it only comes after."""
        found = leaves([*self.args, *self.kwargs.values()])
        return tuple(dict.fromkeys([*(leaf.name for leaf in found if isinstance(leaf, Value)), *self.after]))

    def __str__(self) -> str:
        shown = [_show(arg) for arg in self.args] + [f"{key}={_show(arg)}" for key, arg in self.kwargs.items()]
        where = "" if self.function is not None else f"{self.actor}."
        return f"{where}{self.method}({', '.join(shown)}){_after(self.after)}"


@dataclass(frozen=True)
class Pick:
    """One of the values of a call that returns several."""

    call: str
    index: int

    @property
    def name(self) -> str:
        return f"{self.call}[{self.index}]"

    @property
    def uses(self) -> tuple[str, ...]:
        return (self.call,)

    def __str__(self) -> str:
        return f"value {self.index} of {self.call}"


@dataclass(frozen=True)
class Done:
    """None once a call has been made, or its Failure: what orders calls without data, and tells of a leaf's end."""

    call: str

    @property
    def name(self) -> str:
        return f"{self.call}.done"

    @property
    def uses(self) -> tuple[str, ...]:
        return (self.call,)

    def __str__(self) -> str:
        return f"end of {self.call}"


@dataclass(frozen=True)
class Collective:
    """One actor's part in a collective, and what it leaves there."""

    name: str
    actor: str
    #: The value that it takes part with, which its actor has.
    value: str
    group: str
    rank: int

    @property
    def uses(self) -> tuple[str, ...]:
        return (self.value,)

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.group}({self.value})"


@dataclass(frozen=True)
class Group:
    """A collective as a whole."""

    #: "allreduce", "allgather", "reducescatter" or "broadcast".
    kind: str
    #: The actors of its ranks.
    members: tuple[str, ...]
    #: Of a reduction: one of ReduceOp's values.
    op: str
    #: Of a broadcast.
    root: int
    #: The name of a transport, "auto", or a Transport.
    transport: Any


@dataclass(frozen=True)
class Output:
    """What `execute` gives back: one value, or with `multi` a list of them, where the same one may stand twice."""

    values: tuple[str, ...]
    multi: bool
    #: Names of Done nodes, of the calls whose values nobody reads: an execution ends with them.
    leaves: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "output"

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.values, *self.leaves)))

    def __str__(self) -> str:
        values = f"[{', '.join(self.values)}]" if self.multi else ", ".join(self.values)
        return f"{values}{_after(self.leaves)}"


Node = Input | Call | Pick | Done | Collective | Output


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which each is defined before it is used; the last one is the output."""

    nodes: tuple[Node, ...]
    #: Name in the graph -> handle, in the order of first appearance.
    actors: Mapping[str, ActorHandle]
    #: Name in the graph -> the function that gets a worker of its own under this name when the graph is compiled.
    workers: Mapping[str, RemoteFunction] = field(default_factory=dict)
    #: Name -> collective, in the order of the graph.
    groups: Mapping[str, Group] = field(default_factory=dict)
    #: Value -> how its tensors travel, of those of which something was said.
    transports: Mapping[str, TensorTransport] = field(default_factory=dict)

    @cached_property
    def makers(self) -> tuple[str, ...]:
        """The names of all that make calls: the actors, then the workers."""
        return tuple(dict.fromkeys((*self.actors, *self.workers)))

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """The calls in the order of the graph, which is also the order in which each actor makes its own."""
        return tuple(node for node in self.nodes if isinstance(node, Call))

    @cached_property
    def steps(self) -> tuple[Call | Collective, ...]:
        """All that actors do, in the order of the graph; the ranks of a collective stand side by side."""
        return tuple(node for node in self.nodes if isinstance(node, (Call, Collective)))

    @cached_property
    def parts(self) -> Mapping[tuple[str, str], Collective]:
        """(group, actor) -> its part in the collective."""
        return {(node.group, node.actor): node for node in self.nodes if isinstance(node, Collective)}

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Input))

    @cached_property
    def picks(self) -> Mapping[str, tuple[Pick, ...]]:
        """Call -> those of its values that are used."""
        found: dict[str, list[Pick]] = {}
        for node in self.nodes:
            if isinstance(node, Pick):
                found.setdefault(node.call, []).append(node)
        return {call: tuple(picks) for call, picks in found.items()}

    @property
    def output(self) -> Output:
        last = self.nodes[-1]
        assert isinstance(last, Output), "verify() runs before every pass"
        return last

    @cached_property
    def ends(self) -> Mapping[str, str]:
        """Call -> the name of its Done node, of those that have one."""
        return {node.call: node.name for node in self.nodes if isinstance(node, Done)}

    def values_of(self, call: Call | Collective) -> tuple[str, ...]:
        """The names of the values that a call gives: its own or those of its picks, then its Done."""
        if isinstance(call, Collective):
            return (call.name,)
        values = (call.name,) if call.num_returns == 1 else tuple(p.name for p in self.picks.get(call.name, ()))
        return (*values, self.ends[call.name]) if call.name in self.ends else values

    @cached_property
    def parties(self) -> Mapping[str, str]:
        """Value -> the party that has it first: the driver for inputs, else the actor that makes it."""
        found: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, Input):
                found[node.name] = DRIVER
            elif isinstance(node, (Call, Collective)):
                found[node.name] = node.actor
            elif isinstance(node, (Pick, Done)):
                found[node.name] = found[node.call]
        return found

    def __str__(self) -> str:
        return self.text()

    def text(self, marked: int | None = None) -> str:
        """The graph, one line a node; `marked` is the index of the node that an error is about."""
        width = max((len(node.name) for node in self.nodes), default=0)
        lines = [f"{node.name.ljust(width)} = {node}{self._over(node.name)}" for node in self.nodes]
        if marked is not None:
            lines[marked] += "  <-- here"
        return "\n".join(lines)

    def _over(self, value: str) -> str:
        return f" over {self.transports[value]}" if value in self.transports else ""


def verify(graph: Graph) -> None:
    """Check what every pass relies on. Raises GraphError, naming the node, with the graph and a mark at its line.

    Known kinds, unique names, known actors, inputs that belong to the graph and are defined before they are used,
    picks within what their call returns, ends of calls where ends are meant, one output, at the end.
    """

    def refuse(index: int | None, found: str) -> GraphError:
        return GraphError(f"{found}\n\n{graph.text(index)}")

    for i, node in enumerate(graph.nodes):
        if not isinstance(node, Node):
            raise GraphError(
                f"node {i} of the graph is {node!r}; expected an Input, a Call, a Pick, a Done, a "
                "Collective or an Output"
            )
    places = {node.name: i for i, node in reversed(list(enumerate(graph.nodes)))}
    for i, node in enumerate(graph.nodes):
        if places[node.name] != i:
            raise refuse(i, f"{node.name} is defined twice; names must be unique")
        for use in node.uses:
            place = places.get(use)
            if place is None:
                raise refuse(i, f"{node.name} uses {use}, which is not in the graph")
            if place >= i:
                raise refuse(i, f"{node.name} uses {use} before it is defined")
            source = graph.nodes[place]
            if isinstance(source, Output):
                raise refuse(i, f"{node.name} uses {use}; an output is not a value")
            if isinstance(source, Call) and source.num_returns > 1 and not isinstance(node, (Pick, Done)):
                raise refuse(i, f"{node.name} uses {use}, which returns {source.num_returns} values; pick one of them")
        if isinstance(node, (Call, Collective)) and node.actor not in graph.makers:
            raise refuse(i, f"{node.name} calls actor {node.actor}, which the graph does not know")
        if isinstance(node, Pick):
            call = graph.nodes[places[node.call]]
            if not isinstance(call, Call) or not 0 <= node.index < call.num_returns or call.num_returns == 1:
                raise refuse(i, f"{node.name} picks value {node.index} of {node.call}, which has no such value")
        if isinstance(node, Done) and not isinstance(graph.nodes[places[node.call]], Call):
            raise refuse(i, f"{node.name} is the end of {node.call}, which is not a call")
        if isinstance(node, Collective):
            members = graph.groups[node.group].members if node.group in graph.groups else ()
            if node.rank >= len(members) or members[node.rank] != node.actor:
                raise refuse(i, f"{node.name} is rank {node.rank} of {node.group}; its members are {members}")
            if graph.parties.get(node.value) != node.actor:
                raise refuse(i, f"{node.name} takes part with {node.value}, which {node.actor} does not have")
        ends = node.after if isinstance(node, Call) else node.leaves if isinstance(node, Output) else ()
        for end in ends:
            if not isinstance(graph.nodes[places[end]], Done):
                raise refuse(i, f"{node.name} comes after {end}; expected the end of a call, as {end}.done")
    outputs = [i for i, node in enumerate(graph.nodes) if isinstance(node, Output)]
    if not outputs:
        raise refuse(None, "the graph has no output; expected one as its last node")
    if outputs[0] != len(graph.nodes) - 1:
        raise refuse(outputs[0], "the output is not the last node; expected one output, after everything else")
    if DRIVER in graph.makers:
        raise refuse(None, f"an actor of the graph is named {DRIVER!r}, which names the compiling process")


def _after(ends: tuple[str, ...]) -> str:
    return f" after {', '.join(end.removesuffix('.done') for end in ends)}" if ends else ""


def _show(template: Any) -> str:
    """An argument as the graph's text shows it: values by name, constants shortened, arrays by dtype and shape."""
    if isinstance(template, Value):
        return template.name
    if is_container(template) and any(isinstance(leaf, Value) for leaf in leaves(template)):
        if isinstance(template, dict):
            return "{" + ", ".join(f"{_constant(key)}: {_show(item)}" for key, item in template.items()) + "}"
        items = ", ".join(_show(item) for item in template)
        if isinstance(template, list):
            return f"[{items}]"
        comma = "," if len(template) == 1 and type(template) is tuple else ""
        return f"{'' if type(template) is tuple else type(template).__name__}({items}{comma})"
    return _constant(template)


class _Constants(reprlib.Repr):
    """reprlib bounds the work on large containers; what it leaves is cut to one width."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = self.maxlong = _CONSTANT_WIDTH

    def repr_instance(self, x: Any, level: int) -> str:
        shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
        if isinstance(shape, tuple) and dtype is not None:
            return f"{str(dtype).rpartition('.')[2]}[{', '.join(map(str, shape))}]"
        return super().repr_instance(x, level)


_CONSTANTS = _Constants()


def _constant(value: Any) -> str:
    # A repr may hold line breaks, and the text is one line a node.
    text = " ".join(_CONSTANTS.repr(value).split())
    return text if len(text) <= _CONSTANT_WIDTH else f"{text[: _CONSTANT_WIDTH - 3]}..."
