"""The start of a worker process: what can go wrong with one, and what else happens in the driver meanwhile."""

from __future__ import annotations

import errno
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.embedded import marker
from runtime.embedded.folder import SessionFolder
from runtime.embedded.spawner import Spawner
from runtime.ids import ActorId
from tests.drivers import said

#: A watchdog: whoever needs this many seconds hangs.
HANG = 30.0


class Started:
    """A spawner, and the ends that it tells of. The workers have nobody to talk with, so they live until killed."""

    def __init__(self, folder: SessionFolder) -> None:
        self.ends: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._starts: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.spawner = Spawner(
            folder.path, lambda actor, _pid: self._starts.put(actor), lambda *end: self.ends.put(end)
        )

    def spawn(self, name: str) -> None:
        """Start one, and wait until there is a process."""
        self.spawner.spawn(ActorId(name), dict(os.environ))
        assert self._starts.get(timeout=HANG) == name

    def end(self) -> tuple[str, str]:
        return self.ends.get(timeout=HANG)


@pytest.fixture
def started() -> Iterator[Started]:
    folder = SessionFolder.create()
    made = Started(folder)
    yield made
    made.spawner.close()
    folder.remove()


def _raising(error: BaseException) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise error

    return refuse


# ---- failures ----


def _check_told(printed: str, reason: str) -> None:
    """The actor that could not be started says why; one that lived goes on, and another can be started."""
    death, later = printed.splitlines()
    assert death.startswith("ActorDiedError: ")
    assert "could not be started" in death
    assert reason in death
    assert later == "3 4"


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ((marker, "create"), OSError(errno.EMFILE, "Too many open files")),
        ((os.path, "abspath"), FileNotFoundError(errno.ENOENT, "No such file or directory")),
        ((os, "pipe"), OSError(errno.EMFILE, "Too many open files")),
        ((os, "fsencode"), MemoryError("Cannot allocate memory")),
    ],
    ids=["no descriptor for its page", "no current directory", "no descriptor for its pipe", "no memory"],
)
def test_a_worker_that_cannot_be_started_is_told_and_the_others_live(
    started: Started, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], error: Exception
) -> None:
    """The kernel kills them with the thread that has started them."""
    started.spawn("lives")
    with monkeypatch.context() as patch:
        patch.setattr(*where, _raising(error))
        started.spawner.spawn(ActorId("fails"), dict(os.environ))
        actor, reason = started.end()
    assert actor == "fails"
    assert reason.startswith("its process could not be started: ")
    assert str(error) in reason
    assert started.ends.empty()
    started.spawn("works again")
    for name in ("works again", "lives"):
        started.spawner.kill(ActorId(name))
        assert started.end() == (name, "killed by SIGKILL")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ESRCH])
def test_the_end_is_told_of_a_worker_for_which_there_is_no_pidfd(
    started: Started, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", _raising(OSError(number, os.strerror(number))))
        started.spawn("a")
        started.spawner.kill(ActorId("a"))
        assert started.end() == ("a", "killed by SIGKILL")


def test_too_many_open_files(tmp_path: Path) -> None:
    program = """
actor = Actor.remote()
assert dagc.get(actor.echo.remote(1), timeout=HANG) == 1
with no_descriptor_left():
    found = outcome(Actor.remote().echo.remote(2))
print(found)
print(outcome(actor.echo.remote(3)), outcome(Actor.remote().echo.remote(4)))
"""
    _check_told(said(program, tmp_path), "Too many open files")


def test_a_current_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    program = """
os.chdir("gone")
sys.path.insert(0, "")  # as in a notebook: it is the current directory
actor = Actor.remote()
assert dagc.get(actor.echo.remote(1), timeout=HANG) == 1
os.rmdir(os.getcwd())
print(outcome(Actor.remote().echo.remote(2)))
os.chdir("/")
print(outcome(actor.echo.remote(3)), outcome(Actor.remote().echo.remote(4)))
"""
    _check_told(said(program, tmp_path), "No such file or directory")


# ---- forks ----


def test_a_fork_in_another_thread_does_not_hold_up_a_worker(tmp_path: Path) -> None:
    """A child that has a copy of the end of the worker's input keeps that open for as long as it lives."""
    program = """
import subprocess
from runtime.embedded import spawner

LONG_ENOUGH = 0.5  # for a fork that nothing prevents
children, forked, starts = [], threading.Event(), threading.Event()
read, write = os.pipe()

def fork():
    assert starts.wait(HANG)
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # until the driver is done
        os._exit(0)
    children.append(child)
    forked.set()

class Popen(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        starts.set()
        forked.wait(LONG_ENOUGH)

dagc.init(num_cpus=4)
spawner.subprocess.Popen = Popen
thread = threading.Thread(target=fork)
thread.start()
print(outcome(Actor.remote().echo.remote("started")))
thread.join()
os.close(write)
print([os.waitpid(child, 0)[1] for child in children])
"""
    assert said(program, tmp_path) == "started\n[0]\n"


@pytest.mark.parametrize("before", ["nothing", "dagc.shutdown()"])
def test_a_fork_of_a_process_that_had_an_engine_starts_none(tmp_path: Path, before: str) -> None:
    """gRPC's threads are not in it, and it aborts where it misses them."""
    program = f"""
nothing = None
dagc.init(num_cpus=2)
print(outcome(Actor.remote().echo.remote("parent")), flush=True)
{before}
child = os.fork()
if child == 0:
    dagc.shutdown()  # of the copy that it has: the parent's goes on
    try:
        dagc.init(num_cpus=2)
    except dagc.EngineError as error:
        print(error, flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
{"print(outcome(Actor.remote().echo.remote('again')))" if before == "nothing" else ""}
"""
    parent, refused, status, *again = said(program, tmp_path).splitlines()
    assert (parent, status) == ("parent", "0")
    assert "forked" in refused
    assert "spawn" in refused
    assert again == (["again"] if before == "nothing" else [])


def test_a_fork_of_a_process_that_never_had_an_engine_is_a_driver(tmp_path: Path) -> None:
    program = """
def drive(name):
    dagc.init(num_cpus=2)
    print(outcome(Actor.remote().echo.remote(name)), flush=True)
    dagc.shutdown()

child = os.fork()
if child == 0:
    drive("child")
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
drive("parent")
"""
    assert said(program, tmp_path) == "child\n0\nparent\n"


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_an_actor_starts_processes_by_multiprocessing(tmp_path: Path, way: str) -> None:
    """Which imports the main script once more there: not the one that makes an actor of a process."""
    program = f"""
import multiprocessing

@dagc.remote
class Parent:
    def start(self):
        child = multiprocessing.get_context("{way}").Process(target=print, args=("child",))
        child.start()
        child.join(HANG)
        return child.exitcode

if __name__ == "__main__":
    print(outcome(Parent.remote().start.remote()))
"""
    assert said(program, tmp_path) == "child\n0\n"
