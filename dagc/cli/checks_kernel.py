"""Checks of the system calls that channels and engine are made of. Each is made: a sandbox may forbid any of them.

What needs a second process asks the *probe*: a child that opens this process's memory through /proc, as an actor opens
the driver's, and offers its own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import json
import os
import platform
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dagc.cli.cgroup import PROC
from dagc.cli.finding import Finding, absent, ok, problem

__all__ = ["Probe", "death_signal", "futex", "memfd", "pidfd", "proc_fd", "run_probe", "seccomp"]

#: As the channels do it (channels/csrc/arena.c). The kernel's numbers: a Python that was built with old headers has no
#: names for them, and neither for the two calls.
_MEMFD_CREATE, _PIDFD_OPEN = getattr(os, "memfd_create", None), getattr(os, "pidfd_open", None)
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEALS = 1 | 2 | 4  # seal, shrink, grow
#: Sparse: what is not touched takes no memory.
_ARENA_BYTES = 2**32
_FUTEX_WAIT = 0
_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}
_PROBE_SECONDS = 20.0
_OTHER_PYTHON = "use one that was built on a newer system, as those of distributions and of python.org's images are"
_THREADS_INSTEAD = "without it only dagc.init(engine='threads') works"

#: The child of the probe. No import of dagc: it must answer also where that fails.
_CHILD = """
import ctypes, json, os, signal, sys
def attempt(action):
    try:
        return action(), ""
    except OSError as error:
        return None, f"{type(error).__name__}: {error}"
def open_parent():
    file = os.open(sys.argv[1], os.O_RDWR | os.O_CLOEXEC)
    os.pwrite(file, b"dagc", 0)
def death_signal():
    libc, got = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    if libc.prctl(1, int(signal.SIGKILL), 0, 0, 0) or libc.prctl(2, ctypes.byref(got), 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got.value
own, made = attempt(lambda: os.memfd_create("doctor"))
answer = {"opened": attempt(open_parent)[1], "death": attempt(death_signal), "made": made, "fd": own}
print(json.dumps(answer), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Probe:
    """What two processes could do with each other. Errors as text; empty: it went well."""

    #: The child opened the parent's memory through /proc, and the parent the child's.
    child_opened: str
    parent_opened: str
    #: Asking the kernel to end the child with its parent.
    death_signal: str


@functools.cache
def run_probe() -> Probe:
    """Start the child, and do it, once. Raises OSError or TimeoutError if no child can be started."""
    mine = os.memfd_create("doctor")
    with closing(os.fdopen(mine, "r+b", buffering=0)) as memory:
        memory.truncate(4096)
        command = [sys.executable, "-I", "-c", _CHILD, f"/proc/{os.getpid()}/fd/{mine}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None, "it was asked for"
            if not select.select([child.stdout], [], [], _PROBE_SECONDS)[0]:
                child.kill()
                raise TimeoutError(f"a child process did not answer within {_PROBE_SECONDS:g} s")
            line = child.stdout.readline()
            if not line:
                raise OSError(f"a child process ended with exit code {child.wait()} and said nothing")
            answer = json.loads(line)
            opened = answer["opened"]
            if not opened and os.pread(mine, 4, 0) != b"dagc":
                opened = "what the child wrote did not arrive"
            parent = answer["made"] or _error_of(lambda: os.close(_open(f"/proc/{child.pid}/fd/{answer['fd']}")))
    number, refused = answer["death"]
    if not refused and number != signal.SIGKILL:
        refused = f"the kernel remembered signal {number} instead of {int(signal.SIGKILL)}"
    return Probe(opened, parent, refused)


def memfd(create: Callable[[str, int], int] | None = _MEMFD_CREATE) -> Finding:
    """A nameless file in memory, sparse and sealed: every process's shared memory is one."""
    if create is None:
        return problem("memfd_create", "this Python was built without os.memfd_create", _OTHER_PYTHON)
    try:
        file = create("doctor", _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    except OSError as error:
        return problem("memfd_create", f"refused: {error.strerror}", "allow it in the seccomp profile of the container")
    try:
        os.ftruncate(file, _ARENA_BYTES)
        fcntl.fcntl(file, _F_ADD_SEALS, _SEALS)
        sealed = fcntl.fcntl(file, _F_GET_SEALS)
    except OSError as error:
        return problem("memfd_create", f"made, but not to be used: {error}", "ulimit -f must be unlimited")
    finally:
        os.close(file)
    if sealed != _SEALS:
        return problem(
            "memfd_create", f"seals {sealed:#x} instead of {_SEALS:#x}", "use a kernel of Linux, 3.17 or later"
        )
    return ok("memfd_create", "makes, sizes and seals files in memory")


def futex(machine: str = platform.machine()) -> Finding:
    """Asked to sleep while a word has another value than it has, the kernel must say EAGAIN at once."""
    number = _FUTEX_NUMBERS.get(machine)
    if number is None:
        return absent("futex", f"not asked: its number on {machine} is not known here", "see the line of wake-ups")
    libc, word = ctypes.CDLL(None, use_errno=True), ctypes.c_int(1)
    result = libc.syscall(number, ctypes.byref(word), _FUTEX_WAIT, 2, None, None, 0)
    if result == -1 and ctypes.get_errno() == errno.EAGAIN:
        return ok("futex", "waits and wakes")
    found = f"answered {result}, {os.strerror(ctypes.get_errno())}; expected {os.strerror(errno.EAGAIN)}"
    return problem("futex", found, "use a kernel that has it; a sandbox may not")


def proc_fd(probe: Callable[[], Probe] = run_probe, proc: Path = PROC) -> Finding:
    """Processes open each other's shared memory as /proc/PID/fd/N; the kernel checks who may."""
    found = probe()
    if not found.child_opened and not found.parent_opened:
        return ok("/proc/PID/fd", "processes can open each other's memory")
    failed = {"a child this process's": found.child_opened, "this process a child's": found.parent_opened}
    what = ", ".join(f"{who}: {error}" for who, error in failed.items() if error)
    facts = ", ".join(_what_may_forbid_it(proc))
    advice = (
        f"run driver and actors as one user, in one container, with the capabilities of each other; {_THREADS_INSTEAD}"
    )
    return problem("/proc/PID/fd", f"cannot be opened by {what}{f' ({facts})' if facts else ''}", advice)


def death_signal(probe: Callable[[], Probe] = run_probe) -> Finding:
    """Actors ask the kernel to be ended with the driver, however that ends."""
    refused = probe().death_signal
    if refused:
        return problem(
            "PR_SET_PDEATHSIG", f"refused: {refused}", "allow prctl in the seccomp profile; actors refuse to run"
        )
    return ok("PR_SET_PDEATHSIG", "actors end with their driver")


def pidfd(open_: Callable[[int], int] | None = _PIDFD_OPEN) -> Finding:
    """The engine hears of an actor's end through a pidfd."""
    if open_ is None:
        return problem("pidfd_open", "this Python was built without os.pidfd_open", _OTHER_PYTHON)
    try:
        os.close(open_(os.getpid()))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return absent("pidfd_open", f"refused: {error.strerror}", "a thread waits for each actor instead")
        raise
    return ok("pidfd_open", "tells of deaths at once")


def seccomp(proc: Path = PROC) -> Finding:
    """For information: what a filter forbids, the other lines tell."""
    lines = (proc / "self" / "status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    mode = fields.get("Seccomp")
    if mode is None:
        return absent("seccomp", "this kernel has none", "nothing to do")
    if mode == "0":
        return ok("seccomp", "no filter")
    many = fields.get("Seccomp_filters", "")
    return ok("seccomp", f"{many or 'a'} filter{'s' if many not in ('', '1') else ''}, as in containers")


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _error_of(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _what_may_forbid_it(proc: Path) -> list[str]:
    """Facts that stand beside a refusal; which of them is the reason, the kernel does not say."""
    facts = []
    mounts = (proc / "self" / "mountinfo").read_text(encoding="utf-8").splitlines()
    for words in (line.split() for line in mounts):
        if words[4] == "/proc":
            facts += [f"/proc is mounted with {word}" for word in words[-1].split(",") if word.startswith("hidepid")]
    scope = proc / "sys" / "kernel" / "yama" / "ptrace_scope"
    if scope.exists():
        facts.append(f"kernel.yama.ptrace_scope={scope.read_text(encoding='ascii').strip()}")
    status = (proc / "self" / "status").read_text(encoding="utf-8")
    facts += ["a seccomp filter"] if "Seccomp:\t2" in status else []
    return facts
