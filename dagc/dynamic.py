"""run: the same DAG, not compiled. Every call is a dynamic one, made in the order of the graph; same values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dagc.build import build_graph
from dagc.containers import is_container, map_leaves
from dagc.graph import Call, Done, Graph, Input, Pick, Value
from dagc.inputs import check_inputs, signature, take
from runtime import current, get
from runtime.calls import BoundCall
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
            for end in node.after:
                _known(values[end])
            refs = engine.submit(_bound(graph, node, values))
            if isinstance(refs, ObjectRef):
                values[node.name] = refs
            else:
                returned[node.name] = refs
        elif isinstance(node, Pick):
            values[node.name] = returned[node.call][node.index]
        elif isinstance(node, Done):
            # All that a call returns comes at the same time.
            values[node.name] = returned[node.call][0] if node.call in returned else values[node.call]
    results = [_known(values[name]) for name in graph.output.values]
    for leaf in graph.output.leaves:
        _known(values[leaf])
    return results if graph.output.multi else results[0]


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


def _known(value: Any) -> Any:
    return get(value) if isinstance(value, ObjectRef) else value
