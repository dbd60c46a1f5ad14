"""Limits of the control groups that this process is in, of version 1 and 2: processors, memory, processes.

A limit of any group above holds as well, so each question goes from the process's own group up to the root. In a
container without a namespace of its own for groups, /proc/self/cgroup names a path of the host that is not there
inside; then the root of the mount is the container's own group, and the walk ends there.
(Linux: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["CGROUPS", "PROC", "cpu_quota", "memory_limit", "process_limit"]

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
#: Version 1 says "unlimited" as the largest number of pages.
_UNLIMITED_V1 = 2**60


def cpu_quota(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """How many processors' worth of time this process may use, or None for no limit."""
    found = []
    for folder, version in _groups("cpu", proc, cgroups):
        if version == 2:
            quota, period = [*_words(folder / "cpu.max"), "max", "100000"][:2]
        else:
            quota = [*_words(folder / "cpu.cfs_quota_us"), "-1"][0]
            period = [*_words(folder / "cpu.cfs_period_us"), "100000"][0]
        if quota not in ("max", "-1"):
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_limit(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int, int] | None:
    """(limit, what of it is free) in bytes, of the group that has least left; None for no limit.

    Free is also what the kernel would take back at once: cached pages of files that nobody used lately.
    """
    found = []
    for folder, version in _groups("memory", proc, cgroups):
        limit_file, usage_file, cached = (
            ("memory.max", "memory.current", "inactive_file")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limit, usage = _number(folder / limit_file), _number(folder / usage_file)
        if limit is not None and usage is not None and limit < _UNLIMITED_V1:
            stat = _words(folder / "memory.stat")
            reclaimable = int(stat[stat.index(cached) + 1]) if cached in stat else 0
            found.append((limit, min(limit, limit - usage + reclaimable)))
    return min(found, key=lambda each: each[1], default=None)


def process_limit(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int, int] | None:
    """(limit, how many more) of processes and threads together; None for no limit."""
    found = []
    for folder, _ in _groups("pids", proc, cgroups):
        limit, usage = _number(folder / "pids.max"), _number(folder / "pids.current")
        if limit is not None and usage is not None:
            found.append((limit, limit - usage))
    return min(found, key=lambda each: each[1], default=None)


def _groups(controller: str, proc: Path, cgroups: Path) -> Iterator[tuple[Path, int]]:
    """(folder, version of control groups) from the process's own group to the root."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # a kernel without control groups
        return
    paths = {tuple(names.split(",")): path for _, names, path in (line.split(":", 2) for line in lines)}
    one = next((names for names in paths if controller in names), None)
    if one is None:
        version, path = 2, paths.get(("",), "/")
        root = cgroups / "unified" if (cgroups / "unified").is_dir() else cgroups
    else:
        version, path = 1, paths[one]
        root = cgroups / ",".join(one)
        root = root if root.is_dir() else cgroups / controller
    folder = root / path.lstrip("/")
    while True:
        yield folder, version
        if folder == root:
            return
        folder = folder.parent


def _words(file: Path) -> list[str]:
    """Of a file of a group, or none if it is not there: the root has no limits, and a controller may be off."""
    try:
        return file.read_text(encoding="utf-8").split()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _number(file: Path) -> int | None:
    words = _words(file)
    return int(words[0]) if words and words[0] != "max" else None
