"""replaced: write a file so that whoever reads it finds the old one or all of the new one."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

__all__ = ["replaced"]


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """A file that takes the place of `path` when it is complete, and is gone if it never is.

    A pipe or a device is written to instead: as root one could replace /dev/null. Raises OSError.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "w", encoding="utf-8") as file:
            yield file
        return
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        file = open(part, "x", encoding="utf-8")  # noqa: SIM115 - its errors alone are renamed
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None  # what the user wrote, not our name for it
    try:
        with file:
            yield file
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise
