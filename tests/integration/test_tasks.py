"""Functions that run in worker processes: which, how many, and what becomes of them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import runtime
from channels.errors import DagcError
from runtime import current
from runtime.errors import ActorDiedError, EngineError, GraphError
from tests.waiting import wait_for_the_end

ROOT = Path(__file__).parents[2]
#: A watchdog: whoever needs this long hangs.
LIMIT = 30.0

#: Cannot be pickled: functions go to their workers by name.
_lock = threading.Lock()


@runtime.remote
def pid(*_: Any) -> int:
    assert not _lock.locked()
    return os.getpid()


@runtime.remote
def on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@runtime.remote
def environment(name: str) -> str | None:
    return os.environ.get(name)


@runtime.remote
def die(number: int) -> None:
    os.kill(os.getpid(), number)
    threading.Event().wait()


@runtime.remote
def leave(code: int) -> None:
    sys.exit(code)


@runtime.remote
def fibonacci(n: int) -> int:
    return n if n < 2 else sum(runtime.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))


@runtime.remote
def with_a_nested_one(meeting: Any) -> tuple[int, int]:
    """The pids of this worker and of the worker of a task of it; then it waits."""
    mine = os.getpid(), runtime.get(pid.remote())
    runtime.get(meeting.tell.remote(mine))
    threading.Event().wait()
    return mine


@runtime.remote
def meet(meeting: Any, count: int) -> int:
    runtime.get(meeting.meet.remote(count))
    return os.getpid()


@runtime.remote
def wait(meeting: Any) -> None:
    runtime.get(meeting.wait.remote())


@runtime.remote(max_concurrency=64)
class Meeting:
    """Where tasks that run at the same time meet."""

    def __init__(self) -> None:
        self.inside = 0
        self.full = asyncio.Event()
        self.told: Any = asyncio.Queue()

    async def meet(self, count: int) -> None:
        self.inside += 1
        if self.inside >= count:
            self.full.set()
        await self.full.wait()

    async def tell(self, what: Any) -> None:
        await self.told.put(what)

    async def hear(self) -> Any:
        return await self.told.get()

    async def wait(self) -> None:
        await asyncio.Event().wait()

    def pids_of_tasks(self, meeting: Any, count: int) -> list[int]:
        return runtime.get([meet.remote(meeting, count) for _ in range(count)])

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def session() -> Iterator[None]:
    runtime.init(num_cpus=2, num_gpus=1)
    yield
    runtime.shutdown()


def _death(ref: Any) -> ActorDiedError:
    with pytest.raises(ActorDiedError) as raised:
        runtime.get(ref, timeout=LIMIT)
    return raised.value


# ---- workers ----


def test_workers_are_kept(session: None) -> None:
    first = runtime.get(pid.remote())
    assert first != os.getpid()
    assert [runtime.get(pid.remote()) for _ in range(5)] == [first] * 5
    assert runtime.get(on_main_thread.remote())


def test_as_many_workers_as_cpus(session: None) -> None:
    meeting = Meeting.remote()
    both = set(runtime.get([meet.remote(meeting, 2), meet.remote(meeting, 2)], timeout=LIMIT))
    assert len(both) == 2
    assert set(runtime.get([pid.remote() for _ in range(30)])) <= both


def test_options_have_workers_of_their_own(session: None) -> None:
    plain = runtime.get(pid.remote())
    assert runtime.get(environment.options(runtime_env={"env_vars": {"OF_TASK": "1"}}).remote("OF_TASK")) == "1"
    assert runtime.get(environment.remote("OF_TASK")) is None
    assert runtime.get(pid.options(name="another", num_cpus=1).remote()) == plain, "these are the same options"
    assert runtime.get(pid.options(num_cpus=2).remote()) != plain


def test_gpus(session: None) -> None:
    on_gpu = environment.options(num_gpus=1)
    assert runtime.get([on_gpu.remote("CUDA_VISIBLE_DEVICES") for _ in range(3)]) == ["0"] * 3
    holder = Meeting.options(num_gpus=1).remote()  # the GPU is free once the results are there
    with pytest.raises(GraphError, match=r"the function environment cannot run: .* 1 GPUs of which 0 are free"):
        runtime.get(on_gpu.remote("CUDA_VISIBLE_DEVICES"), timeout=LIMIT)
    runtime.kill(holder)
    _death(holder.pid.remote())
    assert runtime.get(on_gpu.remote("CUDA_VISIBLE_DEVICES")) == "0"


def test_main_module_travels_by_value(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import runtime\n"
        "@runtime.remote\n"
        "def even(n): return True if n == 0 else runtime.get(odd.remote(n - 1))\n"
        "@runtime.remote\n"
        "def odd(n): return False if n == 0 else runtime.get(even.remote(n - 1))\n"
        "if __name__ == '__main__':\n"
        "    print(runtime.get([even.remote(3), odd.remote(3)]))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("[False, True]\n", "", 0)


# ---- nested ----


def test_nested_tasks(session: None) -> None:
    assert runtime.get(fibonacci.remote(4), timeout=LIMIT) == 3


def test_workers_of_tasks_are_bounded(session: None) -> None:
    """However deep tasks are nested: each process has one worker, and the session's CPUs are shared by the others."""
    runtime.get([fibonacci.remote(4) for _ in range(4)], timeout=LIMIT)
    assert len(psutil.Process().children()) <= 1 + 2 * 4  # one for each process that submits, and one more


def test_idle_workers_are_given_up(session: None) -> None:
    """The driver's tasks have had all CPUs; then an actor's tasks need them."""
    first, second = Meeting.remote(), Meeting.remote()
    mine = runtime.get([meet.remote(first, 2) for _ in range(2)], timeout=LIMIT)
    theirs = runtime.get(first.pids_of_tasks.remote(second, 2), timeout=LIMIT)
    assert len(set(theirs)) == 2
    assert not set(mine) & set(theirs)
    assert runtime.get(pid.remote()) in mine, "but for the first"


@pytest.mark.parametrize("how", ["death", "kill"])
def test_workers_end_with_whoever_submitted(session: None, how: str) -> None:
    meeting = Meeting.remote()
    ref = with_a_nested_one.remote(meeting)
    worker, nested = runtime.get(meeting.hear.remote(), timeout=LIMIT)
    assert len({worker, nested, os.getpid()}) == 3
    if how == "death":
        os.kill(worker, signal.SIGKILL)
        assert _death(ref).pid == worker
        wait_for_the_end([nested])
        return
    other = Meeting.remote()
    theirs = runtime.get(other.pids_of_tasks.remote(meeting, 1), timeout=LIMIT)
    runtime.kill(other)
    wait_for_the_end(theirs)
    assert psutil.pid_exists(nested)


# ---- deaths ----


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_worker_that_dies_takes_one_task_along(session: None, number: signal.Signals) -> None:
    before, dying, after = pid.remote(), die.remote(number), [pid.remote() for _ in range(10)]
    death = _death(dying)
    assert death.reason == f"killed by {number.name} while executing call; it had the function die to run"
    assert death.actor.startswith("FunctionWorker(")
    assert death.pid not in runtime.get(after, timeout=LIMIT)
    assert runtime.get(before) != os.getpid()


def test_exit(session: None) -> None:
    death = _death(leave.options(name="the leaver").remote(4))
    assert death.reason == "exited with code 4 while executing call; it had the function the leaver to run"
    assert runtime.get(pid.remote()) != death.pid


def test_idle_worker_that_dies_is_replaced(session: None) -> None:
    first = runtime.get(pid.remote())
    noticed = threading.Event()
    engine: Any = current.engine()
    (worker,) = engine._tasks._workers.values()
    watch = engine.watch([worker.handle], lambda *_: noticed.set())  # told after the pool, whose watch is older
    os.kill(first, signal.SIGKILL)
    assert noticed.wait(LIMIT)
    watch.cancel()
    assert runtime.get(pid.remote()) != first


def test_process_that_cannot_be_started(session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(DagcError, match=r"its process could not be started: .*Cannot allocate memory"):
            runtime.get(pid.remote(), timeout=LIMIT)
    assert runtime.get(pid.remote(), timeout=LIMIT) != os.getpid()


def test_shutdown_ends_workers_and_fails_what_waits() -> None:
    runtime.init(num_cpus=1)
    meeting = Meeting.remote()
    workers = runtime.get([meet.remote(meeting, 2) for _ in range(2)], timeout=LIMIT)
    blocked = meeting.wait.remote()
    refs = [pid.remote(blocked), *(wait.remote(meeting) for _ in range(5))]
    runtime.shutdown()
    for ref in refs:
        with pytest.raises((ActorDiedError, EngineError)):
            runtime.get(ref, timeout=LIMIT)
    assert not any(map(psutil.pid_exists, workers))


def test_task_at_the_end_of_the_script(tmp_path: Path) -> None:
    """Nobody waits for it: the process ends quickly and quietly."""
    script = tmp_path / "script.py"
    script.write_text(
        "import threading, runtime\n"
        "hang = runtime.remote(lambda: threading.Event().wait())\n"
        "refs = [hang.remote() for _ in range(5)]\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
