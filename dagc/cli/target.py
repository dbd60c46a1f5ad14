"""MODULE:FUNCTION, as the command line names what binds a DAG: found, imported and called.

    examples.hello:build      a module, from the folder that the command runs in or from wherever Python finds it
    pipelines/two.py:build    a file; inside a package (a folder with __init__.py) it is imported as part of that

What goes wrong in there is the user's: he sees his own traceback, from his own first line on.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from dagc.errors import DagcError
from runtime.calls import DagNode

__all__ = ["TargetError", "bind_target", "call_target", "load_target", "parse_target"]

T = TypeVar("T")

#: Frames of these come before the user's first and tell him nothing.
_OURS = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<frozen importlib")


class TargetError(Exception):
    """What was named is not there, or is not what it must be; or the user's code raised. The text is all he needs."""


def parse_target(text: str) -> tuple[str, str]:
    """(module or file, function). Raises ValueError for a text that has not two parts."""
    module, colon, function = text.rpartition(":")
    if not (colon and module and function.isidentifier()):
        raise ValueError(f"{text!r}; expected MODULE:FUNCTION, as examples.hello:build or pipelines/two.py:build")
    return module, function


def load_target(text: str) -> Callable[[], Any]:
    """The function, which takes no arguments. Raises TargetError."""
    module_name, name = parse_target(text)
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name)
    where_from = f"module {module.__name__} ({module.__file__ or 'no file'})"
    try:
        function = getattr(module, name)
    except AttributeError:
        own = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        close = difflib.get_close_matches(name, own, n=1)
        meant = f"; did you mean {close[0]}?" if close else "."
        raise TargetError(
            f"{where_from} has no {name!r}{meant} Its functions are: {', '.join(own) or 'none'}"
        ) from None
    if not callable(function):
        raise TargetError(f"{text} is {function!r}; expected a function that binds a DAG and returns it")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TargetError(
            f"{text}{inspect.signature(function)}: {error}; it is called without arguments: name a function that "
            f"needs none, for example `def build(): return {name}(...)`"
        ) from None
    except ValueError:  # a function written in C says nothing of its arguments: calling it tells
        pass
    return function  # type: ignore[no-any-return]


def bind_target(text: str) -> Any:
    """The DAG that the function returns, or what building the graph will refuse with its own words.

    Raises TargetError, and what dagc raised in it.
    """
    dag = call_target(text, load_target(text))
    if not isinstance(dag, (DagNode, list, tuple)):
        raise TargetError(
            f"{text} returned {dag!r}; expected a DAG that is not compiled: what handle.method.bind(...) returns, or a "
            "MultiOutputNode of several"
        )
    return dag


def call_target(text: str, function: Callable[[], Any]) -> Any:
    """What it returns. Raises what dagc raised in it, and TargetError for all else that it raised."""
    return _run(function, f"{text} raised this")


def _load_module(name: str) -> ModuleType:
    """A module by its name; the folder that the command runs in is searched first, as with `python -m`."""
    _search_first(Path.cwd())
    return _import(name)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"there is no file {path}; looked in {Path.cwd()}")
    path = path.resolve()
    names, folder = [path.stem], path.parent
    if path.name == "__init__.py":
        names.clear()
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    _search_first(folder)
    # By its name, not from its file: the processes of the actors must be able to import it, too.
    module = _import(".".join(names))
    if module.__file__ is None or not path.samefile(module.__file__):
        raise TargetError(
            f"{path} would be the module {module.__name__!r}, but another one has that name: {module.__file__}; "
            "rename it"
        )
    return module


def _import(name: str) -> ModuleType:
    def imported() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only if it is the named one that is missing: what it imports itself is for a traceback.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise TargetError(
                f"there is no module {error.name!r}; looked in {Path.cwd()} and where Python looks. For a file write "
                "its path, with .py"
            ) from None

    return _run(imported, f"importing {name} raised this")


def _run(action: Callable[[], T], what: str) -> T:
    """The user's code. What dagc raised in it passes; all else becomes a TargetError with the user's traceback."""
    try:
        return action()
    except (DagcError, TargetError):
        raise
    except SystemExit as error:
        raise TargetError(
            f"{what}: SystemExit({error.code!r}); let what ends the program stand under `if __name__ == '__main__'`"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises is his to see
        lines = traceback.format_exception(type(error), error, _users(error.__traceback__))
        raise TargetError(f"{what}:\n\n{''.join(lines).rstrip()}") from None


def _users(frames: TracebackType | None) -> TracebackType | None:
    """From the first frame that is the user's on; all of them if there is none, as where his source does not parse."""
    first = frames
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_OURS):
        first = first.tb_next
    return first


def _search_first(folder: Path) -> None:
    if sys.path[0] != str(folder):
        sys.path.insert(0, str(folder))
