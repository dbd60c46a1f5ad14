"""The built wheel installs into an empty environment and runs the first example there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def run(*command: str | Path, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_wheel_runs_hello_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"  # built from a copy: a build leaves files in its tree
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.so", "__pycache__", "*.egg-info"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    reached = run(python, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path / "x", "cloudpickle", check=False)
    if reached.returncode:
        pytest.skip(f"no package index can be reached from here: {reached.stderr.strip().splitlines()[-1]}")
    run(python, "-m", "pip", "install", "-q", wheel)
    (tmp_path / "hello.py").write_text((ROOT / "examples" / "hello.py").read_text())
    done = run(python, "hello.py", cwd=tmp_path)
    assert done.stdout == "Hello, Ada!\nHello, Grace!\n2 greetings by one actor\n"
    assert done.stderr == ""
    listed = run(python, "-m", "pip", "list", "--format=freeze").stdout.lower()
    assert "torch" not in listed
