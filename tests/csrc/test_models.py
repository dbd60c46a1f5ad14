"""The models of the ring's and the arena's protocols hold, and every step of the protocols is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("ring.pml")

HOLD = [
    [],
    ["-DPIPE=1"],
    ["-DBREAK", "-DSLOTS=1", "-DMESSAGES=2"],
    ["-DBREAK", "-DSLOTS=1", "-DMESSAGES=1", "-DPIPE=1"],
    ["-DARENA"],
    ["-DARENA", "-DFORWARD"],
]
#: A protocol with one step taken out.
MUTANTS = [
    ["-DNO_RECHECK", "-DPIPE=1"],
    ["-DFLAG_AFTER_CHECK", "-DPIPE=1"],
    ["-DPLAIN_PUBLISH"],
    ["-DPLAIN_CONSUME"],
    ["-DWAKE_ONE"],
    ["-DCLEAR_AFTER"],
    ["-DNO_LOOK_AFTER"],
    ["-DARENA", "-DRECYCLE_NO_RECHECK"],
    ["-DARENA", "-DRECYCLE_PLAIN"],
    ["-DARENA", "-DPEERS_ONCE"],
    ["-DARENA", "-DFORWARD", "-DSCAN_ONCE"],
    ["-DARENA", "-DHOLD_NO_RECHECK"],
    ["-DARENA", "-DCHECK_BEFORE_HOLD"],
]

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None,
    reason="needs the model checker Spin and gcc: apt-get install spin gcc",
)


def check(options: list[str], folder: Path) -> str:
    """Run the checker over the whole state space; its report."""

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("spin", "-a", *options, str(MODEL))
    run("gcc", "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2000", "-o", "pan", "pan.c")
    report = run("./pan", "-m100000")
    assert not re.search("max search depth too small|reached -DMEMLIM|out of memory", report), report
    return report


@pytest.mark.parametrize("options", HOLD, ids=" ".join)
def test_the_protocol_holds(options: list[str], tmp_path: Path) -> None:
    assert "errors: 0" in check(options, tmp_path)


@pytest.mark.parametrize("options", MUTANTS, ids=" ".join)
def test_without_this_step_it_fails(options: list[str], tmp_path: Path) -> None:
    report = check(options, tmp_path)
    assert re.search("errors: [1-9]", report), report
    assert "assertion violated" in report, report
