"""The embedded engine: processes that die in every way, nested actors, and what it leaves on the machine."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

import runtime
from runtime import current
from runtime.embedded import control_pb2 as pb
from runtime.embedded import rpc
from runtime.embedded.environment import visible_gpus, worker_environment
from runtime.embedded.folder import SessionFolder, base_folder, sweep
from runtime.embedded.spawner import Spawner, exit_reason
from runtime.engine import ActorContext, ActorOptions
from runtime.errors import ActorDiedError, EngineError, GraphError
from runtime.ids import ActorId
from tests.waiting import wait_for_the_end

ROOT = Path(__file__).parents[2]
#: A watchdog: whoever needs this long hangs.
LIMIT = 30.0


class Worker:
    def __init__(self, fail: str = "") -> None:
        if fail:
            raise LookupError(fail)
        self.seen: list[Any] = []

    def pid(self) -> int:
        return os.getpid()

    def echo(self, value: Any) -> Any:
        return value

    def keep(self, value: Any) -> list[Any]:
        self.seen.append(value)
        return self.seen

    def on_main_thread(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def surroundings(self) -> tuple[str, list[str], bool, str]:
        return os.getcwd(), sys.path, "torch" in sys.modules, sys.stdin.read()

    def exit(self, code: int) -> None:
        os._exit(code)

    def kill_self(self, number: int) -> None:
        os.kill(os.getpid(), number)
        time.sleep(LIMIT)

    def fork_and_die(self) -> None:
        if os.fork() == 0:
            time.sleep(1)  # it holds the actor's sockets open meanwhile
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self) -> None:
        threading.Event().wait()

    def interrupt_self(self) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "still here"

    async def sleeper(self, event_count: int) -> int:
        await asyncio.sleep(0)
        return event_count

    def shut_down(self) -> None:
        runtime.shutdown()

    def make(self) -> Any:
        child = Remote.remote()
        return child, runtime.get(child.pid.remote())

    def call_other(self, other: Any, value: Any) -> Any:
        return runtime.get(other.echo.remote(value))

    def drive(self, other: Any) -> tuple[str, str]:
        """What a compiled graph needs, from inside an actor."""
        engine = current.engine()
        heard: list[str] = []
        died = threading.Event()

        def on_death(_: ActorId, death: ActorDiedError) -> None:
            heard.append(death.reason)
            died.set()

        watch = engine.watch([other], on_death)
        (info,) = engine.describe([other])
        loop = engine.start_loop(other, loop_forever)
        loop.ready.result(LIMIT)
        runtime.kill(other)
        error = loop.done.exception(LIMIT)
        died.wait(LIMIT)
        watch.cancel()
        return heard[0], f"{type(error).__name__} {info.label}"


def loop_forever(_: ActorContext) -> Iterator[None]:
    yield None
    threading.Event().wait()


def executing(context: ActorContext) -> list[str]:
    return context.instance.seen


Remote = runtime.remote(Worker)

#: Cannot be pickled: a class that were sent with what it uses of its module could not start.
_lock = threading.Lock()


@runtime.remote
class Decorated:
    def locked(self) -> bool:
        return _lock.locked()

    def another(self) -> bool:
        handle = Decorated.options(num_cpus=0).remote()
        found: bool = runtime.get(handle.locked.remote())
        runtime.kill(handle)
        return found


@pytest.fixture(scope="module")
def _engine() -> Iterator[None]:
    runtime.init(num_gpus=2, resources={"disk": 1})
    yield
    runtime.shutdown()


@pytest.fixture(scope="module")
def shared(_engine: None) -> Any:
    """An actor that no test kills."""
    return Remote.remote()


@pytest.fixture
def fresh(_engine: None) -> Iterator[Any]:
    handle = Remote.remote()
    yield handle
    runtime.kill(handle)


def _death(ref: Any) -> ActorDiedError:
    with pytest.raises(ActorDiedError) as raised:
        runtime.get(ref, timeout=LIMIT)
    return raised.value


# ---- an actor's process ----


def test_process(shared: Any) -> None:
    pid = runtime.get(shared.pid.remote())
    assert pid != os.getpid()
    (info,) = current.engine().describe([shared])
    assert info.pid == pid
    assert runtime.get(shared.on_main_thread.remote())


def test_surroundings(shared: Any) -> None:
    cwd, path, has_torch, stdin = runtime.get(shared.surroundings.remote())
    assert cwd == os.getcwd()
    assert path == [os.path.abspath(p) for p in sys.path]
    assert not has_torch
    assert stdin == ""


@pytest.mark.usefixtures("_engine")
def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_DRIVER", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = Remote.options(num_cpus=2, num_gpus=2, runtime_env={"env_vars": {"OF_ACTOR": "2"}}).remote()
    names = ["OF_DRIVER", "OF_ACTOR", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"]
    assert runtime.get([made.environment.remote(name) for name in names]) == ["1", "2", "2", "0,1"]
    assert current.engine().describe([made])[0].gpus == (0, 1)
    with pytest.raises(GraphError, match="2 GPUs of which 0 are free"):
        Remote.options(num_gpus=1).remote()
    runtime.kill(made)
    _death(made.pid.remote())
    again = Remote.options(num_gpus=1).remote()
    runtime.kill(again)


def test_worker_environment() -> None:
    options = ActorOptions(num_cpus=0.5, runtime_env={"env_vars": {"CUDA_VISIBLE_DEVICES": "7"}})
    assert worker_environment({"OMP_NUM_THREADS": "9"}, options, ()) == {
        "OMP_NUM_THREADS": "9",
        "CUDA_VISIBLE_DEVICES": "7",
    }
    assert worker_environment({}, ActorOptions(num_cpus=0), ()) == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_visible_gpus() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3,5"}) == (3, 5)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3,5"}, 1) == (3,)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}, 3) == (1, 0, 2)


def test_sigint_does_not_end_an_actor(shared: Any) -> None:
    assert runtime.get(shared.interrupt_self.remote()) == "still here"


def test_large_values(shared: Any) -> None:
    array = np.arange(3_000_000)
    assert np.array_equal(runtime.get(shared.echo.remote(array)), array)


def test_main_module_travels_by_value(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import runtime\n"
        "@runtime.remote\n"
        "class Here:\n"
        "    def twice(self, x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    print(runtime.get(Here.remote().twice.remote(21)))\n"
    )
    done = _python(str(script))
    assert (done.stdout, done.stderr, done.returncode) == ("42\n", "", 0)


@pytest.mark.usefixtures("_engine")
def test_decorated_class_travels_by_name() -> None:
    with _lock:
        handle = Decorated.remote()
        assert runtime.get([handle.locked.remote(), handle.another.remote()]) == [False, False]
    assert pickle.loads(pickle.dumps(Decorated)) is Decorated
    runtime.kill(handle)


# ---- order ----


def test_order_with_pending_refs(shared: Any, fresh: Any) -> None:
    first = fresh.keep.remote(shared.echo.remote("a"))
    refs = [first, *(fresh.keep.remote(i) for i in range(20))]
    assert runtime.get(refs[-1]) == ["a", *range(20)]


def test_call_overtakes_methods(fresh: Any) -> None:
    hanging = fresh.hang.remote()
    assert current.engine().call(fresh, executing).result(LIMIT) == []
    runtime.kill(fresh)
    assert _death(hanging).reason == "killed by dagc.kill"


# ---- nested ----


def test_actors_make_actors(shared: Any) -> None:
    child, pid = runtime.get(shared.make.remote())
    assert runtime.get(child.pid.remote()) == pid
    assert runtime.get(shared.call_other.remote(child, "through")) == "through"
    runtime.kill(child)


def test_actors_drive(shared: Any, fresh: Any) -> None:
    reason, error = runtime.get(shared.drive.remote(fresh))
    assert reason == "killed by dagc.kill"
    assert error == f"ActorDiedError {fresh!r}"


def test_actor_cannot_end_the_session(shared: Any) -> None:
    with pytest.raises(EngineError, match="cannot end its session"):
        runtime.get(shared.shut_down.remote())
    assert runtime.get(shared.echo.remote(1)) == 1


def test_caller_that_dies_is_forgotten(shared: Any, fresh: Any) -> None:
    runtime.get(fresh.call_other.remote(shared, 1))
    runtime.kill(fresh)
    _death(fresh.pid.remote())
    assert runtime.get(shared.echo.remote(2)) == 2


# ---- deaths ----


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_death_by_signal(fresh: Any, number: signal.Signals) -> None:
    pid = runtime.get(fresh.pid.remote())
    queued = [fresh.kill_self.remote(number), fresh.echo.remote(1)]
    for ref in [*queued, fresh.echo.remote(2)]:
        death = _death(ref)
        assert death.reason == f"killed by {number.name} while executing kill_self"
        assert (death.actor, death.pid) == (repr(fresh), pid)


def test_death_from_outside(fresh: Any) -> None:
    os.kill(runtime.get(fresh.pid.remote()), signal.SIGKILL)
    assert _death(fresh.hang.remote()).reason.startswith("killed by SIGKILL")


def test_death_by_exit_code(fresh: Any) -> None:
    assert _death(fresh.exit.remote(3)).reason == "exited with code 3 while executing exit"


def test_death_while_a_child_holds_the_sockets(fresh: Any) -> None:
    assert "SIGKILL" in _death(fresh.fork_and_die.remote()).reason


@pytest.mark.usefixtures("_engine")
def test_constructor_failure() -> None:
    handle = Remote.remote("no weights")
    death = _death(handle.pid.remote())
    assert death.reason == "its constructor raised: LookupError: no weights"
    assert isinstance(death.__cause__, LookupError)
    assert "in __init__" in str(death.__cause__.__cause__)
    (info,) = current.engine().describe([handle])
    assert info.death is not None


def test_exit_reasons() -> None:
    assert exit_reason(0, "") == "exited with code 0"
    assert exit_reason(-11, "forward") == "killed by SIGSEGV while executing forward"
    assert exit_reason(-40, "") == "killed by signal 40"


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_without_pidfds(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(_: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    _in_a_session_of_its_own(_dies_and_is_reported)


def _dies_and_is_reported() -> None:
    handle = Remote.remote()
    assert _death(handle.exit.remote(5)).reason == "exited with code 5 while executing exit"
    other = Remote.remote()
    runtime.kill(other)
    assert _death(other.pid.remote()).reason == "killed by dagc.kill"


def _in_a_session_of_its_own(check: Callable[[], None]) -> None:
    """Beside the module's session, which is set aside meanwhile."""
    aside = current.started()
    assert aside is not None
    current.clear(aside)
    try:
        runtime.init()
        check()
    finally:
        runtime.shutdown()
        if aside is not None:
            current.install(lambda: aside)


def test_process_that_cannot_start() -> None:
    folder = SessionFolder.create()
    reasons: list[str] = []
    spawner = Spawner(folder.path, lambda _actor, _pid: None, lambda _actor, reason: reasons.append(reason))
    spawner.spawn(ActorId("a"), {"A": "\0"})
    spawner.close()
    folder.remove()
    assert len(reasons) == 1
    assert reasons[0].startswith("its process could not be started: ")


def test_news_that_comes_after_the_end_of_the_spawner_touches_nothing() -> None:
    """The links of killed workers break one after the other: some of it is heard when the workers are gone."""
    folder = SessionFolder.create()
    reasons: list[str] = []
    spawner = Spawner(folder.path, lambda _actor, _pid: None, lambda _actor, reason: reasons.append(reason))
    spawner.close()
    ends = [os.pipe2(os.O_NONBLOCK) for _ in range(4)]  # they take the numbers of what was closed
    spawner.kill(ActorId("a"))
    spawner.spawn(ActorId("b"), {})
    for read, write in ends:
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
        os.close(read)
        os.close(write)
    folder.remove()
    assert reasons == ["the engine was shut down"]


# ---- the session ----


@pytest.mark.usefixtures("_engine")
def test_folder_is_private() -> None:
    folder = _folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert len((folder / "token").read_bytes()) == 32


def test_token_is_nowhere_to_be_seen(shared: Any) -> None:
    token = (_folder() / "token").read_bytes()
    process = psutil.Process(runtime.get(shared.pid.remote()))
    for seen in (" ".join(process.cmdline()), str(process.environ())):
        assert token.hex() not in seen
        assert repr(token) not in seen


@pytest.mark.parametrize("token", [None, b"", b"x" * 32])
@pytest.mark.parametrize("method", [rpc.LINK, rpc.CALLS], ids=["head", "worker"])
def test_token_is_asked_for(shared: Any, token: bytes | None, method: Any) -> None:
    runtime.get(shared.pid.remote())
    path, request, reply = method
    address = _folder() / ("head" if method is rpc.LINK else shared._actor_id)
    metadata = None if token is None else (("dagc-token-bin", token),)
    first = pb.ToHead(hello=pb.Hello()) if method is rpc.LINK else pb.CallRequest(method="pid")
    with grpc.insecure_channel(f"unix:{address}") as channel:
        call = channel.stream_stream(path, request.SerializeToString, reply.FromString)
        with pytest.raises(grpc.RpcError) as raised:
            list(call(iter([first]), metadata=metadata, timeout=LIMIT))
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_no_listener_on_the_network(shared: Any) -> None:
    for pid in (os.getpid(), runtime.get(shared.pid.remote())):
        assert psutil.Process(pid).net_connections("inet") == []


def test_handle_of_another_session(shared: Any) -> None:
    def check() -> None:
        runtime.kill(Remote.remote())
        with pytest.raises(GraphError, match="is of another session"):
            shared.pid.remote()

    _in_a_session_of_its_own(check)


def test_stale_folders_are_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(base_folder()) / "swept"  # pytest's own temporary folders have paths too long for sockets
    base.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    (base / "dagc-not-ours").mkdir()
    living = SessionFolder.create()
    script = (
        "import os, signal, runtime\n"
        "runtime.init()\n"
        "print(runtime.current.engine()._folder.path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    dead = Path(_python("-c", script).stdout.strip())
    assert dead.is_dir()
    assert sweep(str(base)) == [str(dead)]
    assert not dead.exists()
    assert Path(living.path).is_dir()
    assert sweep(str(base)) == []
    living.remove()
    living.remove()


def test_base_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert base_folder() != str(tmp_path / "missing")
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert base_folder() != str(deep), "a socket's path has 107 bytes"


def test_init_twice_and_shutdown_twice() -> None:
    def check() -> None:
        with pytest.raises(EngineError, match=r"call dagc.shutdown\(\) before init"):
            runtime.init()
        handle = Remote.remote()
        hanging = handle.hang.remote()
        runtime.shutdown()
        with pytest.raises((ActorDiedError, EngineError)):
            runtime.get(hanging, timeout=LIMIT)
        runtime.shutdown()

    _in_a_session_of_its_own(check)


def test_driver_that_is_killed_takes_its_workers_along() -> None:
    script = (
        "import os, signal, runtime\n"
        "from tests.integration.test_embedded import Remote\n"
        "a = Remote.remote()\n"
        "child, pid = runtime.get(a.make.remote())\n"
        "b = Remote.remote(); b.hang.remote()\n"
        "print(runtime.get(a.pid.remote()), pid, runtime.current.engine().describe([b])[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = _python("-c", script)
    assert done.returncode == -signal.SIGKILL, done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(set(workers)) == 3
    wait_for_the_end(workers)
    sweep(base_folder())


def test_ctrl_c_interrupts_get() -> None:
    script = (
        "import runtime\n"
        "from tests.integration.test_embedded import Remote\n"
        "a = Remote.remote(); runtime.get(a.pid.remote())\n"
        "try:\n"
        "    print('waiting', flush=True)\n"
        "    runtime.get(a.hang.remote())\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', runtime.get(Remote.remote().echo.remote(1)))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        out, err = process.communicate(timeout=LIMIT)
    assert (out, err, process.returncode) == ("interrupted 1\n", "", 0)


def test_fork_does_not_share_the_engine(shared: Any) -> None:
    runtime.get(shared.pid.remote())
    script = (
        "import os, sys, runtime\n"
        "from tests.integration.test_embedded import Remote\n"
        "a = Remote.remote(); runtime.get(a.pid.remote())\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        a.pid.remote()\n"
        "    except runtime.errors.EngineError as error:\n"
        "        print(error, file=sys.stderr, flush=True)\n"
        "    runtime.shutdown()\n"
        "    os._exit(0)\n"
        "_, status = os.wait()\n"
        "print(runtime.get(a.echo.remote('alive')), os.WIFSIGNALED(status))\n"
    )
    done = _python("-W", "ignore", "-c", script)
    # gRPC's threads do not always survive a fork: then the child dies by a signal at any point, even in the middle of
    # its line. What matters is that the parent's actor is untouched, and that a child which lives is told.
    assert done.stdout in ("alive True\n", "alive False\n")
    if done.stdout == "alive False\n":
        assert "was forked" in done.stderr
    assert done.returncode == 0


def test_exit_is_quick_and_quiet() -> None:
    script = (
        "import runtime\n"
        "from tests.integration.test_embedded import Remote\n"
        "actors = [Remote.remote() for _ in range(3)]\n"
        "runtime.get([a.pid.remote() for a in actors])\n"
        "actors[0].hang.remote()\n"
    )
    done = _python("-c", script)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def _folder() -> Path:
    engine: Any = current.engine()
    return Path(engine._folder.path)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
