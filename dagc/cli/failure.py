"""An exception as text for people: what, where in their own code, and why; without dagc's own frames."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

from channels import DagcError, RemoteTraceback

__all__ = ["told"]

_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
#: Frames in these are dagc's.
_PACKAGES = tuple(str(Path(__file__).parents[2] / name) + os.sep for name in ("channels", "runtime", "dagc"))


def told(error: BaseException) -> str:
    """Its type and text, its notes, the user's line that it came through, and what caused it.

    The traceback that an exception brings from another process is shown whole: it holds the user's frames only.
    """
    cause = error.__cause__
    kind, text = type(error), str(error)
    short = kind.__module__ == "builtins" or isinstance(error, DagcError)  # those can be imported from dagc
    name = kind.__qualname__ if short else f"{kind.__module__}.{kind.__qualname__}"
    # Read, not formatted by traceback: Python 3.10 shows no notes, and dagc gives them there as well.
    lines = [f"{name}: {text}" if text else name, *getattr(error, "__notes__", ())]
    place = _place(error)
    lines += [f"  {place}"] if place else []
    if isinstance(cause, RemoteTraceback):
        lines += ["", cause.text.strip()]
    elif cause is not None:
        lines += ["", f"because of {told(cause)}"]
    return "\n".join(lines)


def _place(error: BaseException) -> str:
    """The last line of the user's own that the error came through: "" if it came through none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    if not frames:
        return ""
    last = frames[-1]
    return f"at {last.filename}:{last.lineno}, in {last.name}: {last.line}"


def _is_users(file: str) -> bool:
    """Not dagc's, not the standard library's (below which the installed packages may lie), and a file at all."""
    standard = file.startswith(_STANDARD_LIBRARY) and "site-packages" not in file
    return file.endswith(".py") and not standard and not file.startswith(_PACKAGES)
