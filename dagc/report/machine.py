"""What a figure depends on that is not in the plan: when and on what it was taken."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """This machine at this moment."""

    when: str
    cpu: str
    #: Those that this process may use.
    cores: int
    kernel: str
    python: str
    #: Of dagc; "" in a checkout that was never installed.
    version: str

    @classmethod
    def here(cls) -> Machine:
        try:
            version = metadata.version("dagc")
        except metadata.PackageNotFoundError:
            version = ""
        return cls(
            when=time.strftime("%Y-%m-%d %H:%M %Z"),
            cpu=_cpu(),
            cores=len(os.sched_getaffinity(0)),
            kernel=platform.release(),
            python=platform.python_version(),
            version=version,
        )


def _cpu() -> str:
    """As the kernel names it; some machines (ARM) have only an architecture."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.machine()
