"""Values on the command line: options, inputs and costs. Errors are ValueErrors, which argparse shows as usage."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Inputs", "parse_costs", "parse_input", "parse_inputs", "parse_option"]

#: Positional and keyword arguments of `execute`.
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def parse_option(text: str) -> tuple[str, Any]:
    """NAME=VALUE of an option of compile; the value is a Python literal, or else the text itself."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise ValueError(f"{text!r}; expected NAME=VALUE, as max_inflight=4")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parse_input(text: str) -> tuple[str | None, Any]:
    """VALUE or NAME=VALUE, where VALUE is JSON or a Python literal: an argument of `execute`, by place or by name."""
    name, equals, value = text.partition("=")
    if equals and name.isidentifier():
        return name, _value(value)
    return None, _value(text)


def parse_inputs(given: Iterable[tuple[str | None, Any]]) -> Inputs:
    """The arguments of `execute` that several --input mean together. Raises ValueError for a name that stands twice."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, value in given:
        if name is None:
            args.append(value)
        elif name in kwargs:
            raise ValueError(f"the input {name!r} is given twice")
        else:
            kwargs[name] = value
    return tuple(args), kwargs


def parse_costs(text: str, calls: Sequence[str]) -> Mapping[str, float]:
    """Seconds of each of the `calls`: one number for all, or the path of a JSON file {call: seconds}.

    Raises ValueError for a file that is not that, and for calls that the graph has not or that are missing.
    """
    number = _number(text)
    if number is not None:
        return dict.fromkeys(calls, _seconds("every call", number))
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"costs {text!r}: neither a number of seconds nor a file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"costs {text!r}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f'costs {text!r}: a {type(found).__name__}; expected an object {{"call": seconds}}')
    known = f"the calls of the graph are: {', '.join(calls)}"
    for what, names in (("no such call", found.keys() - set(calls)), ("without a cost", set(calls) - found.keys())):
        if names:
            raise ValueError(f"costs {text!r}: {', '.join(sorted(names))}: {what}; {known}")
    return {call: _seconds(call, found[call]) for call in calls}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _seconds(call: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{call} costs {value!r}; expected seconds, a number of at least 0")
    return float(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise ValueError(
                f"{text!r} is neither JSON nor a Python literal; a text needs quotes inside the shell's, as '\"text\"'"
            ) from None
