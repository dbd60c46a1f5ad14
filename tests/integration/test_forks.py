"""Processes that are forked from a driver or an actor, as by multiprocessing and DataLoader; and spawned ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import multiprocessing, os, sys, threading, time
import dagc.compiled, dagc.ending, dagc.session, runtime.session
from dagc import InputNode

HANG = 30
# What a fork must not wait for takes longer than the test allows.
dagc.session.SHUTDOWN_SECONDS = runtime.session.GONE_SECONDS = 120.0
dagc.compiled.REASON_SECONDS = dagc.ending.REASON_SECONDS = 120.0

@dagc.remote
class Stage:
    def forward(self, x):
        return x + 1

    def fork(self, count):
        return fork(count)

def one_dag():
    with InputNode() as x:
        return Stage.remote().forward.bind(x)

def nothing_of_dagc():
    thread = threading.Thread(target=sum, args=(range(1000),))
    thread.start()
    thread.join()
    time.sleep(0.1)

def fork(count):
    children = [multiprocessing.get_context("fork").Process(target=nothing_of_dagc) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(HANG)
    return [child.exitcode for child in children]

def in_a_child(act):
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(0)
    begun = time.monotonic()
    status = os.waitpid(pid, 0)[1]
    assert time.monotonic() - begun < 25, "it waited for what it cannot have"
    return status
"""


def run(program: str, tmp_path: Path) -> str:
    script = tmp_path / "script.py"
    script.write_text(PRELUDE + program)
    # From Python 3.12 on a fork in a process with threads warns.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fork" not in done.stderr, done.stderr  # of gRPC's own handlers
    return done.stdout


def test_children_that_have_nothing_to_do_with_it_run_undisturbed(tmp_path: Path) -> None:
    """In the middle of the driver's and the actors' own threads, and of gRPC's."""
    program = """
dag = one_dag()
with dagc.compile(dag) as graph:
    assert graph.execute(1).get(HANG) == 2
    print(set(fork(30)))
    stage = Stage.remote()
    print(set(dagc.get(stage.fork.remote(30))))
    assert graph.execute(2).get(HANG) == 3
"""
    assert run(program, tmp_path) == "{0}\n{0}\n"


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("sys.exit(0)", ""),
        ("graph.teardown()", ""),
        ("graph.__exit__(None, None, None)", ""),
        ("dagc.shutdown()", ""),
        ("try_to(lambda: graph.execute(3))", "GraphClosedError graph main was compiled in process"),
        ("try_to(lambda: ref.get())", "GraphClosedError graph main was compiled in process"),
        ("try_to(lambda: Stage.remote())", "EngineError this process was forked from one that has an engine"),
    ],
)
def test_a_fork_ends_nothing_of_its_parents_and_waits_for_nothing(tmp_path: Path, act: str, said: str) -> None:
    program = f"""
def try_to(act):
    try:
        act()
    except dagc.DagcError as error:
        print(type(error).__name__, error, flush=True)

dag = one_dag()
with dagc.compile(dag, name="main") as graph:
    assert graph.execute(1).get(HANG) == 2
    ref = graph.execute(2)
    assert in_a_child(lambda: {act}) == 0
    assert ref.get(HANG) == 3
    assert graph.execute(4).get(HANG) == 5
"""
    found = run(program, tmp_path)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_a_script_that_multiprocessing_spawns_is_a_driver_of_its_own(tmp_path: Path) -> None:
    """Its classes are those of a module that no other process can import."""
    program = """
def drive():
    with dagc.compile(one_dag()) as graph:
        print(graph.execute(1).get(HANG), flush=True)
    dagc.shutdown()

if __name__ == "__main__":
    drive()
    for way in ("spawn", "forkserver"):
        child = multiprocessing.get_context(way).Process(target=drive)
        child.start()
        child.join(HANG)
        assert child.exitcode == 0, child.exitcode
"""
    assert run(program, tmp_path) == "2\n2\n2\n"
