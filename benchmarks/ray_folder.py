"""Where a contestant's Ray has its sockets and logs; known without ray, so that it can be removed after a kill."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ray_folder"]


def ray_folder(pid: int) -> Path:
    """Of the contestant that is this process. Short: a socket's path has at most 107 bytes."""
    return Path("/tmp", f"ray-{pid}")
