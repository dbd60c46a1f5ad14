"""map: many executions of one graph, a bounded number of them ahead of who takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dagc.errors import GraphError, WrongArgumentsError

__all__ = ["of_items", "results_of", "with_bar"]


def of_items(
    name: str, positional: int, keywords: tuple[str, ...], execute: Callable[..., Any]
) -> Callable[[Any], Any]:
    """`execute` of a graph, as a function of one item: the only argument, a tuple of all, or a dict of all by name.

    Raises WrongArgumentsError if the graph takes what no item can say; the function raises it for another item.
    """
    if positional <= 1 and not keywords:
        return execute
    if positional and keywords:
        raise WrongArgumentsError(
            f"graph {name} takes positional and keyword arguments ({positional} and {', '.join(keywords)}), "
            "which is more than one input of map can say; call execute for each"
        )

    def execute_item(item: Any) -> Any:
        if keywords and isinstance(item, Mapping):
            return execute(**item)
        if positional and isinstance(item, (tuple, list)):
            return execute(*item)
        expected = f"a dict of {', '.join(keywords)}" if keywords else f"a tuple of {positional}"
        raise WrongArgumentsError(f"map of graph {name}: an input is {item!r}; expected {expected}")

    return execute_item


def results_of(execute: Callable[[Any], Any], items: Iterable[Any], limit: int) -> Iterator[Any]:
    """What `execute` of each item comes to, in their order; at most `limit` are under way or unread."""
    under_way: deque[Any] = deque()
    for item in items:
        if len(under_way) >= limit:
            yield _get_all(under_way.popleft())
        under_way.append(execute(item))
    while under_way:
        yield _get_all(under_way.popleft())


def with_bar(items: Iterable[Any], name: str) -> Iterable[Any]:
    """The items, with a bar on standard error that says how many were taken. Raises GraphError without rich."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        raise GraphError(
            "map(progress=True) draws with the package rich, which is not here: pip install rich"
        ) from None
    return track(items, description=name, console=Console(stderr=True))


def _get_all(refs: Any) -> Any:
    return [ref.get() for ref in refs] if isinstance(refs, list) else refs.get()
