"""Decorated: what `@remote` leaves under the name of a class or a function, and how it travels.

Pickle cannot find a decorated class or function under its own name any more, and would send it by value, with a copy of
all that its code uses of its module. So what travels is the decorated thing, by name. `__main__` is another module
elsewhere, so what is in it does go by value, and so does what has no name in its module: a lambda, a local function.
In a child that multiprocessing spawns the script is `__mp_main__`, which is nowhere else either.
"""

from __future__ import annotations

import sys
from typing import Any

import cloudpickle

__all__ = ["Decorated", "script_by_value", "travelling"]

_SPAWNED = "__mp_main__"
_SCRIPTS = ("__main__", _SPAWNED)


def script_by_value() -> None:
    """What the script of this process defines travels by value. Of `__main__` cloudpickle does that by itself."""
    if _SPAWNED in sys.modules:
        cloudpickle.register_pickle_by_value(sys.modules[_SPAWNED])


class Decorated:
    """Stands in place of `__wrapped__`, the class or function itself."""

    def __init__(self, wrapped: Any, options: Any) -> None:
        self.__wrapped__ = wrapped
        self._options = options
        self.__name__: str = wrapped.__name__
        self.__qualname__: str = wrapped.__qualname__
        self.__module__: str = wrapped.__module__
        self.__doc__: str | None = wrapped.__doc__

    def __reduce__(self) -> Any:
        found = travelling(self.__wrapped__)
        if found is self:
            return self.__qualname__  # pickle's way of saying: by name
        return _rebuild, (type(self), found, self._options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__qualname__})"


def travelling(target: Any) -> Any:
    """What to pickle in place of a class or function: the Decorated that stands under its name, if there is one, else
    itself."""
    found: Any = sys.modules.get(target.__module__) if target.__module__ not in _SCRIPTS else None
    for name in target.__qualname__.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, Decorated) and found.__wrapped__ is target else target


def _rebuild(kind: type[Decorated], target: Any, options: Any) -> Decorated:
    """One with other options than the one that is found under its name, or one that is found nowhere."""
    return kind(target.__wrapped__ if isinstance(target, Decorated) else target, options)
