"""The arguments of `execute`: checked against what the graph's input says, and taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dagc.errors import WrongArgumentsError
from dagc.program import InputAccess

__all__ = ["check_inputs", "signature", "take"]


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


def take(access: InputAccess | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The value of an access, of arguments that were checked. No access: a tick, whose every message is None."""
    if access is None:
        return None
    if access.key is None:
        return args[0]
    return kwargs[access.key] if isinstance(access.key, str) else args[access.key]
