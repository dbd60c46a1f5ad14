"""order_calls: in which order the calls of a graph are made. Each actor makes its own in this order.

"bind", the usual: as they were bound, each after those that it needs. Methods of an actor may see what earlier ones did
to it, and whoever wrote the DAG knows in which order they should; the compiler does not.

"free", for those who say that only data and `after` order the calls: the better of two list schedules (Graham 1969, Hu
1961) and the order of bind. Both replay the graph with every call taking one round and an actor making the first of
its calls that are ready; which is first is the question:
- critical: that with the longest way to the end of the execution, so that what others wait for is made early;
- drain: that with the shortest way, so that what was begun is finished; of a pipeline of forwards and backwards this
  makes one-forward-one-backward (PipeDream, Narayanan et al. 2019), which holds the fewest values.
The better one takes fewer rounds, then holds fewer values at a time; then comes bind before drain before critical.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dagc.graph import Call, Collective, Graph

__all__ = ["Replay", "best", "order_calls", "replay"]


class Replay(NamedTuple):
    """What making the calls takes if every call takes one round."""

    #: In the order in which they begin; calls that begin in the same round in the order of the graph.
    calls: tuple[Call, ...]
    rounds: int
    #: The most values that wait at the same time for somebody to use them.
    held: int


def order_calls(graph: Graph, order: str) -> tuple[Call | Collective, ...]:
    """The calls of the graph in the order "bind" or "free"; each comes after those that it needs.

    Of a graph with collectives the order is always that of bind: they are made by several actors at once, which the
    list schedules do not know.
    """
    return graph.steps if order == "bind" or graph.groups else best(graph).calls


def best(graph: Graph) -> Replay:
    """The best of the orders that only data and `after` allow."""
    needs = _needs(graph)
    ways = _ways(graph, needs)
    place = {call.name: i for i, call in enumerate(graph.calls)}
    candidates = [
        replay(graph, needs, None),
        replay(graph, needs, lambda name: (ways[name], place[name])),
        replay(graph, needs, lambda name: (-ways[name], place[name])),
    ]
    return min(candidates, key=lambda found: (found.rounds, found.held))


def replay(
    graph: Graph, needs: Mapping[str, Sequence[str]] | None = None, key: Callable[[str], tuple[int, int]] | None = None
) -> Replay:
    """Make the calls, one a round on each actor. `key` ranks the calls of an actor that are ready, the lowest first;
    without one each actor makes its calls in the order of the graph and waits for those that are not ready."""
    needs = _needs(graph) if needs is None else needs
    place = {call.name: i for i, call in enumerate(graph.calls)}
    used_by: dict[str, list[str]] = {name: [] for name in needs}
    for name, found in needs.items():
        for need in found:
            used_by[need].append(name)
    missing = {name: len(found) for name, found in needs.items()}
    unused = {name: len(users) for name, users in used_by.items()}
    queues: dict[str, list[tuple[tuple[int, int], str]]] = {actor: [] for actor in graph.makers}
    in_order: dict[str, list[str]] = {actor: [] for actor in graph.makers}
    for call in reversed(graph.calls):
        in_order[call.actor].append(call.name)
    actor_of = {call.name: call.actor for call in graph.calls}
    ready = {name for name, count in missing.items() if not count}
    for name in ready:
        if key is not None:
            heapq.heappush(queues[actor_of[name]], (key(name), name))
    active = set(graph.makers)
    made: list[str] = []
    rounds = held = most = 0
    while len(made) < len(graph.calls):
        begun = []
        for actor in active:
            if key is None:
                waiting = in_order[actor]
                if waiting and waiting[-1] in ready:
                    begun.append(waiting.pop())
            elif queues[actor]:
                begun.append(heapq.heappop(queues[actor])[1])
        rounds += 1
        begun.sort(key=place.__getitem__)
        made += begun
        # Only an actor that made a call, or one of whose calls became ready, can make one in the next round.
        active = {actor_of[name] for name in begun}
        for name in begun:
            held += bool(unused[name])
            for need in needs[name]:
                unused[need] -= 1
                held -= not unused[need]
            for user in used_by[name]:
                missing[user] -= 1
                if not missing[user]:
                    ready.add(user)
                    active.add(actor_of[user])
                    if key is not None:
                        heapq.heappush(queues[actor_of[user]], (key(user), user))
        most = max(most, held)
    calls = {call.name: call for call in graph.calls}
    return Replay(tuple(calls[name] for name in made), rounds, most)


def _needs(graph: Graph) -> dict[str, list[str]]:
    """Call -> the calls that it needs, each once."""
    makers = {name: name for name in (call.name for call in graph.calls)}
    for call, picks in graph.picks.items():
        makers.update((pick.name, call) for pick in picks)
    makers.update((end, call) for call, end in graph.ends.items())
    return {call.name: list(dict.fromkeys(makers[use] for use in call.uses if use in makers)) for call in graph.calls}


def _ways(graph: Graph, needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Call -> how many calls the longest way from it to the end of the execution has, itself included."""
    ways = {call.name: 1 for call in graph.calls}
    for call in reversed(graph.calls):
        for need in needs[call.name]:
            ways[need] = max(ways[need], ways[call.name] + 1)
    return ways
