"""Checks of the interpreter, the machine and the C extension."""

from __future__ import annotations

import platform as host
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from socket import AF_UNIX, socket

import numpy as np

from channels import ChannelSpec, _ring, create_channel, open_reader, open_writer
from dagc.cli.finding import Finding, ok, problem

__all__ = ["extension", "platform", "python", "unix_sockets"]

OLDEST_PYTHON = (3, 10)
TESTED_MACHINES = ("x86_64",)
#: Goes through a block of its own beside the ring, as every large array does.
_ARRAY_BYTES = 2**16


def python(
    version: Sequence[int] = sys.version_info[:3],
    implementation: str = host.python_implementation(),
    free_threaded: bool = bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
) -> Finding:
    text = f"{implementation} {'.'.join(map(str, version))}{', free-threaded' if free_threaded else ''}"
    if implementation != "CPython":
        return problem("python", text, "the channels are a C extension for CPython")
    if tuple(version[:2]) < OLDEST_PYTHON:
        return problem("python", text, "install 3.10 or later")
    if free_threaded:
        return problem("python", text, "the C extension relies on the GIL; use the ordinary build of this version")
    return ok("python", f"{text} at {sys.executable}")


def platform(system: str = host.system(), release: str = host.release(), machine: str = host.machine()) -> Finding:
    text = f"{system} {release} {machine}"
    if system != "Linux":
        return problem("platform", text, "dagc needs Linux (memfd, futex); on another system run it in a Linux machine")
    if machine not in TESTED_MACHINES:
        return ok("platform", text, f"dagc was tested on {', '.join(TESTED_MACHINES)} alone")
    return ok("platform", text)


def extension() -> Finding:
    """It is loaded, or nothing here would run; so let it carry an array to the other end of a channel."""
    sent = np.arange(_ARRAY_BYTES, dtype=np.uint8)
    channel = create_channel(ChannelSpec("doctor", "shm"))
    writer, reader = open_writer(channel.spec), open_reader(channel.spec)
    writer.write(sent, 1)
    got = reader.read(1, timeout=1.0)
    writer.close()
    reader.close()
    channel.destroy()
    where = Path(_ring.__file__ or "?").name
    if not np.array_equal(sent, got):
        return problem("extension", f"{where}: an array changed on its way", "build it anew: pip install --force .")
    return ok("extension", f"{where} carries arrays")


def unix_sockets(base: str | None = None) -> Finding:
    """The engine talks to its actors over these. `base`: the folder to make one in; None: for temporary files."""
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=base) as folder, socket(AF_UNIX) as server:
        server.bind(f"{folder}/s")
        server.listen()
        with socket(AF_UNIX) as client:
            client.connect(f"{folder}/s")
        return ok("unix sockets", f"can be made in {Path(folder).parent}")
