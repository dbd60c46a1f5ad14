"""The models of the protocols in csrc/ hold, and every step of the protocols is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HOLD = [
    ["ring"],
    ["ring", "-DPIPE=1"],
    ["ring", "-DBREAK", "-DSLOTS=1", "-DMESSAGES=2"],
    ["ring", "-DBREAK", "-DSLOTS=1", "-DMESSAGES=1", "-DPIPE=1"],
    ["ring", "-DARENA"],
    ["ring", "-DARENA", "-DFORWARD"],
    ["collective"],
    ["collective", "-DRANKS=3", "-DOPERATIONS=1"],
    ["collective", "-DRANKS=3", "-DPAIR_FIRST"],
]
#: A protocol with one step taken out.
MUTANTS = [
    ["ring", "-DNO_RECHECK", "-DPIPE=1"],
    ["ring", "-DFLAG_AFTER_CHECK", "-DPIPE=1"],
    ["ring", "-DPLAIN_PUBLISH"],
    ["ring", "-DPLAIN_CONSUME"],
    ["ring", "-DWAKE_ONE"],
    ["ring", "-DCLEAR_AFTER"],
    ["ring", "-DNO_LOOK_AFTER"],
    ["ring", "-DARENA", "-DRECYCLE_NO_RECHECK"],
    ["ring", "-DARENA", "-DRECYCLE_PLAIN"],
    ["ring", "-DARENA", "-DPEERS_ONCE"],
    ["ring", "-DARENA", "-DFORWARD", "-DSCAN_ONCE"],
    ["ring", "-DARENA", "-DHOLD_NO_RECHECK"],
    ["ring", "-DARENA", "-DCHECK_BEFORE_HOLD"],
    ["collective", "-DONE_POST"],
    ["collective", "-DCROSSED_ONLY"],
    ["collective", "-DNO_WITHDRAW"],
]
#: These leave somebody waiting for ever.
HANGING_MUTANTS = [
    ["collective", "-DPLAIN_PUBLISH"],
    ["collective", "-DPLAIN_AWAITS"],
    ["collective", "-DNO_RECHECK"],
    ["collective", "-DNO_RECHECK_CROSSED"],
    ["collective", "-DBELL_AFTER"],
    ["collective", "-DNO_CROSSING"],
]

pytestmark = [
    pytest.mark.timeout(600),  # a state space takes what it takes; `check` ends a checker that hangs
    pytest.mark.skipif(
        shutil.which("spin") is None or shutil.which("gcc") is None,
        reason="needs the model checker Spin and gcc: apt-get install spin gcc",
    ),
]


def check(model: list[str], folder: Path) -> str:
    """Run the checker over the whole state space of a model with its options; its report."""
    name, *options = model

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("spin", "-a", *options, str(Path(__file__).with_name(f"{name}.pml")))
    run("gcc", "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2000", "-o", "pan", "pan.c")
    report = run("./pan", "-m100000")
    assert not re.search("max search depth too small|reached -DMEMLIM|out of memory", report), report
    return report


@pytest.mark.parametrize("model", HOLD, ids=" ".join)
def test_the_protocol_holds(model: list[str], tmp_path: Path) -> None:
    assert "errors: 0" in check(model, tmp_path)


@pytest.mark.parametrize("model", MUTANTS, ids=" ".join)
def test_without_this_step_it_fails(model: list[str], tmp_path: Path) -> None:
    report = check(model, tmp_path)
    assert re.search("errors: [1-9]", report), report
    assert "assertion violated" in report, report


@pytest.mark.parametrize("model", HANGING_MUTANTS, ids=" ".join)
def test_without_this_step_it_hangs(model: list[str], tmp_path: Path) -> None:
    report = check(model, tmp_path)
    assert re.search("errors: [1-9]", report), report
    assert "invalid end state" in report, report
