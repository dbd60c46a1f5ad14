"""`dagc doctor`: what of this machine dagc can use, one line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache

from dagc.cli import checks_kernel, checks_limits, checks_packages, checks_system
from dagc.cli.checks_waiting import waiting
from dagc.cli.finding import Check, Finding, Status, examine

__all__ = ["CHECKS", "doctor"]

_try_import = cache(checks_packages.try_import)

#: In the order of their lines, what others need first; the names are those of the findings.
CHECKS: Mapping[str, Check] = {
    "python": checks_system.python,
    "platform": checks_system.platform,
    "packages": checks_packages.dependencies,
    "memfd_create": checks_kernel.memfd,
    "futex": checks_kernel.futex,
    "/proc/PID/fd": checks_kernel.proc_fd,
    "pidfd_open": checks_kernel.pidfd,
    "PR_SET_PDEATHSIG": checks_kernel.death_signal,
    "seccomp": checks_kernel.seccomp,
    "unix sockets": checks_system.unix_sockets,
    "memory": checks_limits.memory,
    "overcommit": checks_limits.overcommit,
    "address space": checks_limits.address_space,
    "/dev/shm": checks_limits.dev_shm,
    "open files": checks_limits.open_files,
    "processes": checks_limits.processes,
    "cores": checks_limits.cores,
    "extension": checks_system.extension,
    "wake-ups": waiting,
    "GPUs": checks_packages.gpus,
    "torch": lambda: checks_packages.torch(_try_import),
    "cupy": lambda: checks_packages.cupy(_try_import),
    "nccl": lambda: checks_packages.nccl(_try_import),
    "ray": lambda: checks_packages.ray(_try_import),
}
#: What takes seconds where it is installed, told to who waits for it.
_SLOW = {name: f"importing {name} in a process of its own ..." for name in ("torch", "cupy", "ray")}


def doctor(as_json: bool, checks: Mapping[str, Check] = CHECKS) -> int:
    """Print what the checks find, each as soon as it is known; returns 1 if there is a problem among it, else 0."""
    findings = []
    width = max(map(len, checks))
    for name, check in checks.items():
        found = _examine(name, check)
        findings.append(found)
        if not as_json:
            print(f"{found.status.value}  {found.name:{width}}  {found}", flush=True)
    print(json.dumps([_as_json(found) for found in findings], indent=2) if as_json else f"\n{_summary(findings)}")
    return int(any(found.status is Status.PROBLEM for found in findings))


def _examine(name: str, check: Check) -> Finding:
    if name not in _SLOW or not sys.stderr.isatty():
        return examine(name, check)
    print(_SLOW[name], end="", file=sys.stderr, flush=True)
    found = examine(name, check)
    print(f"\r{' ' * len(_SLOW[name])}\r", end="", file=sys.stderr, flush=True)
    return found


def _summary(findings: Sequence[Finding]) -> str:
    words = ((Status.OK, "ok"), (Status.ABSENT, "absent"), (Status.PROBLEM, "to mend"))
    return ", ".join(f"{sum(found.status is status for found in findings)} {word}" for status, word in words)


def _as_json(found: Finding) -> dict[str, str]:
    return {"name": found.name, "status": found.status.value, "found": found.found, "advice": found.advice}
