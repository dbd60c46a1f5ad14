"""The README's first example runs and prints what its comments say; the files that it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()


def test_the_first_example_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    (tmp_path / "first.py").write_text(found[1])
    done = subprocess.run(
        [sys.executable, "first.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    first, *rest = done.stdout.splitlines()
    assert first == "[0, 1, 2, 3]"
    assert f"# {first}" in found[1]
    assert rest == [f"[{i}, 0, 1, 2, 3]" for i in range(8)]
    assert (done.returncode, done.stderr) == (0, "")


def test_the_files_that_it_names_exist() -> None:
    for path in re.findall(r"`((?:examples|benchmarks|tests)/[\w/.]+)`|\]\((\w+\.md)\)", PAGE):
        assert (ROOT / "".join(path)).exists(), path
