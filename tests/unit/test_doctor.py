"""The checks of `dagc doctor` on machines that are made of files, and the doctor itself, with made-up checks."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dagc.cli import checks_kernel, checks_limits, checks_packages, checks_system
from dagc.cli.cgroup import cpu_quota, memory_limit, process_limit
from dagc.cli.checks_kernel import Probe
from dagc.cli.checks_packages import Import
from dagc.cli.checks_waiting import Waits, waiting
from dagc.cli.doctor import CHECKS, doctor
from dagc.cli.finding import Finding, Status, absent, examine, ok, problem

OK, ABSENT, PROBLEM = Status.OK, Status.ABSENT, Status.PROBLEM
GIB = 2**30
MEMINFO = """\
MemTotal:       {total} kB
MemAvailable:   {free} kB
HugePages_Total:       0
CommitLimit:    4194304 kB
Committed_AS:   {used} kB
"""


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def refuses(number: int) -> Callable[..., int]:
    def call(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


# ---- control groups ----


def v2(tmp_path: Path, path: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    proc = write(tmp_path / "proc", {"self/cgroup": f"0::{path}\n"})
    return proc, write(tmp_path / "cgroup", {"cgroup.controllers": "cpu memory pids", **files})


def v1(tmp_path: Path, path: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    lines = f"9:name=systemd:/\n5:pids:{path}\n4:memory:{path}\n1:cpu,cpuacct:{path}\n0::/\n"
    (tmp_path / "cgroup" / "unified").mkdir(parents=True)
    return write(tmp_path / "proc", {"self/cgroup": lines}), write(tmp_path / "cgroup", files)


def test_a_quota_of_a_group_above_holds_too(tmp_path: Path) -> None:
    files = {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "cpu.max": "400000 100000\n"}
    assert cpu_quota(*v2(tmp_path, "/a/b", files)) == 1.5


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    files = {"cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}
    assert cpu_quota(*v1(tmp_path, "/job", files)) == 0.5
    (tmp_path / "cgroup/cpu,cpuacct/job/cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path / "proc", tmp_path / "cgroup") is None


def test_version_1_mounted_a_controller_a_folder(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert cpu_quota(*v1(tmp_path, "/not/there/in/the/container", files)) == 3.0


def test_the_group_with_the_least_room_decides(tmp_path: Path) -> None:
    files = {
        "a/memory.max": f"{8 * GIB}\n",
        "a/memory.current": f"{GIB}\n",
        "memory.max": f"{9 * GIB}\n",
        "memory.current": f"{6 * GIB}\n",
        "memory.stat": f"anon 1\ninactive_file {GIB}\n",
    }
    assert memory_limit(*v2(tmp_path, "/a", files)) == (9 * GIB, 4 * GIB)


def test_memory_of_version_1(tmp_path: Path) -> None:
    files = {"memory/j/memory.limit_in_bytes": f"{GIB}\n", "memory/j/memory.usage_in_bytes": f"{GIB // 4}\n"}
    files |= {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "0\n"}
    assert memory_limit(*v1(tmp_path, "/j", files)) == (GIB, 3 * GIB // 4)


def test_no_limits(tmp_path: Path) -> None:
    proc, cgroups = v2(tmp_path, "/a", {"a/memory.max": "max\n", "a/memory.current": "5\n", "a/pids.max": "max\n"})
    assert cpu_quota(proc, cgroups) is memory_limit(proc, cgroups) is process_limit(proc, cgroups) is None
    (proc / "self" / "cgroup").unlink()
    assert cpu_quota(proc, cgroups) is memory_limit(proc, cgroups) is process_limit(proc, cgroups) is None


def test_a_path_outside_the_namespace_ends_too(tmp_path: Path) -> None:
    assert cpu_quota(*v2(tmp_path, "/../../x", {"cpu.max": "200000 100000"})) == 2.0


# ---- limits ----


def machine(tmp_path: Path, total_gib: float = 16, free_gib: float = 8, used_gib: float = 1, **files: str) -> Path:
    kib = {"total": int(total_gib * 2**20), "free": int(free_gib * 2**20), "used": int(used_gib * 2**20)}
    return write(tmp_path / "proc", {"meminfo": MEMINFO.format(**kib), **files})


def test_memory(tmp_path: Path) -> None:
    found = checks_limits.memory(machine(tmp_path), tmp_path)
    assert (found.status, found.found) == (OK, "8 GiB of 16 GiB available")


def test_too_little_memory_of_the_machine(tmp_path: Path) -> None:
    found = checks_limits.memory(machine(tmp_path, free_gib=0.3), tmp_path)
    assert found.status is PROBLEM
    assert "room for 1 actors" in found.found


def test_too_little_memory_of_the_group(tmp_path: Path) -> None:
    _, cgroups = v2(tmp_path, "/", {"memory.max": f"{GIB}", "memory.current": f"{GIB}"})
    found = checks_limits.memory(machine(tmp_path), cgroups)
    assert (found.status, found.found) == (
        PROBLEM,
        "8 GiB of 16 GiB available, control group 0 B of 1 GiB: room for 0 actors that do nothing",
    )
    assert "docker run --memory" in found.advice


@pytest.mark.parametrize(
    ("mode", "used", "status", "text"),
    [
        ("0", 4, OK, "vm.overcommit_memory=0"),
        ("2", 1, OK, "vm.overcommit_memory=2, 3 GiB to the commit limit"),
        ("2", 4, PROBLEM, "vm.overcommit_memory=2, 0 B to the commit limit"),
    ],
)
def test_overcommit(tmp_path: Path, mode: str, used: float, status: Status, text: str) -> None:
    proc = machine(tmp_path, used_gib=used, **{"sys/vm/overcommit_memory": f"{mode}\n"})
    found = checks_limits.overcommit(proc)
    assert (found.status, found.found) == (status, text)


def test_address_space() -> None:
    none = resource.RLIM_INFINITY
    assert checks_limits.address_space(none, none).status is OK
    found = checks_limits.address_space(4 * GIB, none)
    assert (found.status, found.found) == (PROBLEM, "ulimit -v 4 GiB")
    assert checks_limits.address_space(none, 2**20).found == "ulimit -f 1 MiB"


def test_open_files() -> None:
    assert checks_limits.open_files((1024, 4096)).found == "ulimit -n 1024: room for about 250 actors"
    assert checks_limits.open_files((resource.RLIM_INFINITY, resource.RLIM_INFINITY)).status is OK
    found = checks_limits.open_files((40, 4096))
    assert (found.status, found.advice) == (PROBLEM, "ulimit -n 4096 (the hard limit of this process)")
    assert "room for about 4 actors" in found.found


def test_processes(tmp_path: Path) -> None:
    none = resource.RLIM_INFINITY
    assert checks_limits.processes(none, *v2(tmp_path, "/", {})).found == "unlimited"
    write(tmp_path / "cgroup", {"pids.max": "100", "pids.current": "60"})
    found = checks_limits.processes(5000, tmp_path / "proc", tmp_path / "cgroup")
    assert found.status is PROBLEM
    assert found.found == "control group 40 of 100 left, ulimit -u 5000: room for about 3 actors of 11 threads"
    write(tmp_path / "cgroup", {"pids.max": "1000"})
    assert checks_limits.processes(none, tmp_path / "proc", tmp_path / "cgroup").status is OK


def test_cores(tmp_path: Path) -> None:
    proc, cgroups = v2(tmp_path, "/", {})
    assert str(checks_limits.cores(4, 4, proc, cgroups)) == "4"
    assert str(checks_limits.cores(2, 4, proc, cgroups)) == "2 of 4"
    write(cgroups, {"cpu.max": "250000 100000"})
    assert str(checks_limits.cores(2, 4, proc, cgroups)) == "2 of 4"  # more than the affinity lets it use
    found = checks_limits.cores(4, 4, proc, cgroups)
    assert (found.status, found.found) == (OK, "4, with a quota of 2.5")
    write(cgroups, {"cpu.max": "50000 100000"})
    assert checks_limits.cores(4, 4, proc, cgroups).status is PROBLEM


def test_dev_shm_is_for_information(tmp_path: Path) -> None:
    assert checks_limits.dev_shm(tmp_path).status is OK
    found = checks_limits.dev_shm(tmp_path / "none")
    assert found.status is ABSENT
    assert "dagc does not need it" in found.advice


# ---- the kernel ----


def test_memfd(tmp_path: Path) -> None:
    assert checks_kernel.memfd().status is OK
    found = checks_kernel.memfd(refuses(errno.EPERM))
    assert (found.status, found.found) == (PROBLEM, "refused: Operation not permitted")
    assert "seccomp" in found.advice
    assert checks_kernel.memfd(None).found == "this Python was built without os.memfd_create"

    def ordinary_file(*_: object) -> int:
        return os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    found = checks_kernel.memfd(ordinary_file)
    assert found.status is PROBLEM
    assert "made, but not to be used" in found.found
    os.truncate(tmp_path / "file", 0)


def test_futex() -> None:
    assert checks_kernel.futex().status is OK
    assert checks_kernel.futex("pdp11").status is ABSENT


def test_pidfd() -> None:
    assert checks_kernel.pidfd().status is OK
    found = checks_kernel.pidfd(refuses(errno.ENOSYS))
    assert (found.status, found.advice) == (ABSENT, "a thread waits for each actor instead")
    assert checks_kernel.pidfd(None).status is PROBLEM
    found = examine("pidfd_open", lambda: checks_kernel.pidfd(refuses(errno.EMFILE)))
    assert found.found == "the check failed: OSError: [Errno 24] Too many open files"


def test_two_processes_open_each_other_and_die_together() -> None:
    probe = checks_kernel.run_probe()
    assert probe == Probe("", "", "")
    assert checks_kernel.proc_fd().status is OK
    assert checks_kernel.death_signal().status is OK


def test_proc_fd_refused_names_what_may_forbid_it(tmp_path: Path) -> None:
    mounts = "22 1 0:1 / / rw - ext4 x rw\n30 22 0:5 / /proc rw,nosuid - proc proc rw,hidepid=2\n"
    files = {"self/mountinfo": mounts, "self/status": "Name:\tx\nSeccomp:\t2\n"}
    proc = write(tmp_path, {**files, "sys/kernel/yama/ptrace_scope": "3\n"})
    found = checks_kernel.proc_fd(lambda: Probe("PermissionError: [Errno 13]", "", ""), proc)
    assert found.status is PROBLEM
    assert found.found == (
        "cannot be opened by a child this process's: PermissionError: [Errno 13] "
        "(/proc is mounted with hidepid=2, kernel.yama.ptrace_scope=3, a seccomp filter)"
    )
    assert "dagc.init(engine='threads')" in found.advice
    quiet = write(tmp_path / "quiet", {"self/mountinfo": "", "self/status": ""})
    found = checks_kernel.proc_fd(lambda: Probe("", "FileNotFoundError: gone", ""), quiet)
    assert found.found == "cannot be opened by this process a child's: FileNotFoundError: gone"


def test_no_death_signal() -> None:
    found = checks_kernel.death_signal(lambda: Probe("", "", "PermissionError: no"))
    assert (found.status, found.found) == (PROBLEM, "refused: PermissionError: no")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Seccomp:\t0\nSeccomp_filters:\t0\n", ok("seccomp", "no filter")),
        ("Seccomp:\t2\nSeccomp_filters:\t1\n", ok("seccomp", "1 filter, as in containers")),
        ("Seccomp:\t2\nSeccomp_filters:\t3\n", ok("seccomp", "3 filters, as in containers")),
        ("Seccomp:\t2\n", ok("seccomp", "a filter, as in containers")),
        ("Name:\tx\n", absent("seccomp", "this kernel has none", "nothing to do")),
    ],
)
def test_seccomp(tmp_path: Path, status: str, expected: Finding) -> None:
    assert checks_kernel.seccomp(write(tmp_path, {"self/status": status})) == expected


def test_waiting() -> None:
    found = waiting(lambda: Waits(4e-7, 2.5e-6, 12e-6))
    assert (found.status, found.found) == (OK, "wake-up 6.00 us, sched_yield 400 ns, echo 2.50 us")
    assert waiting(lambda: Waits(4e-7, 2.5e-6, 9e-3)).status is PROBLEM


# ---- the system ----


def test_python() -> None:
    assert checks_system.python().status is OK
    assert checks_system.python((3, 9, 2), "CPython", False).advice == "install 3.10 or later"
    assert checks_system.python((3, 11, 2), "PyPy", False).status is PROBLEM
    found = checks_system.python((3, 14, 0), "CPython", True)
    assert (found.status, found.found) == (PROBLEM, "CPython 3.14.0, free-threaded")


def test_platform() -> None:
    assert str(checks_system.platform("Linux", "6.1", "x86_64")) == "Linux 6.1 x86_64"
    assert checks_system.platform("Linux", "6.1", "aarch64").status is OK
    assert "tested on x86_64" in checks_system.platform("Linux", "6.1", "aarch64").advice
    assert checks_system.platform("Darwin", "24", "arm64").status is PROBLEM


def test_the_extension_carries_an_array() -> None:
    assert checks_system.extension().status is OK


def test_unix_sockets(tmp_path: Path) -> None:
    assert checks_system.unix_sockets().status is OK
    long = tmp_path / ("x" * 100)
    long.mkdir()
    found = examine("unix sockets", lambda: checks_system.unix_sockets(str(long)))
    assert found.found == "the check failed: OSError: AF_UNIX path too long"


# ---- packages ----

VERSIONS = {"numpy": "2.4.6", "grpcio": "1.85.1", "protobuf": "6.33.6", "cloudpickle": "3.1.2"}
REQUIRES = ["cloudpickle>=3.0", "grpcio>=1.66", "numpy>=1.26", "protobuf>=6.31.1", 'torch>=2.4; extra == "torch"']


def test_dependencies() -> None:
    found = checks_packages.dependencies(VERSIONS.__getitem__, lambda _: REQUIRES)
    assert found == ok("packages", "numpy 2.4.6, grpcio 1.85.1, protobuf 6.33.6, cloudpickle 3.1.2")
    old = {**VERSIONS, "grpcio": "1.9.0", "numpy": "1.26.0rc1"}
    found = checks_packages.dependencies(old.__getitem__, lambda _: REQUIRES)
    assert (found.status, found.advice) == (PROBLEM, "too old: pip install 'grpcio>=1.66'")


def test_dependencies_of_a_checkout_that_was_never_installed() -> None:
    def requires(_: str) -> list[str]:
        raise metadata.PackageNotFoundError("dagc")

    assert checks_packages.dependencies(VERSIONS.__getitem__, requires).status is OK


def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not checks_packages.has_gpu(tmp_path)
    assert checks_packages.gpus(tmp_path).status is ABSENT


def test_gpus_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    card = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 0\n"
    write(tmp_path, {f"driver/nvidia/gpus/{bus}/information": card for bus in ("0000:01", "0000:02")})
    assert checks_packages.has_gpu(tmp_path)
    assert checks_packages.gpus(tmp_path).found == "NVIDIA H200, NVIDIA H200"


def smi(tmp_path: Path, script: str) -> Finding:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return checks_packages.gpus(tmp_path, str(program))


def test_gpus_of_nvidia_smi(tmp_path: Path) -> None:
    found = smi(tmp_path, "echo 'NVIDIA H200, 143771 MiB, 570.1'\necho 'NVIDIA H200, 143771 MiB, 570.1'")
    assert found.found == "NVIDIA H200, 143771 MiB, 570.1; NVIDIA H200, 143771 MiB, 570.1"
    assert smi(tmp_path, "exit 0").status is ABSENT
    found = smi(tmp_path, "echo 'Driver/library version mismatch'; exit 18")
    assert (found.status, found.found) == (PROBLEM, "nvidia-smi: Driver/library version mismatch")
    assert smi(tmp_path, "exit 9").found == "nvidia-smi: exit code 9"


def tried(error: str = "", **facts: Any) -> Callable[[str], Import]:
    return lambda _: Import(facts, error)


def yes() -> bool:
    return True


def no() -> bool:
    return False


@pytest.mark.parametrize(
    ("found", "gpu", "status", "text"),
    [
        (tried(), yes, ABSENT, "not installed"),
        (tried("OSError: libcudart.so.12"), no, PROBLEM, "installed, but not to be imported: OSError: libcudart.so.12"),
        (tried(version="2.13", cuda=False, built=""), no, OK, "2.13, without CUDA"),
        (tried(version="2.13", cuda=False, built=""), yes, PROBLEM, "2.13, without CUDA, beside a GPU"),
        (tried(version="2.13", cuda=False, built="12.8"), no, OK, "2.13, CUDA 12.8"),
        (tried(version="2.13", cuda=False, built="12.8"), yes, PROBLEM, "2.13, CUDA 12.8, sees no GPU"),
        (tried(version="2.13", cuda=True, built="12.8"), yes, OK, "2.13, CUDA 12.8"),
    ],
)
def test_torch(found: Callable[[str], Import], gpu: Callable[[], bool], status: Status, text: str) -> None:
    answer = checks_packages.torch(found, gpu)
    assert (answer.status, answer.found) == (status, text)


def cupy_facts(**facts: Any) -> Callable[[str], Import]:
    made = {"version": "13.6", "devices": 0, "error": "", "nccl": "", "nccl_error": "", **facts}
    return lambda _: Import(made)


def test_cupy() -> None:
    assert checks_packages.cupy(tried(), no).advice == "for tensors between GPUs: pip install 'dagc[cuda12]', or cuda13"
    assert checks_packages.cupy(cupy_facts(devices=2), yes).found == "13.6, 2 GPUs"
    assert checks_packages.cupy(cupy_facts(error="CUDARuntimeError: no driver"), no).status is OK
    assert checks_packages.cupy(cupy_facts(error="CUDARuntimeError: too old"), yes).status is PROBLEM


def test_nccl() -> None:
    assert checks_packages.nccl(tried(), yes).status is ABSENT
    assert checks_packages.nccl(cupy_facts(nccl="22304"), yes).found == "2.23.4"
    failed = cupy_facts(nccl_error="ImportError: libnccl.so.2")
    assert checks_packages.nccl(failed, yes).status is PROBLEM
    assert checks_packages.nccl(failed, no).status is ABSENT


def test_ray() -> None:
    assert checks_packages.ray(tried()).status is ABSENT
    assert checks_packages.ray(tried(version="2.60")).found == "2.60"
    assert checks_packages.ray(tried("ImportError: x")).status is PROBLEM


def test_importing_goes_on_in_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name that prints, one that raises, one that ends its process, and none."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = tmp_path / "ray.py"
    module.write_text("print('hello')\n__version__ = '9.9'")
    assert checks_packages.try_import("ray") == Import({"version": "9.9"})
    module.write_text("raise OSError('libx.so.1: cannot open')")
    assert checks_packages.try_import("ray").error == "OSError: libx.so.1: cannot open"
    module.write_text("import os\nos._exit(7)")
    assert checks_packages.try_import("ray").error == "importing it ended the process with 7"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert not checks_packages.try_import("ray").installed


# ---- the doctor ----


def test_the_names_of_the_table_are_those_of_the_findings() -> None:
    slow = {"wake-ups", "torch", "cupy", "nccl", "ray"}
    assert {name: check().name for name, check in CHECKS.items() if name not in slow} == {
        name: name for name in CHECKS if name not in slow
    }
    assert waiting(lambda: Waits(1, 1, 1)).name == "wake-ups"
    for name in ("torch", "cupy", "nccl", "ray"):
        assert getattr(checks_packages, name)(tried()).name == name


def broken() -> Finding:
    raise RuntimeError("lost")


def test_a_check_that_raises_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    checks = {
        "one": broken,
        "seventeen": lambda: ok("seventeen", "fine"),
        "gpu": lambda: absent("gpu", "none", "buy one"),
    }
    assert doctor(as_json=False, checks=checks) == 1
    assert capsys.readouterr().out == (
        "!!  one        the check failed: RuntimeError: lost; if no other line says why, report it with this one\n"
        "ok  seventeen  fine\n"
        "--  gpu        none; buy one\n"
        "\n"
        "1 ok, 1 absent, 1 to mend\n"
    )


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(as_json=True, checks={"a": lambda: absent("a", "none", "get it")}) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "status": "--", "found": "none", "advice": "get it"}]
    assert doctor(as_json=True, checks={"a": lambda: problem("a", "bad", "mend it")}) == 1
    assert json.loads(capsys.readouterr().out)[0]["status"] == "!!"
