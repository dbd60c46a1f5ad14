"""Compiles the yardstick ring at run time, once for each version of its source and of Python."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Protocol

__all__ = ["CannotBuildError", "Ring", "build"]

SOURCE = Path(__file__).with_name("ring.c")
CACHE = SOURCE.parents[2] / ".cache" / "benchmarks"


class CannotBuildError(Exception):
    """No compiler, no headers: the column of the limit stays empty, and says this."""


class Ring(Protocol):
    """Integers from one process to `readers` others; made before the fork. See ring.c."""

    def __init__(self, readers: int, /) -> None: ...
    def write(self, value: int, /) -> None: ...
    def read(self, reader: int, /) -> int: ...


def build() -> type[Ring]:
    """The class Ring. Raises CannotBuildError."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    library = CACHE / f"ring-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}{suffix}"
    if not library.exists():
        _compile(library)
    loader = importlib.machinery.ExtensionFileLoader("ring", str(library))
    spec = importlib.util.spec_from_loader("ring", loader)
    assert spec is not None, "a spec is made of the loader that was given"
    module: Any = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    ring: type[Ring] = module.Ring
    return ring


def _compile(library: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotBuildError("no C compiler (cc, gcc or clang) was found")
    library.parent.mkdir(parents=True, exist_ok=True)
    made = library.with_name(f"{library.name}.{os.getpid()}")  # several may build it at the same time
    headers = sysconfig.get_path("include")
    command = [compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", f"-I{headers}", str(SOURCE), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["without a word"]
        raise CannotBuildError(f"{compiler} failed: {lines[0]}")
    made.rename(library)
