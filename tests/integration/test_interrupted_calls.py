"""Calls in the middle of which something ends: by Ctrl-C, by sys.exit, for want of a descriptor or a thread.

The next call of that actor is answered, or says why not; none waits for ever.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from runtime.calls import ActorHandle, BoundCall, methods_of
from runtime.ids import ActorId
from runtime.line import Line
from runtime.messages import Request
from runtime.refs import ObjectRef, new_result
from tests.drivers import run, said
from tests.interrupts import at_every_point, interrupted


class Stage:
    def forward(self, x: Any) -> Any:
        return x


def _call(value: Any) -> BoundCall:
    """Bound, and not made."""
    handle = ActorHandle(ActorId("a"), "Stage", methods_of(Stage), "session", False)
    return BoundCall(handle, handle._methods["forward"], (value,), {})


# ---- Ctrl-C ----


@pytest.mark.parametrize("argument", ["a value", "a ref that is there"])
def test_ctrl_c_in_a_call_leaves_nothing_that_the_next_one_waits_for(argument: str) -> None:
    there: Future[Any] = new_result()
    there.set_result(1)
    call = _call(ObjectRef(there, "there") if argument == "a ref that is there" else 1)

    def check(point: int) -> bool:
        sent: list[Request] = []
        line = Line("Stage(a)", sent.append)
        came = interrupted(lambda: line.submit(call), point)
        before = len(sent)
        assert before <= 1
        line.submit(call)
        assert len(sent) == before + 1
        return came

    at_every_point(check)


def test_ctrl_c_in_a_call_sends_what_waited_before_it() -> None:
    """In order, and each once."""

    def check(point: int) -> bool:
        sent: list[Request] = []
        line = Line("Stage(a)", sent.append)
        argument: Future[Any] = new_result()
        line.submit(_call(ObjectRef(argument, "argument")))
        came = interrupted(lambda: line.submit(_call(2)), point)
        assert sent == []
        line.submit(_call(3))
        argument.set_result(1)
        assert len(sent) in ((2, 3) if came else (3,))
        assert sent[0].values
        assert [request.id for request in sent] == list(range(len(sent)))
        return came

    at_every_point(check)


INTERRUPTED = """
came.append(True)
actor, other = Actor.remote(), Actor.remote()
assert dagc.get([actor.echo.remote(1), other.echo.remote(2)], timeout=HANG) == [1, 2]
new = Actor.remote()
current.engine().describe([new])
"""


@pytest.mark.parametrize(
    "where",
    ["runtime.line.when_ready", "runtime.embedded.peers.Line", "current.engine()._control.soon"],
)
def test_ctrl_c_in_a_call_leaves_the_actor_usable(tmp_path: Path, where: str) -> None:
    """Where the call is known and waits for its arguments; where the actor has no line yet; where it is not served."""
    program = f"""
import runtime.embedded.peers, runtime.line
{where} = signalled({where}, signal.SIGINT)
for handle in (new, actor):
    came.clear()
    try:
        handle.echo.remote(3)
    except KeyboardInterrupt:
        print("interrupted")
    came.append(True)
    print(dagc.get(handle.echo.remote(4), timeout=HANG))
"""
    first, value, *rest = said(INTERRUPTED + program, tmp_path).splitlines()
    assert (first, value) == ("interrupted", "4")
    assert rest in (["interrupted", "4"], ["4"])  # the second actor has its line already


# ---- sys.exit in what an async method starts ----


ASYNC = """
import asyncio, builtins

@dagc.remote(num_cpus=0, max_concurrency=4)
class Async:
    async def ends(self, name):
        raise getattr(builtins, name)(3)

    async def looks(self, name):
        task = asyncio.create_task(self.ends(name))
        await asyncio.wait([task])
        return repr(task.exception())

    async def awaits(self, name):
        await asyncio.gather(self.ends(name), asyncio.sleep(0))

    async def echo(self, value):
        return value

actor = Async.remote()
assert dagc.get(actor.echo.remote(1), timeout=HANG) == 1
"""


@pytest.mark.parametrize("end", ["SystemExit", "KeyboardInterrupt"])
def test_a_task_of_an_async_method_that_would_end_the_thread_does_not(tmp_path: Path, end: str) -> None:
    program = f"""
print(dagc.get(actor.looks.remote("{end}"), timeout=HANG), dagc.get(actor.echo.remote(2), timeout=HANG))
"""
    assert said(ASYNC + program, tmp_path) == f"{end}(3) 2\n"


def test_a_task_of_an_async_method_that_exits_ends_the_actor_of_who_awaits_it(tmp_path: Path) -> None:
    program = """
print(outcome(actor.awaits.remote("SystemExit")))
"""
    assert "died: exited with code 3 while executing awaits" in said(ASYNC + program, tmp_path)


# ---- no descriptor, no thread, no stream ----


def test_a_call_for_which_there_is_no_descriptor_is_told(tmp_path: Path) -> None:
    program = """
actor, other = Actor.remote(), Actor.remote()
current.engine().describe([actor])  # it lives, and nobody has called it
assert dagc.get(other.echo.remote(1), timeout=HANG) == 1
with no_descriptor_left():
    found = outcome(actor.echo.remote(2))
print(found)
print(dagc.get(other.echo.remote(3), timeout=HANG))
"""
    found, later = said(program, tmp_path).splitlines()
    assert found.startswith("EngineError: no connection with actor ")
    assert "Too many open files" in found
    assert later == "3"


def test_a_call_for_which_there_is_no_thread_is_told(tmp_path: Path) -> None:
    """As where the number of processes is limited. The stream of calls goes on."""
    program = """
def refused(thread):
    raise RuntimeError("can't start new thread")

def starve(context):
    started = threading.Thread.start
    threading.Thread.start = refused
    context.instance.feed = lambda: setattr(threading.Thread, "start", started)

def look(context):
    return 5

@dagc.remote
class One:
    def echo(self, value):
        return value

    def feed_again(self):
        self.feed()

actor = One.remote()
engine = current.engine()
assert engine.call(actor, look).result(HANG) == 5
engine.call(actor, starve).result(HANG)
error = engine.call(actor, look).exception(HANG)
print(type(error).__name__, error)
error = engine.start_loop(actor, look).ready.exception(HANG)
print(type(error).__name__, error)
print(dagc.get(actor.echo.remote(2), timeout=HANG))
dagc.get(actor.feed_again.remote(), timeout=HANG)
print(engine.call(actor, look).result(HANG))
"""
    assert said(program, tmp_path) == "RuntimeError can't start new thread\n" * 2 + "2\n5\n"


def test_a_stream_that_ends_though_the_actor_lives_is_told(tmp_path: Path) -> None:
    program = """
import runtime.embedded.peers
runtime.embedded.peers._LOST_S = 0.05

@dagc.remote(num_cpus=0)
class Deaf:
    def __init__(self):
        from runtime.host import ActorHost
        def receive(*_):
            raise MemoryError("no room for a request")
        ActorHost.receive = receive

    def hear(self):
        pass

actor = Deaf.remote()
print(outcome(actor.hear.remote()))
print(outcome(actor.hear.remote()))
print(current.engine().describe([actor])[0].death)
"""
    done = run(program, tmp_path).stdout.splitlines()  # gRPC logs, in the process of the actor
    assert len(done) == 3
    for line in done[:2]:
        assert line.startswith("EngineError: ")
        assert "was lost; its process lives" in line
    assert done[2] == "None"
