"""Checks of what is installed: what dagc needs, and what it can use. And of GPUs, since only packages can use those.

This process imports none of it: torch takes seconds, and a broken CUDA may end an interpreter. A child is asked.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dagc.cli.cgroup import PROC
from dagc.cli.finding import Finding, absent, ok, problem

__all__ = ["Import", "cupy", "dependencies", "gpus", "has_gpu", "nccl", "ray", "torch", "try_import"]

DEPENDENCIES = ("numpy", "grpcio", "protobuf", "cloudpickle")
_IMPORT_SECONDS = 120.0
_SMI_SECONDS = 20.0

#: Each is said by a child after `import module`; `facts` is what it prints.
_ASK = {
    "torch": "facts = {'cuda': module.cuda.is_available(), 'built': module.version.cuda or ''}",
    "cupy": """
facts = {'devices': 0, 'error': '', 'nccl': '', 'nccl_error': ''}
try:
    facts['devices'] = module.cuda.runtime.getDeviceCount()
except Exception as error:
    facts['error'] = f'{type(error).__name__}: {error}'
try:
    from cupy.cuda import nccl
    facts['nccl'] = str(nccl.get_version())
except Exception as error:
    facts['nccl_error'] = f'{type(error).__name__}: {error}'
""",
    "ray": "facts = {}",
}
_CHILD = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
exec(sys.argv[2])
print("\\n" + json.dumps({"version": str(module.__version__), **facts}))
"""


@dataclass(frozen=True)
class Import:
    """What became of importing a package in a child; with neither facts nor an error it is not installed."""

    facts: Mapping[str, Any]
    error: str = ""

    @property
    def installed(self) -> bool:
        return bool(self.facts or self.error)


def try_import(name: str) -> Import:
    """Import a package of `_ASK` in a child. Takes as long as that takes, for torch seconds."""
    if importlib.util.find_spec(name) is None:
        return Import({})
    command = [sys.executable, "-c", _CHILD, name, _ASK[name]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Import({}, f"importing it took more than {_IMPORT_SECONDS:g} s")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return Import({}, said[-1] if said else f"importing it ended the process with {done.returncode}")
    return Import(json.loads(done.stdout.splitlines()[-1]))


def dependencies(
    version: Callable[[str], str] = metadata.version, requires: Callable[[str], list[str] | None] = metadata.requires
) -> Finding:
    """Without these `import dagc` fails; too old ones fail later, and strangely."""
    floors = _floors(requires)
    found = {name: version(name) for name in DEPENDENCIES}
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    old = [name for name, number in found.items() if _key(number) < _key(floors.get(name, "0"))]
    if old:
        wanted = " ".join(f"'{name}>={floors[name]}'" for name in old)
        return problem("packages", text, f"too old: pip install {wanted}")
    return ok("packages", text)


def has_gpu(proc: Path = PROC) -> bool:
    """Whether the NVIDIA driver has one."""
    return any(_gpu_names(proc))


def gpus(proc: Path = PROC, smi: str | None = None) -> Finding:
    """What the driver has; with nvidia-smi also its memory. `smi`: the path of it, if not the one of PATH."""
    names = list(_gpu_names(proc))
    smi = smi or shutil.which("nvidia-smi")
    if not names and smi is None:
        return absent("GPUs", "no NVIDIA driver", "arrays and tensors travel through memory shared by the processes")
    if smi is None:
        return ok("GPUs", ", ".join(names))
    question = "--query-gpu=name,memory.total,driver_version"
    done = subprocess.run(
        [smi, question, "--format=csv,noheader"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=False
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        return problem("GPUs", f"nvidia-smi: {said[0] if said else f'exit code {done.returncode}'}", "mend the driver")
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if not lines:
        return absent("GPUs", "the driver has none", "in a container: docker run --gpus all")
    return ok("GPUs", "; ".join(lines))


def torch(found: Callable[[str], Import] = try_import, gpu: Callable[[], bool] = has_gpu) -> Finding:
    """Tensors as values; and whether it sees the GPUs that are there."""
    tried = found("torch")
    if not tried.installed or tried.error:
        return _missing("torch", tried, "pip install 'dagc[torch]'")
    built = tried.facts["built"]
    text = f"{tried.facts['version']}, {f'CUDA {built}' if built else 'without CUDA'}"
    if gpu() and not built:
        return problem(
            "torch", f"{text}, beside a GPU", "install a build with CUDA: pip install 'dagc[cuda12]', or cuda13"
        )
    if gpu() and not tried.facts["cuda"]:
        advice = "its CUDA and the driver do not fit, or CUDA_VISIBLE_DEVICES hides them"
        return problem("torch", f"{text}, sees no GPU", advice)
    return ok("torch", text)


def cupy(found: Callable[[str], Import] = try_import, gpu: Callable[[], bool] = has_gpu) -> Finding:
    """Tensors between GPUs go through CuPy's binding of NCCL."""
    tried = found("cupy")
    if not tried.installed or tried.error:
        return _missing(
            "cupy",
            tried,
            "for tensors between GPUs: pip install 'dagc[cuda12]', or cuda13",
        )
    text = f"{tried.facts['version']}, {tried.facts['devices']} GPUs"
    if gpu() and tried.facts["error"]:
        return problem(
            "cupy", f"{text}: {tried.facts['error']}", "take the build for the driver's CUDA (nvidia-smi says it)"
        )
    return ok("cupy", text)


def nccl(found: Callable[[str], Import] = try_import, gpu: Callable[[], bool] = has_gpu) -> Finding:
    """NCCL as CuPy has it."""
    tried = found("cupy")
    if not tried.installed or tried.error:
        return absent("nccl", "not reachable without cupy", "see the line of cupy")
    if tried.facts["nccl"]:
        return ok("nccl", _nccl_version(int(tried.facts["nccl"])))
    how = f"not loaded: {tried.facts['nccl_error']}"
    advice = "pip install nvidia-nccl-cu12, or -cu13"
    return problem("nccl", how, advice) if gpu() else absent("nccl", how, advice)


def ray(found: Callable[[str], Import] = try_import) -> Finding:
    """Where one machine is not enough."""
    tried = found("ray")
    if not tried.installed or tried.error:
        return _missing("ray", tried, "this version only compares itself with it: pip install 'dagc[ray]'")
    return ok("ray", str(tried.facts["version"]))


def _missing(name: str, tried: Import, how: str) -> Finding:
    if tried.installed:
        return problem(
            name, f"installed, but not to be imported: {tried.error}", f"install it anew, or remove it; {how}"
        )
    return absent(name, "not installed", how)


def _nccl_version(code: int) -> str:
    """NCCL's number of its version: 22304 is 2.23.4 (nccl.h, NCCL_VERSION)."""
    return f"{code // 10000}.{code % 10000 // 100}.{code % 100}"


def _gpu_names(proc: Path) -> Iterator[str]:
    for file in sorted((proc / "driver" / "nvidia" / "gpus").glob("*/information")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                yield line.partition(":")[2].strip()


def _floors(requires: Callable[[str], list[str] | None]) -> dict[str, str]:
    """What dagc's own metadata asks for at least; nothing if it runs from its sources, uninstalled."""
    try:
        lines = requires("dagc") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)\s*>=\s*([\w.]+)\s*$", line) for line in lines)
    return {match[1]: match[2] for match in found if match is not None}


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))
