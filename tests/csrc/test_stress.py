"""ring.c and arena.c under load without Python; run_sanitizers.sh runs the same program under the sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CSRC = ROOT / "channels" / "csrc"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_nothing_is_lost_mixed_up_or_leaked_under_load(tmp_path: Path) -> None:
    program = tmp_path / "stress"
    sources = [Path(__file__).with_name("stress.c"), *(CSRC / f"{name}.c" for name in ("ring", "arena", "process"))]
    build: list[str | Path] = [
        "gcc",
        "-std=c11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        f"-I{CSRC}",
        "-o",
        program,
        *sources,
    ]
    subprocess.run(build, check=True)
    for seed in range(1, 4):
        done = subprocess.run([program, "32", "2000", str(seed)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
