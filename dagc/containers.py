"""The containers that a DAG looks into: arguments are templates, whose values may lie in lists, tuples and dicts.

Exactly `list`, `dict` (its values), `tuple` and named tuples. A subclass of them may keep more than its elements, so
that nobody but its author can rebuild it; a set or a dict key would have to be hashed before its value is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["is_container", "leaves", "map_leaves", "parts", "rebuild"]


def is_container(value: Any) -> bool:
    """True for a list, a dict, a tuple and a named tuple, but for no other subclass of them."""
    kind = type(value)
    return kind in (list, tuple, dict) or (isinstance(value, tuple) and hasattr(kind, "_fields"))


def parts(container: Any) -> Iterator[Any]:
    """The elements of a container, of a dict its values."""
    return iter(container.values() if type(container) is dict else container)


def rebuild(container: Any, items: list[Any]) -> Any:
    """A container like this one, with other elements: as many, in the order of `parts`."""
    kind = type(container)
    if kind is list:
        return items
    if kind is dict:
        return dict(zip(container, items, strict=True))
    return tuple(items) if kind is tuple else kind._make(items)


def leaves(value: Any) -> Iterator[Any]:
    """What lies in `value` and is no container itself, left to right; `value` must not contain itself."""
    stack = [iter((value,))]
    while stack:
        for item in stack[-1]:
            if is_container(item):
                stack.append(parts(item))
                break
            yield item
        else:
            stack.pop()


def map_leaves(value: Any, replace: Callable[[Any], Any]) -> Any:
    """`value` with every leaf replaced. A container in which nothing was replaced is returned itself, not a copy.

    Recursive in the depth of the containers, as pickle is, which has to carry them.
    """
    if not is_container(value):
        return replace(value)
    old = list(parts(value))
    new = [map_leaves(item, replace) for item in old]
    if all(a is b for a, b in zip(old, new, strict=True)):
        return value
    return rebuild(value, new)
