"""The end of a session, and of an actor: whoever waits is answered, and whatever else happens meanwhile, it comes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime import current
from tests.drivers import run, said


@runtime.remote(num_cpus=0)
class Echo:
    def echo(self, value: Any) -> Any:
        return value


def test_every_call_is_answered(tmp_path: Path) -> None:
    """Also one behind which another is sent, at a time at which nothing can be sent any more."""
    program = """
from runtime.embedded.peers import Peers

dagc.init(num_cpus=4)
slow, actor = [Actor.remote() for _ in range(3)], Actor.remote()
refs = [each.hang.remote() for each in slow]
assert dagc.get(actor.echo.remote(0), timeout=HANG) == 0
waiting = [actor.echo.remote(ref) for ref in refs]
ready = actor.echo.remote(1)

# The deaths of the processes are heard only when the end itself has told everybody.
released = threading.Event()
close = Peers.close
def closes(self):
    close(self)
    released.set()
Peers.close = closes
current.engine()._delivery.put(released.wait)

dagc.shutdown()
for ref in (*refs, *waiting, ready):
    print(ref.future().done(), type(ref.future().exception(HANG)).__name__)
"""
    assert said(program, tmp_path) == "True EngineError\n" * 7


# ---- in a signal handler ----


SIGNALLED = """
class Stopped(BaseException):
    pass

def handle(*_):
    dagc.shutdown()
    if RAISES:
        raise Stopped

signal.signal(signal.SIGTERM, handle)

@dagc.remote
def task(value):
    return value

dagc.init(num_cpus=2)
actor = Actor.remote()
assert dagc.get([actor.echo.remote(0), task.remote(0)], timeout=HANG) == [0, 0]
"""


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("runtime.task_queue.TaskQueue.add", "task.remote(1)"),
        ("runtime.embedded.peers.Line", "new.echo.remote(1)"),
        ("runtime.line.Request", "actor.echo.remote(1)"),
        ("runtime.embedded.peers._Peer.transmit", "new.echo.remote(1)"),
        ("asyncio.run_coroutine_threadsafe", "Actor.remote()"),
    ],
)
def test_a_signal_handler_shuts_down_in_the_middle_of_a_call(
    tmp_path: Path, where: str, call: str, raises: bool
) -> None:
    """Each time in the middle of one whose locks the end needs, too."""
    program = f"""
import asyncio, runtime.embedded.peers, runtime.line, runtime.task_queue
new = Actor.remote()
current.engine().describe([new])
{where} = signalled({where}, signal.SIGTERM)
try:
    print(outcome({call}))
except Stopped:
    print("stopped")
except dagc.EngineError as error:
    print("EngineError:", error)
assert came and current.started() is None
dagc.init(num_cpus=2)
print(outcome(Actor.remote().echo.remote("again")))
"""
    done = run(f"RAISES = {raises}\n" + SIGNALLED + program, tmp_path)
    found, again = done.stdout.splitlines()
    if raises:
        assert found == "stopped"
    else:
        assert done.stderr == ""
        assert found.startswith("EngineError: ")
        assert "shut down" in found
    assert again == "again"


def test_a_signal_handler_shuts_down_while_a_reply_waits_for_what_it_interrupted(tmp_path: Path) -> None:
    """The thread that results come through needs the lock of a line, which the interrupted call holds."""
    program = """
import runtime.embedded.peers
from runtime.embedded.control import Delivery

new = Actor.remote()
current.engine().describe([new])
transmit, put, came = runtime.embedded.peers._Peer.transmit, Delivery.put, threading.Event()

def puts(self, function, *args):
    put(self, function, *args)
    if getattr(function, "__name__", "") == "receive":
        came.set()

def transmits(self, request):
    transmit(self, request)
    assert came.wait(HANG)
    signal.raise_signal(signal.SIGTERM)

Delivery.put, runtime.embedded.peers._Peer.transmit = puts, transmits
try:
    new.echo.remote(1)
except Stopped:
    print("stopped", current.started())
"""
    assert said("RAISES = True\n" + SIGNALLED + program, tmp_path) == "stopped None\n"


# ---- sys.exit ----


@pytest.mark.parametrize("kind", ["", "async "])
def test_what_was_returned_arrives_before_the_actor_exits(tmp_path: Path, kind: str) -> None:
    """The replies are still being written when a later method calls sys.exit."""
    program = f"""
@dagc.remote(num_cpus=0)
class Leaving:
    def __init__(self):
        import asyncio, runtime.embedded.worker
        leaves = self.leaves = threading.Event()
        serve = runtime.embedded.worker._Calls._serve_caller

        async def serve_slowly(calls, messages, write):
            async def write_late(message):
                while not leaves.is_set():
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.1)
                await write(message)
            await serve(calls, messages, write_late)

        runtime.embedded.worker._Calls._serve_caller = serve_slowly

    def echo(self, value):
        return value

    {kind}def leave(self):
        self.leaves.set()
        sys.exit(7)

actor = Leaving.remote()
returned, left, later = actor.echo.remote("returned"), actor.leave.remote(), actor.echo.remote("later")
for ref in (returned, left, later):
    print(outcome(ref))
"""
    first, *deaths = said(program, tmp_path).splitlines()
    assert first == "returned"
    assert len(deaths) == 2
    assert all("exited with code 7 while executing leave" in death for death in deaths)


# ---- the end of the script ----


@pytest.mark.parametrize("shuts_down", [True, False])
def test_the_script_ends_though_a_method_in_a_thread_never_returns(tmp_path: Path, shuts_down: bool) -> None:
    program = f"""
dagc.init("threads")
actor = Actor.remote()
actor.hang.remote()
print(dagc.get(actor.echo.remote(1), timeout=HANG))
if {shuts_down}:
    dagc.shutdown()
print("end")
"""
    assert said(program, tmp_path) == "1\nend\n"


# ---- what happens meanwhile ----


def test_a_shutdown_that_ends_late_forgets_no_later_engine(tmp_path: Path) -> None:
    program = """
from runtime.embedded.folder import SessionFolder

remove, removing, may_go_on = SessionFolder.remove, threading.Event(), threading.Event()

def remove_late(self):
    remove(self)
    if threading.current_thread() is not threading.main_thread():
        removing.set()
        assert may_go_on.wait(HANG)

SessionFolder.remove = remove_late
dagc.init(num_cpus=2)
first = threading.Thread(target=dagc.shutdown)
first.start()
assert removing.wait(HANG)
dagc.shutdown()
dagc.init(num_cpus=2)
engine, actor = current.started(), Actor.remote()
print(dagc.get(actor.echo.remote(1), timeout=HANG))
may_go_on.set()
first.join()
print(current.started() is engine, dagc.get(actor.echo.remote(2), timeout=HANG))
"""
    assert said(program, tmp_path) == "1\nTrue 2\n"


def test_the_folder_may_be_gone() -> None:
    """Whatever cleans the folder for temporary files may have been there."""
    runtime.init(num_cpus=2)
    actor = Echo.remote()  # type: ignore[attr-defined]
    assert runtime.get(actor.echo.remote(1)) == 1
    engine: Any = current.engine()
    shutil.rmtree(engine._folder.path)
    assert runtime.get(actor.echo.remote(2)) == 2
    runtime.shutdown()
    assert current.started() is None
    assert not Path(engine._folder.path).exists()
