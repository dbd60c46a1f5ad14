"""What a worker is executing, in a page of memory that its driver can read after its death.

Reporting it in messages would cost every call one more; a store to shared memory costs nothing.
"""

from __future__ import annotations

import mmap
import os

__all__ = ["SIZE", "Marker", "create", "read"]

SIZE = 4096


def create() -> int:
    """A descriptor of such a page: nameless memory that dies with its last user."""
    descriptor = os.memfd_create("dagc-marker", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, SIZE)
    return descriptor


def read(descriptor: int) -> str:
    """What was being executed, or an empty string."""
    return os.pread(descriptor, SIZE, 0).split(b"\0", 1)[0].decode(errors="replace")


class Marker:
    """The writer's side."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, SIZE)
        os.close(descriptor)

    def set(self, text: str) -> None:
        """Replace the text."""
        data = text.encode()[: SIZE - 1] + b"\0"
        self._page[: len(data)] = data
