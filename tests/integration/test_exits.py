"""Graphs that nobody tears down: those that are open when a script ends, and those that are dropped."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import dagc
from dagc import InputNode
from tests.drivers import said

PRELUDE = """
import numpy as np
from dagc import InputNode, MultiOutputNode
from tests.waiting import wait_for_the_end

@dagc.remote
class Stage:
    def forward(self, x):
        return np.full(4, x, np.float64)

@dagc.remote
def double(x):
    return 2 * x

def reduced(*groups):
    with InputNode() as x:
        return MultiOutputNode([y for group in groups for y in dagc.allreduce.bind([s.forward.bind(x) for s in group])])
"""


# ---- at the end of the script ----


@pytest.mark.parametrize("groups", ["stages[:2]", "stages[:2], stages"], ids=["one", "several"])
def test_a_script_need_not_tear_its_collectives_down(tmp_path: Path, groups: str) -> None:
    """At that time Python starts no thread any more."""
    program = f"""
stages = [Stage.remote() for _ in range(3)]
graph = dagc.compile(reduced({groups}))
print([float(ref.get(HANG)[0]) for ref in graph.execute(2.0)])
"""
    found = {"stages[:2]": "[4.0, 4.0]\n", "stages[:2], stages": "[4.0, 4.0, 6.0, 6.0, 6.0]\n"}[groups]
    assert said(PRELUDE + program, tmp_path) == found


@pytest.mark.parametrize("graph", ["double.bind(x)", "Stage.remote().forward.bind(x)"], ids=["function", "method"])
def test_a_script_may_end_with_a_graph_that_it_dropped(tmp_path: Path, graph: str) -> None:
    """In a cycle, with a result on its way: whether and where the collector comes is not known."""
    program = f"""
def drop():
    with InputNode() as x:
        y = {graph}
    dagc.compile(y, name="dropped").execute(1)

drop()
"""
    for collect in ("gc.collect()", "gc.disable()"):
        assert said(PRELUDE + program + collect, tmp_path) == ""


# ---- dropped ----


@pytest.mark.parametrize("graph", ["double.bind(x)", "reduced(stages)"], ids=["function", "collective"])
def test_a_dropped_graph_may_be_collected_by_the_thread_that_would_have_to_answer(tmp_path: Path, graph: str) -> None:
    """The collector runs wherever something is allocated, as in the thread by which the engine asks for everything."""
    program = f"""
stages = [Stage.remote() for _ in range(2)]
dagc.get([stage.forward.remote(0) for stage in stages])

def drop():
    with InputNode() as x:
        y = {graph}
    dagc.compile(y).execute(1)

gc.disable()
before = children()
drop()
started = children() - before
collected = threading.Event()

def collect():
    gc.collect()
    collected.set()

current.engine()._control.soon(collect)
assert collected.wait(HANG), "the engine is stuck"
print(dagc.get(Stage.remote().forward.remote(3), timeout=HANG)[0])
wait_for_the_end(started)
"""
    assert said(PRELUDE + program, tmp_path) == "3.0\n"


def test_what_a_dropped_graph_had_is_given_back(tmp_path: Path) -> None:
    """The workers of its functions end with it, and after `shutdown` there is nothing left of anything."""
    program = """
def drop():
    with InputNode() as x:
        y = double.bind(double.bind(x))
    dagc.compile(y).execute(1)

threads = set(threading.enumerate())
dagc.get(Stage.remote().forward.remote(1))
gc.collect()
for _ in range(3):
    before = children()
    drop()
    started = children() - before
    assert started, "a graph of functions has workers of its own"
    gc.collect()
    wait_for_the_end(started)
drop()
gc.collect()
everybody = children()
dagc.shutdown()
wait_for_the_end(everybody)
print([thread.name for thread in set(threading.enumerate()) - threads if "_poll_wrapper" not in thread.name])
with InputNode() as x:
    y = double.bind(x)
with dagc.compile(y) as graph:
    print(graph.execute(2).get(HANG))
"""
    assert said(PRELUDE + program, tmp_path) == "[]\n4\n"


# ---- shutdown ----


class Stage:
    def forward(self, x: Any) -> Any:
        return x


RemoteStage = dagc.remote(Stage)


#: More than it does before it looks at the first graph.
STEPS = 24


def compiled() -> dagc.CompiledGraph:
    with InputNode() as x:
        y = RemoteStage.remote().forward.bind(x)
    return dagc.compile(y)


@pytest.mark.parametrize("change", ["teardown", "compile"])
def test_shutdown_goes_through_the_graphs_while_others_change_them(threads: None, change: str) -> None:
    """At each of its first steps, by another thread."""
    graphs = [compiled() for _ in range(STEPS)]
    steps = iter(range(STEPS))
    step = 0

    def act() -> None:
        if change == "teardown":
            graphs[step].teardown()
        else:
            graphs.append(compiled())

    def profile(frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal step
        step = next(steps, STEPS)
        if frame.f_code.co_name == "teardown":  # the first graph's: from here on another thread might wait for this one
            sys.setprofile(None)
        elif step < STEPS:
            other = threading.Thread(target=act)
            other.start()
            other.join()

    sys.setprofile(profile)
    try:
        dagc.shutdown()
    finally:
        sys.setprofile(None)
        for graph in graphs:
            graph.teardown()
    for graph in graphs:
        with pytest.raises((dagc.GraphClosedError, dagc.ActorDiedError)):
            graph.execute(1)
