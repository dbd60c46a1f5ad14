"""run: the same DAG, not compiled. Every call is a dynamic one, made in the order of the graph; same values."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from channels import Failure
from channels.communicators import Transport, transport
from channels.errors import MismatchError
from dagc.build import build_graph
from dagc.containers import is_container, map_leaves
from dagc.graph import Call, Collective, Done, Graph, Input, Pick, Value
from dagc.inputs import check_inputs, signature, take
from dagc.joining import joiner
from dagc.program import Join
from runtime import current, get
from runtime.calls import BoundCall
from runtime.errors import formatted
from runtime.refs import ObjectRef

__all__ = ["run"]


def run(dag: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a DAG once without compiling it, and return its value, or with a MultiOutputNode the list of its values.

    Takes the arguments that `execute` of the compiled graph takes, and raises what getting its result raises. Calls
    that do not depend on each other overlap; what lies inside a list, tuple or dict is waited for before its call.
    """
    graph = build_graph(dag)
    check_inputs("run", *signature(node.access for node in graph.inputs), args, kwargs)
    engine = current.engine()
    values: dict[str, Any] = {}
    returned: dict[str, list[ObjectRef]] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            values[node.name] = take(node.access, args, kwargs)
        elif isinstance(node, Call):
            try:
                for end in node.after:
                    _known(values[end])
                call = _bound(graph, node, values)
            except Exception as error:  # noqa: BLE001 - of the call: others are made all the same
                failed = _failed(error, node.name)
                refs = [failed] * node.num_returns if node.num_returns > 1 else failed
            else:
                refs = engine.submit(call)
            if isinstance(refs, ObjectRef):
                values[node.name] = refs
            else:
                returned[node.name] = refs
        elif isinstance(node, Pick):
            values[node.name] = returned[node.call][node.index]
        elif isinstance(node, Collective):
            if node.name not in values:
                values.update(_join(graph, node.group, values))
        elif isinstance(node, Done):
            # All that a call returns comes at the same time.
            values[node.name] = returned[node.call][0] if node.call in returned else values[node.call]
    results = [_known(values[name]) for name in graph.output.values]
    for leaf in graph.output.leaves:
        _known(values[leaf])
    return results if graph.output.multi else results[0]


def _join(graph: Graph, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """What the collective leaves on each rank: made by threads here, with the arithmetic of the compiled graph."""
    group = graph.groups[name]
    parts = [graph.parts[name, member] for member in group.members]
    given = [_known(values[part.value]) for part in parts]
    used = group.transport if isinstance(group.transport, Transport) else transport("shm")
    handle = used.create(len(parts), name)

    def take_part(rank: int) -> Any:
        communicator = used.join(handle.id, rank, len(parts))
        try:
            step = Join(name, "", group.kind, group.op, group.root, 0, 0)
            return joiner(step, communicator, _raised)(given[rank], 0)
        finally:
            communicator.destroy()

    try:
        with ThreadPoolExecutor(len(parts)) as threads:
            made = list(threads.map(take_part, range(len(parts))))
    finally:
        handle.destroy()
    # The cause before what the other ranks say of it.
    for value in sorted(made, key=lambda value: type(value) is Failure and isinstance(value.error, MismatchError)):
        if type(value) is Failure:
            raise value.unwrap()
    return {part.name: value for part, value in zip(parts, made, strict=True)}


def _raised(error: BaseException, _execution: int) -> Failure:
    return Failure(error, formatted(error, error.__traceback__))


def _bound(graph: Graph, call: Call, values: dict[str, Any]) -> BoundCall:
    def fill(template: Any) -> Any:
        # The engine replaces a ref that is an argument itself; inside a container it has to be the value.
        if is_container(template):
            return map_leaves(template, lambda leaf: _known(values[leaf.name]) if isinstance(leaf, Value) else leaf)
        return values[template.name] if isinstance(template, Value) else template

    args, kwargs = tuple(map(fill, call.args)), {key: fill(arg) for key, arg in call.kwargs.items()}
    if call.function is not None:
        return BoundCall(None, call.function._info, args, kwargs, function=call.function)
    handle = graph.actors[call.actor]
    return BoundCall(handle, replace(handle._methods[call.method], num_returns=call.num_returns), args, kwargs)


def _failed(error: BaseException, name: str) -> ObjectRef:
    future: Future[Any] = Future()
    future.set_exception(error)
    return ObjectRef(future, name)


def _known(value: Any) -> Any:
    return get(value) if isinstance(value, ObjectRef) else value
