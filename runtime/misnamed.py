"""misnamed: the error for a method that there is not, with what to write in its place."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from runtime.errors import NoSuchMethodError

__all__ = ["misnamed"]


def misnamed(
    what: str, name: str, methods: Sequence[str], instead: Mapping[str, str] = MappingProxyType({})
) -> AttributeError:
    """What `__getattr__` raises: `what` has only these methods. `instead`: what to write for names that are usual
    elsewhere. Of names with an underscore nothing is told: copy, pickle and notebooks look for such on every object.
    """
    if name.startswith("_"):
        return AttributeError(name)
    advice = instead.get(name)
    if advice is None:
        close = difflib.get_close_matches(name, methods, n=1)
        advice = f"did you mean {close[0]}?" if close else f"it has: {', '.join(methods)}"
    return NoSuchMethodError(f"{what} has no {name!r}; {advice}")
