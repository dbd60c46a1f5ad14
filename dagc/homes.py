"""assign_homes: which actor makes each call, also those of functions, and what everybody is called in the graph.

The rule for functions:
- A function that asks for resources (num_cpus, num_gpus, resources, runtime_env) gets a worker of its own for each of
  its calls: whoever states what a function needs wants it to have that, beside what others have.
- Any other function is called beside the actor that makes the first of its arguments that an actor makes: the value
  does not leave its process, and no process is started.
- If no actor makes one of its arguments, there is nothing to be beside: a worker of its own.

A worker is started when the graph is compiled and ends with the graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dagc.collectives import BoundCollective, CollectiveValue
from dagc.graph import DRIVER
from dagc.records import Bound, Records
from runtime.calls import ActorHandle, BoundCall, BoundReturn, DagNode
from runtime.functions import RemoteFunction

__all__ = ["Homes", "assign_homes", "word_of"]


class Homes(NamedTuple):
    """Call (by id) -> the name of the actor or worker that makes it; and these, in the order of first appearance."""

    of: Mapping[int, str]
    #: Collective (by id) -> the actors of its ranks.
    ranks: Mapping[int, tuple[str, ...]]
    actors: Mapping[str, ActorHandle]
    workers: Mapping[str, RemoteFunction]


def assign_homes(records: Records, calls: Sequence[Bound]) -> Homes:
    """`calls`: those of the records, each after those that it needs, as far as there is such an order."""
    actors = _name_actors(calls)
    names = {handle._actor_id: name for name, handle in actors.items()}
    of: dict[int, str] = {}
    ranks: dict[int, tuple[str, ...]] = {}
    workers: dict[str, RemoteFunction] = {}
    counts: dict[str, int] = {}

    def home(node: DagNode) -> str | None:
        """The actor that has a node's value first; None for the driver, or in a cycle."""
        if isinstance(node, CollectiveValue):
            found = ranks.get(id(node.collective))
            return found[node.rank] if found else None
        return of.get(id(node.call if isinstance(node, BoundReturn) else node))

    for call in calls:
        if isinstance(call, BoundCollective):
            ranks[id(call)] = tuple(home(node) or "" for node in call.nodes)
            continue
        if call.handle is not None:
            of[id(call)] = names[call.handle._actor_id]
            continue
        function: RemoteFunction = call.function
        found = map(home, records.arguments.get(id(call), ()))
        makers = (maker for maker in found if maker is not None)
        maker = None if function.asks_for_resources else next(makers, None)
        if maker is None:
            word = word_of(call.method.name)
            count = counts.get(word, 0)
            while f"{word}_{count}" in actors:
                count += 1
            counts[word] = count + 1
            maker = f"{word}_{count}"
            workers[maker] = function
        of[id(call)] = maker
    return Homes(of, ranks, actors, workers)


def _name_actors(calls: Sequence[Bound]) -> dict[str, ActorHandle]:
    """Each actor's name: the one that its user gave it, else its class and an index by first appearance."""
    found = (call.handle for call in calls if isinstance(call, BoundCall))
    handles = {handle._actor_id: handle for handle in found if handle is not None}
    words = {actor: word_of(handle._label) for actor, handle in handles.items()}
    given = [words[actor] for actor, handle in handles.items() if handle._named]
    named: dict[str, ActorHandle] = {}
    counts: dict[str, int] = {}
    for actor, handle in handles.items():
        word = words[actor]
        if handle._named and given.count(word) == 1 and word != DRIVER:
            named[word] = handle
            continue
        count = counts.get(word, -1) + 1
        while f"{word}_{count}" in given:
            count += 1
        counts[word] = count
        named[f"{word}_{count}"] = handle
    return named


def word_of(label: str) -> str:
    """A name given by the user may hold anything, a function's own, too; names in the plan are words."""
    return re.sub(r"[^\w-]", "_", label)
