"""The environment of a worker process, and what this machine has."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.ids import NodeId

if TYPE_CHECKING:
    from runtime.engine import ActorOptions

__all__ = ["node_id", "visible_gpus", "worker_environment"]


def worker_environment(base: Mapping[str, str], options: ActorOptions, gpus: tuple[int, ...]) -> dict[str, str]:
    """The driver's environment, fitted to what the actor was given; `runtime_env` has the last word."""
    environment = dict(base)
    # As Ray does: numerical libraries start a thread a core, in each of many actors, unless told otherwise.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, int(options.num_cpus))))
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    elif base.get("CUDA_VISIBLE_DEVICES") != "":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # an actor that asked for no GPU must not fill the first one
    environment.update(options.runtime_env.get("env_vars", {}))
    return environment


def visible_gpus(environment: Mapping[str, str], num_gpus: int | None = None) -> tuple[int, ...]:
    """The GPUs that a session may use: the numbers in CUDA_VISIBLE_DEVICES, else what /dev has; `num_gpus` of them.

    More than there are may be said: the numbers go on, for tests and for devices that /dev does not show.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        found = sorted(int(name[6:]) for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name))
    else:
        found = [int(entry) for entry in visible.split(",") if entry.strip().isdecimal()]
    if num_gpus is not None:
        found = [*found, *(n for n in range(num_gpus + len(found)) if n not in found)][:num_gpus]
    return tuple(found)


def node_id() -> NodeId:
    """This machine, until it is booted again: two processes with the same one can share memory."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return NodeId(f"{socket.gethostname()}-{boot[:8]}")
