"""Every small example prints what its docstring says."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MARK = "Expected output:\n"
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("*.py") if MARK in (ast.get_docstring(ast.parse(path.read_text())) or "")
)


def test_the_small_examples_are_found() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names >= {"hello", "tensor_parallel", "pipeline_parallel", "scatter_gather", "async_serving"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_prints_its_expected_output(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    _, expected = docstring.split(MARK)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # dagc may be tested without being installed
    done = subprocess.run(
        [sys.executable, path], env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == expected.rstrip("\n")
    assert done.stderr == ""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
