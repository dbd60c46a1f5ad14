"""lower: a plan becomes programs, one an actor and one for the driver.

Values get numbered slots. A slot is free again after the last step that reads its value, and the lowest free number is
taken first, so that an actor holds few values and gives up each as soon as it can (linear scan over lifetimes, as
torch.fx's Interpreter and tinygrad's memory planner free values: the last use is found once, backwards).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from channels.communicators import AgreedTransport, Transport, transport
from channels.transfer import TensorPath
from dagc.containers import map_leaves
from dagc.graph import DRIVER, Call, Graph, Input, Pick, Value
from dagc.graph import Group as GraphGroup
from dagc.inputs import signature
from dagc.passes.channels import BUFFERED
from dagc.passes.transports import transport_of
from dagc.plan import Channel, Op, OpKind, Plan
from dagc.program import DriverProgram, InputAccess, Invoke, Join, Output, Post, Program, Recv, Run, Send, Slot, Step

__all__ = ["Group", "Lowered", "lower"]


class Group(NamedTuple):
    """Actors that share a communicator, by their ranks."""

    #: The name of a transport, "auto", or a Transport.
    transport: Any
    members: tuple[str, ...]


class Lowered(NamedTuple):
    """What install delivers."""

    #: Actor -> its program.
    programs: Mapping[str, Program]
    driver: DriverProgram
    #: Communicator -> who is in it.
    communicators: Mapping[str, Group]


def lower(plan: Plan, graph: Graph) -> Lowered:
    """The programs of a plan that was made from this graph."""
    reads = _reader_indices(plan)
    actors = [actor for actor in plan.schedule if actor != DRIVER]
    shared = {name: _communicator(group) for name, group in graph.groups.items()}
    groups = graph.groups.items()
    communicators = {shared[name]: Group(_agreed(group.transport), group.members) for name, group in groups}
    communicators.update(_point_to_point(plan, graph))
    ranks = {name: {party: rank for rank, party in enumerate(of.members)} for name, of in communicators.items()}
    paths = {party: _paths(plan, graph, party, ranks) for party in plan.schedule}
    return Lowered(
        {a: _lower_actor(plan, graph, a, reads[a], shared, paths[a], ranks) for a in actors},
        _lower_driver(plan, graph, reads[DRIVER], paths[DRIVER]),
        communicators,
    )


def _communicator(group: GraphGroup) -> str:
    """What a communicator is called: the same for all collectives of the same ranks over the same transport."""
    return f"{_name(group.transport)}({', '.join(group.members)})"


def _agreed(chosen: Any) -> Any:
    """NCCL does not compare what the ranks ask for, and has no way to decline; in a graph both must be errors."""
    return AgreedTransport(transport(chosen)) if chosen == "nccl" else chosen


def _name(chosen: Any) -> str:
    return chosen if isinstance(chosen, str) else repr(chosen)


def _point_to_point(plan: Plan, graph: Graph) -> dict[str, Group]:
    """One communicator a transport, of all parties whose channels use it.

    Not the one of a collective of the same ranks: NCCL runs the operations of one communicator one after the other, so
    the two would hold up each other. And not one for each two parties: it costs memory on the device, and the order of
    what a party sends and receives is the plan's in any case.
    """
    used: dict[str, str | Transport] = {}
    members: dict[str, dict[str, None]] = {}
    for channel in plan.channels:
        if channel.transport not in BUFFERED:
            name = _meeting_place(channel, graph)
            used[name] = transport_of(channel, graph)
            members.setdefault(name, {}).update(dict.fromkeys((channel.writer, *channel.readers)))
    return {name: Group(used[name], tuple(members[name])) for name in used}


def _meeting_place(channel: Channel, graph: Graph) -> str:
    """What the communicator is called that the tensors of a channel go by."""
    return f"{_name(transport_of(channel, graph))} from actor to actor"


def _paths(plan: Plan, graph: Graph, party: str, ranks: Mapping[str, Mapping[str, int]]) -> dict[str, TensorPath]:
    """Of the channels of one party. `ranks`: communicator -> party -> its rank."""
    found = {}
    for op in plan.schedule[party]:
        if op.kind not in (OpKind.SEND, OpKind.RECV):
            continue
        channel = plan.by_name[op.target]
        said = graph.transports.get(channel.value)
        if said is None or (channel.transport in BUFFERED and not channel.tensors):
            continue
        communicator: str | None = None
        peers: tuple[int, ...] = ()
        if channel.transport not in BUFFERED:
            communicator = _meeting_place(channel, graph)
            others = channel.readers if op.kind is OpKind.SEND else (channel.writer,)
            peers = tuple(ranks[communicator][other] for other in others)
        found[channel.name] = TensorPath(communicator, peers, said.device, said.spec)
    return found


def _lower_actor(
    plan: Plan,
    graph: Graph,
    actor: str,
    reads: Mapping[str, int],
    shared: Mapping[str, str],
    paths: Mapping[str, TensorPath],
    ranks: Mapping[str, Mapping[str, int]],
) -> Program:
    ops = plan.schedule[actor]
    slots = _Slots(plan, graph, ops, actor, shared)
    joined = dict.fromkeys(shared[op.target] for op in ops if op.kind is OpKind.JOIN)
    joined.update((path.communicator, None) for path in paths.values() if path.communicator is not None)
    steps = tuple(slots.steps())
    return Program(
        graph=plan.name,
        actor=actor,
        steps=steps,
        slots=slots.count,
        reads=reads,
        writes=tuple(op.target for op in ops if op.kind is OpKind.SEND),
        ranks={name: ranks[name][actor] for name in joined},
        tensors=paths,
        # With one execution under way there is none to begin meanwhile.
        free=plan.order == "free" and plan.max_inflight > 1,
    )


def _lower_driver(plan: Plan, graph: Graph, reads: Mapping[str, int], paths: Mapping[str, TensorPath]) -> DriverProgram:
    ops = plan.schedule[DRIVER]
    accesses = {node.name: node.access for node in graph.inputs}
    positional, keywords = signature(accesses.values())
    return DriverProgram(
        graph=plan.name,
        # What is not of the input is the tick.
        sends={op.target: accesses.get(op.target) for op in ops if op.kind is OpKind.SEND},
        outputs=tuple(_output(graph, name, accesses) for name in graph.output.values),
        leaves=graph.output.leaves,
        reads=reads,
        positional=positional,
        keywords=keywords,
        multi=graph.output.multi,
        tensors=paths,
    )


def _output(graph: Graph, name: str, accesses: Mapping[str, InputAccess]) -> Output:
    if isinstance(graph.by_name[name], Input):
        return Output(name, None, accesses[name])
    return Output(name, name)


def _reader_indices(plan: Plan) -> dict[str, dict[str, int]]:
    """Party -> channel -> its index among the readers, found in one go over all channels."""
    found: dict[str, dict[str, int]] = {party: {} for party in plan.schedule}
    for channel in plan.channels:
        for index, reader in enumerate(channel.readers):
            found[reader][channel.name] = index
    return found


class _Slots:
    """The slots of one actor while its ops are lowered, first to last."""

    def __init__(self, plan: Plan, graph: Graph, ops: tuple[Op, ...], actor: str, shared: Mapping[str, str]) -> None:
        self._channels = plan.by_name
        self._graph = graph
        self._ops = ops
        self._actor = actor
        #: Collective -> communicator.
        self._shared = shared
        self._of: dict[str, int] = {}
        self._free: list[int] = []
        #: How many slots there are so far.
        self.count = 0
        #: Value -> the last use of it; uses are counted as they come.
        self._last = {value: i for i, values in enumerate(self._uses()) for value in values}
        self._at = -1

    def steps(self) -> Iterator[Step]:
        for op in self._ops:
            if op.kind is OpKind.RECV:
                value = self._channels[op.target].value
                slot = self._take(value)
                yield Recv(op.target, slot, self._release((value,)))
            elif op.kind is OpKind.SEND:
                value = self._channels[op.target].value
                yield Send(op.target, self._of[value], self._release((value,)))
            elif op.kind is OpKind.POST:
                self._release(())
                yield Post(op.target)
            elif op.kind is OpKind.JOIN:
                yield self._join(op)
            else:
                yield self._run(op)

    def _join(self, op: Op) -> Join:
        part, group = self._graph.parts[op.target, self._actor], self._graph.groups[op.target]
        value, slot = self._of[part.value], self._take(part.name)
        last = self._release((part.value, part.name))
        return Join(op.target, self._shared[op.target], group.kind, group.op, group.root, value, slot, last)

    def _run(self, op: Op) -> Run:
        calls: list[Invoke] = []
        dropped: set[int] = set()
        for name in op.calls:
            call = self._call(name)
            # The results get their slots before the arguments give theirs up: those are cleared after the call.
            made, results = self._invoke(call)
            last = self._release((*call.uses, *results))
            dropped |= {*last, *made.results}
            calls.append(replace(made, last=last))
        calls[-1] = replace(calls[-1], last=())
        # A call that raises leaves what those after it would have dropped.
        return Run(tuple(calls), tuple(sorted(dropped.difference(self._of.values()))))

    def _invoke(self, call: Call) -> tuple[Invoke, tuple[str, ...]]:
        args, kwargs = self._template(call.args), {key: self._template(arg) for key, arg in call.kwargs.items()}
        after = tuple(self._of[end] for end in call.after)
        results = self._results(call)
        slots = [self._take(result) for result in results]
        done = slots.pop() if call.name in self._graph.ends else None
        several = call.num_returns > 1
        out = tuple(slots)
        return Invoke(call.name, call.method, args, kwargs, out, several, done, after, call.function), results

    def _results(self, call: Call) -> tuple[str, ...]:
        """All that gets a slot: every value, also those that nobody uses, then the end of the call if it is told."""
        several = call.num_returns > 1
        values = tuple(Pick(call.name, k).name for k in range(call.num_returns)) if several else (call.name,)
        return (*values, self._graph.ends[call.name]) if call.name in self._graph.ends else values

    def _template(self, template: Any) -> Any:
        return map_leaves(template, lambda leaf: Slot(self._of[leaf.name]) if isinstance(leaf, Value) else leaf)

    def _take(self, value: str) -> int:
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot = self.count
            self.count += 1
        self._of[value] = slot
        return slot

    def _release(self, values: Iterable[str]) -> tuple[int, ...]:
        """One more use; free the slots of those of its values that none after it reads."""
        self._at += 1
        over = dict.fromkeys(value for value in values if self._last.get(value, -1) <= self._at)
        freed = tuple(sorted(self._of.pop(value) for value in over))
        for slot in freed:
            heapq.heappush(self._free, slot)
        return freed

    def _uses(self) -> Iterator[tuple[str, ...]]:
        """What is read by each receive, call and send, in their order."""
        for op in self._ops:
            if op.kind is OpKind.RUN:
                yield from (self._call(name).uses for name in op.calls)
            elif op.kind is OpKind.JOIN:
                yield self._graph.parts[op.target, self._actor].uses
            else:
                yield (self._channels[op.target].value,) if op.kind is OpKind.SEND else ()

    def _call(self, name: str) -> Call:
        call = self._graph.by_name[name]
        assert isinstance(call, Call), "the plan was made from this graph"
        return call
