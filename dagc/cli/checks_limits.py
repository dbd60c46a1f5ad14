"""Checks of what this process may use: memory, descriptors, processes, processors."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from dagc.cli.cgroup import CGROUPS, PROC, cpu_quota, memory_limit, process_limit
from dagc.cli.finding import Finding, absent, ok, problem
from dagc.cli.text import memory as size

__all__ = ["address_space", "cores", "dev_shm", "memory", "open_files", "overcommit", "processes"]

#: Measured with the embedded engine and a chain of 1 to 16 actors. In the driver: descriptors without an actor, and
#: more with each. An actor's process: its threads (gRPC's, on a few cores), and bytes that it shares with nobody.
DRIVER_FILES, FILES_AN_ACTOR, THREADS_AN_ACTOR, BYTES_AN_ACTOR = 24, 4, 11, 27 * 2**20
#: Fewer actors than this are no cluster in a machine.
FEWEST_ACTORS = 8
#: What a small graph needs beside its actors.
_LEAST_MEMORY = 2**28


def dev_shm(folder: Path = Path("/dev/shm")) -> Finding:
    """For information: the channels lie in nameless files in memory, which no mount limits."""
    if not folder.is_dir():
        return absent("/dev/shm", "not there", "dagc does not need it; NCCL and torch's DataLoader do")
    found = os.statvfs(folder)
    return ok("/dev/shm", f"{size(found.f_blocks * found.f_frsize)}, which dagc does not need or use")


def memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> Finding:
    """What there is for actors and arrays, of the machine and of the control group."""
    info = _meminfo(proc)
    total, free = info["MemTotal"], info["MemAvailable"]
    text = f"{size(free)} of {size(total)} available"
    limited = memory_limit(proc, cgroups)
    if limited is not None:
        limit, left = limited
        text += f", control group {size(max(left, 0))} of {size(limit)}"
        free = min(free, left)
    room = max(0, free - _LEAST_MEMORY) // BYTES_AN_ACTOR
    if room < FEWEST_ACTORS:
        advice = "end something, or raise the limit (docker run --memory, resources.limits.memory)"
        return problem("memory", f"{text}: room for {room} actors that do nothing", advice)
    return ok("memory", text)


def overcommit(proc: Path = PROC) -> Finding:
    """Under strict accounting (2) memory ends at the commit limit, however much of it is free."""
    mode = (proc / "sys" / "vm" / "overcommit_memory").read_text(encoding="ascii").strip()
    if mode != "2":
        return ok("overcommit", f"vm.overcommit_memory={mode}")
    info = _meminfo(proc)
    left = info["CommitLimit"] - info["Committed_AS"]
    text = f"vm.overcommit_memory=2, {size(max(0, left))} to the commit limit"
    if left < _LEAST_MEMORY + FEWEST_ACTORS * BYTES_AN_ACTOR:
        return problem("overcommit", text, "sysctl vm.overcommit_memory=0, or a larger vm.overcommit_ratio")
    return ok("overcommit", text)


def address_space(space: int | None = None, file: int | None = None) -> Finding:
    """Shared memory is a sparse file of several times the memory, mapped whole by every process that meets it."""
    limits = {
        "ulimit -v": resource.getrlimit(resource.RLIMIT_AS)[0] if space is None else space,
        "ulimit -f": resource.getrlimit(resource.RLIMIT_FSIZE)[0] if file is None else file,
    }
    set_ = [f"{name} {size(limit)}" for name, limit in limits.items() if limit != resource.RLIM_INFINITY]
    if not set_:
        return ok("address space", "unlimited, files too")
    advice = "say ulimit -v unlimited, ulimit -f unlimited: it bounds what all messages under way may take together"
    return problem("address space", ", ".join(set_), advice)


def open_files(limits: tuple[int, int] | None = None) -> Finding:
    """`limits`: the soft and the hard one."""
    soft, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("open files", "ulimit -n unlimited")
    room = max(0, soft - DRIVER_FILES) // FILES_AN_ACTOR
    text = f"ulimit -n {soft}: room for about {room:,} actors"
    if room < FEWEST_ACTORS:
        most = "unlimited" if hard == resource.RLIM_INFINITY else hard
        return problem("open files", text, f"ulimit -n {most} (the hard limit of this process)")
    return ok("open files", text)


def processes(user: int | None = None, proc: Path = PROC, cgroups: Path = CGROUPS) -> Finding:
    """Threads count as processes. A user's limit is for all his programs together, so it is an upper bound here."""
    user = resource.getrlimit(resource.RLIMIT_NPROC)[0] if user is None else user
    texts, room = [], []
    limited = process_limit(proc, cgroups)
    if limited is not None:
        limit, left = limited
        texts.append(f"control group {left} of {limit} left")
        room.append(left)
    if user != resource.RLIM_INFINITY:
        texts.append(f"ulimit -u {user}")
        room.append(user)
    if not room:
        return ok("processes", "unlimited")
    actors = max(0, min(room)) // THREADS_AN_ACTOR
    text = f"{', '.join(texts)}: room for about {actors:,} actors of {THREADS_AN_ACTOR} threads"
    if actors < FEWEST_ACTORS:
        return problem("processes", text, "raise it (docker run --pids-limit, TasksMax= of a unit, ulimit -u)")
    return ok("processes", text)


def cores(affinity: int | None = None, there: int | None = None, proc: Path = PROC, cgroups: Path = CGROUPS) -> Finding:
    """What this process may run on, which is not always what the machine has."""
    affinity = affinity or len(os.sched_getaffinity(0))
    there = there or os.cpu_count() or affinity
    text = f"{affinity} of {there}" if there > affinity else f"{affinity}"
    quota = cpu_quota(proc, cgroups)
    if quota is None or quota >= affinity:
        return ok("cores", text)
    text += f", with a quota of {quota:g}"
    if quota < 1:
        return problem("cores", text, "the kernel stops every actor in turn: raise it (docker run --cpus, limits.cpu)")
    return ok("cores", text, "so waits give up the processor early")


def _meminfo(proc: Path) -> dict[str, int]:
    """Bytes."""
    lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}
