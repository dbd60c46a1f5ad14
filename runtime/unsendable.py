"""unsendable: the error for arguments that could not be packed, which says which of them it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from channels.errors import SerializationError
from channels.serialize import pack

__all__ = ["unsendable"]


def unsendable(
    what: str, args: Sequence[Any], kwargs: Mapping[str, Any], error: SerializationError
) -> SerializationError:
    """`error` is what was raised for all of them together. Packs them once more, one by one."""
    numbered = ((f"positional argument {number}", value) for number, value in enumerate(args, start=1))
    for name, value in (*numbered, *((f"argument {name}=", value) for name, value in kwargs.items())):
        try:
            pack(value)
        except SerializationError as found:
            return SerializationError(f"{what}, {name}: {found}")
    return SerializationError(f"{what}: {error}")
