"""The C sources without Python under load; run_sanitizers.sh runs the same programs under the sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CSRC = ROOT / "channels" / "csrc"

COLLECTIVE = (
    "collective",
    "collective_rounds",
    "collective_moves",
    "collective_kernels",
    "process",
    "reason",
    "waiting",
)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize(
    ("program", "names", "arguments"),
    [
        ("stress", ("ring", "arena", "process", "reason", "waiting"), ("32", "2000")),
        ("collective_stress", COLLECTIVE, ("60", "800")),
    ],
    ids=["rings", "collectives"],
)
def test_nothing_is_lost_mixed_up_or_leaked_under_load(
    program: str, names: tuple[str, ...], arguments: tuple[str, ...], tmp_path: Path
) -> None:
    built = tmp_path / program
    sources = [Path(__file__).with_name(f"{program}.c"), *(CSRC / f"{name}.c" for name in names)]
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
        built,
        *sources,
    ]
    subprocess.run(build, check=True)
    for seed in range(1, 4):
        done = subprocess.run([built, *arguments, str(seed)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
