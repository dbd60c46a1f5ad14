"""The arguments of `execute`: checked against what the graph's input says, and taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dagc.errors import WrongArgumentsError
from dagc.program import InputAccess

__all__ = ["check_inputs", "of_items", "signature", "take"]


def signature(accesses: Iterable[InputAccess]) -> tuple[int, tuple[str, ...]]:
    """How many positional arguments there are, and the keywords. The input as a whole is one positional argument."""
    keys = [access.key for access in accesses]
    positions = [0 if key is None else key for key in keys if not isinstance(key, str)]
    return max(positions, default=-1) + 1, tuple(key for key in keys if isinstance(key, str))


def check_inputs(
    name: str, positional: int, keywords: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Raises WrongArgumentsError if the arguments are not those that the graph takes."""
    problems = []
    if len(args) != positional:
        problems.append(f"found {len(args)} positional arguments")
    missing = [key for key in keywords if key not in kwargs]
    unknown = [key for key in kwargs if key not in keywords]
    if missing:
        problems.append(f"missing {', '.join(missing)}")
    if unknown:
        problems.append(f"unknown {', '.join(unknown)}")
    if problems:
        takes = ", ".join([*(f"input[{i}]" for i in range(positional)), *(f"{key}=" for key in keywords)])
        raise WrongArgumentsError(f"graph {name}: {'; '.join(problems)}; its input is execute({takes})")


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


def take(access: InputAccess | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The value of an access, of arguments that were checked. No access: a tick, whose every message is None."""
    if access is None:
        return None
    if access.key is None:
        return args[0]
    return kwargs[access.key] if isinstance(access.key, str) else args[access.key]
