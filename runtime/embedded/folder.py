"""The folder of a session: its sockets, its token, and the lock that says that somebody still lives in it.

    <base>/dagc-xxxxxxxx/    0700, made by mkdtemp
        lock                 flock-ed by the process that called init, for as long as it lives
        token                0600, 32 random bytes: who cannot read it is not of this session
        head                 the head's socket
        <actor id>           the socket of an actor's process

The kernel drops the lock with its process, however that ends; the next init removes folders whose lock is free.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.ids import ActorId

__all__ = ["PREFIX", "SessionFolder", "base_folder", "sweep"]

PREFIX = "dagc-"
#: A socket's path may have 107 bytes; this much of it is needed below the base: /dagc-xxxxxxxx/ and an actor's id.
_MAX_BASE = 107 - 40


class SessionFolder:
    """A session's folder, as every process of the session sees it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock: int | None = None

    @classmethod
    def create(cls) -> SessionFolder:
        """Make one, locked, with a token in it. Removes what sessions that are gone have left.

        Raises EngineError if there is no place for it.
        """
        base = base_folder()
        sweep(base)
        # It gets the name that sweep looks for only once it is locked; before that another init could take it away.
        made = tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base)
        lock = os.open(os.path.join(made, "lock"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        token = os.open(os.path.join(made, "token"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(token, "wb") as file:
            file.write(secrets.token_bytes(32))
        folder = cls(os.path.join(base, os.path.basename(made)[1:]))
        os.rename(made, folder.path)
        folder._lock = lock
        return folder

    def token(self) -> bytes:
        """The secret of this session."""
        return Path(self.path, "token").read_bytes()

    def head(self) -> str:
        """gRPC's name of the head's socket."""
        return f"unix:{self.path}/head"

    def worker(self, actor: ActorId) -> str:
        """gRPC's name of the socket of an actor's process."""
        return f"unix:{self.path}/{actor}"

    def remove(self) -> None:
        """Remove it; for the process that made it. Removing twice is allowed."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)  # what cleans /tmp may have been here
            os.close(self._lock)
            self._lock = None


def base_folder() -> str:
    """Where sessions have their folders: XDG_RUNTIME_DIR if it can be used, else the folder for temporary files."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if base and len(os.fsencode(base)) <= _MAX_BASE and os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK):
            return os.path.abspath(base)
    raise EngineError(
        f"no folder for the session's sockets: XDG_RUNTIME_DIR, TMPDIR and /tmp are missing, not writable or over "
        f"{_MAX_BASE} bytes; set TMPDIR to a short, writable folder"
    )


def sweep(base: str) -> list[str]:
    """Remove our sessions' folders in `base` whose owner is gone; returns their paths."""
    removed = []
    for entry in os.scandir(base):
        try:
            if not entry.name.startswith(PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            if entry.stat(follow_symlinks=False).st_uid != os.getuid():
                continue
            lock = os.open(os.path.join(entry.path, "lock"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # not a session's, or another sweep was quicker
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(entry.path, ignore_errors=True)  # another sweep may be at it too
            removed.append(entry.path)
        finally:
            os.close(lock)
    return removed
