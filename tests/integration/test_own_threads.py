"""What a user's code does on dagc's own threads: in callbacks of results, and in finalizers of garbage.

The results of every call come through them, so nothing there may end one, or wait for another result.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drivers import run, said

CALLBACK = """
# What waits here for what cannot come waits longer than a test may.
runtime.session.GONE_SECONDS = 120.0

def called_back(function):
    \"\"\"What comes of the function, called by a result that comes.\"\"\"
    heard, gate = [], Actor.remote()
    ref = gate.pass_gate.remote("passed")
    said = threading.Event()
    def call(_):
        try:
            heard.append(function())
        except Exception as error:
            heard.append(f"{type(error).__name__}: {error}")
        said.set()
    ref.future().add_done_callback(call)
    gate.open_gate.remote()
    assert said.wait(HANG)
    assert dagc.get(ref, timeout=HANG) == "passed"
    return heard[0]

actor = Actor.remote()
ready = actor.echo.remote(1)
assert dagc.get(ready, timeout=HANG) == 1
hanging = actor.hang.remote()
"""

GARBAGE = """
gc.disable()
heard = []

class Finalized:
    \"\"\"In a cycle: it is finalized by the next collection, on the thread that happens to run it.\"\"\"

    def __init__(self, function):
        self.function, self.itself = function, self

    def __del__(self):
        where = threading.current_thread().name
        try:
            heard.append((where, self.function()))
        except Exception as error:
            heard.append((where, f"{type(error).__name__}: {error}"))

actor, other = Actor.remote(), Actor.remote()
assert dagc.get([actor.echo.remote(1), other.echo.remote(2)], timeout=HANG) == [1, 2]
"""


@pytest.mark.parametrize("end", ["SystemExit(1)", "KeyboardInterrupt()", "LookupError('no')"])
def test_a_callback_that_raises_ends_no_thread(tmp_path: Path, end: str) -> None:
    """And it is told. Those that were added after it are called all the same."""
    program = f"""
def end(_):
    raise {end}

gate, actor = Actor.remote(), Actor.remote()
first = gate.pass_gate.remote(1)
first.future().add_done_callback(end)
behind = actor.echo.remote(first)
gate.open_gate.remote()
print(dagc.get(behind, timeout=HANG), dagc.get(first, timeout=HANG), dagc.get(actor.echo.remote(2), timeout=HANG))
"""
    done = run(program, tmp_path)
    assert done.stdout == "1 1 2\n"
    assert end.partition("(")[0] in done.stderr


def test_a_callback_gets_what_is_there_and_waits_for_nothing(tmp_path: Path) -> None:
    program = """
print(called_back(lambda: dagc.get(ready)))
print(called_back(lambda: dagc.get(hanging)))
print(called_back(lambda: dagc.get([ready, hanging])))
print(called_back(lambda: dagc.get(actor.echo.remote(2), timeout=120)))
print(called_back(lambda: type(actor.echo.remote(3)).__name__))
print(dagc.get(actor.echo.remote(4), timeout=HANG))
"""
    value, *refused, called, later = said(CALLBACK + program, tmp_path).splitlines()
    assert (value, called, later) == ("1", "ObjectRef", "4")
    assert len(refused) == 3
    for line in refused:
        assert line.startswith("EngineError: get(ObjectRef(Actor(")
        assert "callback" in line
        assert "start a thread" in line


def test_a_callback_waits_for_refs_that_are_there_only(tmp_path: Path) -> None:
    program = """
print(called_back(lambda: dagc.wait([ready, hanging]) == ([ready], [hanging])))
print(called_back(lambda: dagc.wait([hanging], timeout=0) == ([], [hanging])))
print(called_back(lambda: dagc.wait([ready, hanging], num_returns=2)))
print(dagc.get(actor.echo.remote(4), timeout=HANG))
"""
    first, second, refused, later = said(CALLBACK + program, tmp_path).splitlines()
    assert (first, second, later) == ("True", "True", "4")
    assert refused.startswith("EngineError: wait")
    assert "callback" in refused


def test_a_callback_compiles_nothing(tmp_path: Path) -> None:
    """The actors' answers would come through it."""
    program = """
with dagc.InputNode() as x:
    y = actor.echo.bind(x)
print(called_back(lambda: dagc.plan(y, name="g").name))
print(called_back(lambda: dagc.compile(y)))
with dagc.compile(y) as graph:
    print(graph.execute(4).get())
"""
    planned, refused, later = said(CALLBACK + program, tmp_path).splitlines()
    assert (planned, later) == ("g", "4")
    assert refused.startswith("EngineError: compile in a callback")


def test_a_callback_kills_and_does_not_wait_for_the_death(tmp_path: Path) -> None:
    """It is that very thread that would hear of it."""
    program = """
print(called_back(lambda: dagc.kill(actor)))
print(outcome(hanging))
"""
    killed, death = said(CALLBACK + program, tmp_path).splitlines()
    assert killed == "None"
    assert death.startswith("ActorDiedError: actor Actor(")
    assert "killed by dagc.kill" in death


def test_a_finalizer_on_the_control_thread_kills(tmp_path: Path) -> None:
    """Of an object that owns an actor."""
    program = """
Finalized(lambda: dagc.kill(other))
current.engine()._control.soon(gc.collect)
print(dagc.get(actor.echo.remote(3), timeout=HANG))
print(outcome(other.hang.remote()))
print(heard)
"""
    value, death, heard = said(GARBAGE + program, tmp_path).splitlines()
    assert value == "3"
    assert "killed by dagc.kill" in death
    assert heard == "[('dagc-control', None)]"


def test_a_finalizer_on_the_control_thread_calls_and_waits_for_nothing(tmp_path: Path) -> None:
    program = """
hanging = other.hang.remote()
for act in (
    lambda: dagc.get(hanging),
    lambda: current.engine().describe([actor]),
    lambda: Actor.remote(),
    lambda: type(other.echo.remote(1)).__name__,
):
    Finalized(act)
    current.engine()._control.soon(gc.collect)
    assert dagc.get(actor.echo.remote(3), timeout=HANG) == 3
for where, found in heard:
    print(where, found)
"""
    got, described, made, called = said(GARBAGE + program, tmp_path).splitlines()
    for refused in (got, described, made):
        assert refused.startswith("dagc-control EngineError: ")
        assert "wait for itself" in refused
    assert called == "dagc-control ObjectRef"


def test_a_finalizer_calls_while_its_thread_calls(tmp_path: Path) -> None:
    """Making the first line to an actor allocates, so a collection may begin there: of another caller of that actor."""
    program = """
from runtime.embedded import peers
real = peers.Line

def line(*args):
    gc.collect()
    return real(*args)

peers.Line = line
new, late = Actor.remote(), []
Finalized(lambda: late.append([actor.echo.remote("known"), new.echo.remote("new")]))
print(dagc.get(new.echo.remote("called"), timeout=HANG))
print(dagc.get(late[0], timeout=HANG), heard)
"""
    assert said(GARBAGE + program, tmp_path) == "called\n['known', 'new'] [('MainThread', None)]\n"
