"""What `@remote(...)` and `.options(...)` may say of an actor or of a function, and whether it may be so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from runtime.engine import ActorOptions
from runtime.errors import GraphError

__all__ = ["FunctionOptions", "checked", "checked_before_the_target"]


@dataclass(frozen=True)
class FunctionOptions:
    """What may be said of a function. What was not said is None: whoever says what a function needs gets workers with
    just that."""

    #: Shown in errors in place of the function's own name.
    name: str | None = None
    num_returns: int = 1
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: Mapping[str, float] | None = None
    runtime_env: Mapping[str, Any] | None = None


Options = TypeVar("Options", ActorOptions, FunctionOptions)
_KINDS: Mapping[type, str] = {ActorOptions: "actor", FunctionOptions: "function"}


def checked(base: Options, options: Mapping[str, Any]) -> Options:
    """`base` with `options`. Raises GraphError for one that does not exist or has a wrong value."""
    known = [field.name for field in fields(base)]
    for name, value in options.items():
        if name not in known:
            raise GraphError(f"unknown {_KINDS[type(base)]} option {name!r}; the options are: {', '.join(known)}")
        _check(name, value, known)
    return replace(base, **options)


def checked_before_the_target(options: Mapping[str, Any]) -> None:
    """Raise GraphError for options that are wrong for actors and for functions: what they are for is not known yet."""
    kinds = {word: [field.name for field in fields(kind)] for kind, word in _KINDS.items()}
    known = list(dict.fromkeys(name for names in kinds.values() for name in names))
    for name, value in options.items():
        if name not in known:
            listed = "; ".join(f"the options of {'an' if k == 'actor' else 'a'} {k} are: {', '.join(names)}"
                               for k, names in kinds.items())  # fmt: skip
            raise GraphError(f"unknown option {name!r}; {listed}")
        _check(name, value, known)


def _check(name: str, value: Any, known: list[str]) -> None:
    expected = _CHECKS[name](value)
    if expected:
        raise GraphError(f"{name}={value!r}; expected {expected} (the options are: {', '.join(known)})")


def _amount(value: Any) -> str:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return "" if good else "a number of at least 0"


def _gpus(value: Any) -> str:
    good = not _amount(value) and (value <= 1 or value == int(value))
    return "" if good else "a whole number, or a share of one GPU between 0 and 1"


def _resources(value: Any) -> str:
    good = isinstance(value, Mapping) and all(isinstance(k, str) and not _amount(v) for k, v in value.items())
    return "" if good else "a dict of names and numbers of at least 0"


def _name(value: Any) -> str:
    return "" if value is None or (isinstance(value, str) and value) else "a string that is not empty, or None"


def _count(value: Any) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return "" if good else "a whole number of at least 1"


def _runtime_env(value: Any) -> str:
    good = isinstance(value, Mapping) and set(value) <= {"env_vars"}
    if good:
        variables = value.get("env_vars", {})
        good = isinstance(variables, Mapping) and all(
            isinstance(part, str) and "\0" not in part for item in variables.items() for part in item
        )
    return "" if good else 'a dict {"env_vars": {name: value}} of strings'


#: Each says what was expected, or nothing if the value is good.
_CHECKS: Mapping[str, Callable[[Any], str]] = {
    "name": _name,
    "num_returns": _count,
    "num_cpus": _amount,
    "num_gpus": _gpus,
    "resources": _resources,
    "max_concurrency": _count,
    "runtime_env": _runtime_env,
}
