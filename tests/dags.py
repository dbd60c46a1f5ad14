"""Random DAGs, and what they mean: a plain Python evaluation of the records that `bind` makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

import dagc
from dagc import InputNode, MultiOutputNode
from dagc.bind import InputPart
from runtime.calls import BoundCall, BoundReturn

__all__ = ["Boom", "Symbolic", "evaluate", "outputs"]


class Boom(Exception):
    """What a call raises that fails."""


class Symbolic:
    """An actor whose methods say what they were called with, so that two results are equal only if all of it was."""

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return (self.name, "call", args, sorted(kwargs.items()))

    @dagc.method(num_returns=2)
    def pair(self, *args: Any) -> Any:
        return (self.name, "first", args), (self.name, "second", args)

    def nothing(self, *_: Any) -> None:
        """Its value is None."""

    def fail(self, *args: Any) -> Any:
        raise Boom(self.name)

    async def later(self, *args: Any) -> Any:
        return (self.name, "later", args)


@dagc.remote
def beside(*args: Any) -> Any:
    return ("beside", args)


@st.composite
def outputs(draw: st.DrawFn, actors: Sequence[Any], *, workers: bool = False) -> Any:
    """A MultiOutputNode over these actors: methods and functions, containers, keywords, constants, leaves, `after`,
    values that several read, and values that nobody reads."""
    with InputNode() as x:
        values: list[Any] = [x[0], x[1], x.key]
        calls: list[Any] = []
        for _ in range(draw(st.integers(1, 10))):
            argument = st.one_of(
                st.sampled_from(values),
                st.integers(0, 3),
                st.none(),
                st.lists(st.sampled_from(values), max_size=2),
                st.tuples(st.sampled_from(values), st.just("constant")),
                st.fixed_dictionaries({"in": st.sampled_from(values)}),
            )
            args = draw(st.lists(argument, max_size=3))
            actor = draw(st.sampled_from(actors))
            kind = draw(st.sampled_from(["call", "call", "call", "pair", "nothing", "later", "beside", "fail"]))
            if kind == "beside":
                # Without an actor's value among its arguments a function would have a process of its own.
                args = [*args, draw(st.sampled_from(calls))] if calls and not workers else args
                made = beside.bind(*args) if calls or workers else actor.call.bind(*args)
            elif kind == "call":
                made = actor.call.bind(*args, **draw(st.fixed_dictionaries({}, optional={"k": argument})))
            elif kind == "fail" and draw(st.integers(0, 3)):
                made = actor.call.bind(*args)  # one in four is enough
            else:
                made = getattr(actor, kind).bind(*args)
            found = list(made) if isinstance(made, tuple) else [made]
            if calls and draw(st.integers(0, 3)) == 0:
                found[0].after(*draw(st.lists(st.sampled_from(calls), min_size=1, max_size=2)))
            values += found
            calls += found
        wanted = draw(st.lists(st.sampled_from([*calls, *values]), min_size=1, max_size=4))
        wanted.append(draw(st.sampled_from(calls)))
    return MultiOutputNode(wanted)


def evaluate(output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], bool]:
    """The values of the outputs, Boom where one failed; and whether a call failed that reaches no output."""
    known: dict[int, Any] = {}

    def value(node: Any) -> Any:
        if isinstance(node, InputPart):
            return kwargs[node.key] if isinstance(node.key, str) else args[node.key]
        if isinstance(node, BoundReturn):
            found = value(node.call)
            return found if found is Boom else found[node.index]
        if isinstance(node, BoundCall):
            if id(node) not in known:
                known[id(node)] = made(node)
            return known[id(node)]
        if isinstance(node, (list, tuple)):
            items = [value(item) for item in node]
            return Boom if any(item is Boom for item in items) else type(node)(items)
        if isinstance(node, dict):
            filled = {key: value(item) for key, item in node.items()}
            return Boom if any(item is Boom for item in filled.values()) else filled
        return node

    def made(call: BoundCall) -> Any:
        given = [value(argument) for argument in call.args]
        named = {key: value(argument) for key, argument in call.kwargs.items()}
        before = [value(other) for other in call._after]
        if any(item is Boom for item in (*given, *named.values(), *before)) or call.method.name == "fail":
            return Boom
        if call.handle is None:
            return call.function.__wrapped__(*given)
        return meaning(call.handle._label, call.method.name, tuple(given), named)

    values = [value(node) for node in output.nodes]
    scope = next(call.scope for call in map(_call_of, output.nodes) if call is not None)
    assert scope is not None
    return values, any(value(call) is Boom for call in scope)


def _call_of(node: Any) -> BoundCall | None:
    return node.call if isinstance(node, BoundReturn) else node if isinstance(node, BoundCall) else None


def meaning(name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the methods of Symbolic return."""
    if method == "nothing":
        return None
    if method == "pair":
        return (name, "first", args), (name, "second", args)
    return (name, "later", args) if method == "later" else (name, "call", args, sorted(kwargs.items()))
