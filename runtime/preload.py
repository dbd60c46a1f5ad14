"""Modules that every worker process imports while it starts.

What runs beside an actor's instance is imported with the first function that is sent there. For a compiled graph that
import would be most of the time that compiling takes; a worker that is just starting has the time.
"""

from __future__ import annotations

__all__ = ["add", "modules"]

_modules: dict[str, None] = {}


def add(module: str) -> None:
    """Name a module that workers will need; workers that are there already are not told."""
    _modules[module] = None


def modules() -> list[str]:
    return list(_modules)
