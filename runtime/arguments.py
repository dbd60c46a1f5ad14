"""Arguments of a dynamic call: what is known now is packed now; what an ObjectRef stands for follows.

Packing at once means that the caller may go on and change what it passed, whenever the call is really made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from channels.errors import SerializationError
from channels.serialize import pack
from runtime.calls import DagNode
from runtime.errors import GraphError
from runtime.outcomes import open_value
from runtime.refs import ObjectRef
from runtime.unsendable import unsendable

__all__ = ["Argument", "load_arguments", "pack_arguments"]


@dataclass(frozen=True)
class Argument:
    """Stands for the value of a ref among packed arguments."""

    index: int


def pack_arguments(
    what: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, callee: tuple[Any, ...] = ()
) -> tuple[bytes, list[ObjectRef]]:
    """(args, kwargs) packed, with an Argument for each ObjectRef, and these refs. `callee`, if it goes along: the class
    or function, in front of the arguments.

    Raises GraphError if one of them is a DagNode, SerializationError if one cannot be pickled; `what` names the call.
    """
    refs: list[ObjectRef] = []

    def place(value: Any) -> Any:
        if isinstance(value, ObjectRef):
            refs.append(value)
            return Argument(len(refs) - 1)
        if isinstance(value, DagNode):
            raise GraphError(
                f"{what}: {value!r} is a value of a DAG that was not run; bind the call too, or pass dagc.get(...)"
            )
        return value

    placed, named = [place(value) for value in args], {name: place(value) for name, value in kwargs.items()}
    try:
        return pack(([*callee, *placed], named)), refs
    except SerializationError as error:
        raise unsendable(what, placed, named, error) from error


def load_arguments(payload: bytes, values: Sequence[bytes]) -> tuple[list[Any], dict[str, Any]]:
    """What `pack_arguments` packed, with the values of the refs in place. Raises SerializationError."""
    args, kwargs = open_value(payload)
    if values:
        known = [open_value(value) for value in values]

        def place(value: Any) -> Any:
            return known[value.index] if isinstance(value, Argument) else value

        args, kwargs = [place(value) for value in args], {name: place(value) for name, value in kwargs.items()}
    return args, kwargs
