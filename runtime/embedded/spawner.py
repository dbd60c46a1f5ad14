"""The thread that starts worker processes, and hears of their end.

One permanent thread does both: a worker dies with the *thread* that spawned it (PDEATHSIG), and who spawns may reap.
It waits in epoll for pidfds; where the kernel or a sandbox has none (ENOSYS, EPERM), a thread waits for each child.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import preload
from runtime.embedded import marker

if TYPE_CHECKING:
    from runtime.ids import ActorId

__all__ = ["Spawner", "exit_reason"]

_BOOT = str(Path(__file__).with_name("boot.py"))
_WATCHER_STACK_EVENTS = 64

#: Held while a worker is started. A child that another thread forks meanwhile has the ends of its pipes, too: the
#: worker would wait for the end of its input for as long as that child lives, and subprocess for the worker's exec.
_starting = threading.RLock()
os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)


@dataclass
class _Child:
    actor: ActorId
    process: subprocess.Popen[bytes]
    marker: int
    pidfd: int | None


class Spawner:
    """Starts, kills and reaps. `on_spawned(actor, pid)` and `on_exited(actor, reason)` are called by its threads.

    on_exited is called exactly once for each `spawn`, also if the process could not be started.
    """

    def __init__(
        self, folder: str, on_spawned: Callable[[ActorId, int], None], on_exited: Callable[[ActorId, str], None]
    ) -> None:
        self._folder = folder
        self._on_spawned = on_spawned
        self._on_exited = on_exited
        self._children: dict[ActorId, _Child] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closing = False
        #: The thread has ended and the pipe is closed: its number may be somebody else's by now. Behind the lock.
        self._closed = False
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._by_pidfd: dict[int, _Child] = {}
        self._thread = threading.Thread(target=self._run, name="dagc-spawner", daemon=True)
        self._thread.start()

    def spawn(self, actor: ActorId, environment: Mapping[str, str]) -> None:
        """Start a worker process. Returns at once."""
        self._post(lambda: self._spawn(actor, environment))

    def kill(self, actor: ActorId) -> None:
        """SIGKILL it, if it lives. Returns at once."""
        self._post(lambda: self._kill(actor))

    def close(self) -> None:
        """Kill every worker, wait until they are gone, and end the thread. To be called once.

        `spawn` and `kill` may come later, from whoever hears only then of a process that is gone: nothing is started.
        """
        self._post(self._close)
        self._thread.join()
        with self._lock:
            self._closed = True
            self._epoll.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
        self._work()

    def _post(self, job: Callable[[], None]) -> None:
        with self._lock:
            if not self._closed:
                self._jobs.put(job)
                # A pipe full of wake-ups wakes.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"\0")
                return
        job()  # no worker is left: it starts none and finds none

    def _work(self) -> None:
        while not self._jobs.empty():
            self._jobs.get()()

    def _run(self) -> None:
        # Inherited by the workers until boot.py ignores it: Ctrl-C must not hit one that is just starting.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while not (self._closing and not self._children):
            for descriptor, _ in self._epoll.poll(maxevents=_WATCHER_STACK_EVENTS):
                if descriptor == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif descriptor in self._by_pidfd:
                    self._reap(self._by_pidfd[descriptor])
            self._work()

    def _spawn(self, actor: ActorId, environment: Mapping[str, str]) -> None:
        if self._closing:
            self._on_exited(actor, "the engine was shut down")
            return
        page = -1
        # Whatever fails here must not end this thread: the kernel would kill every worker, and nobody would hear of it.
        try:
            page = marker.create()
            # Made before there is a process: abspath fails where the current directory is gone.
            sys_path = [os.path.abspath(p) for p in sys.path]
            launch = json.dumps({"sys_path": sys_path, "marker": page, "preload": preload.modules()}).encode()
            with _starting:
                process = self._start(actor, environment, page, launch)
        except Exception as error:  # noqa: BLE001 - no memory, too many processes or files, a NUL in the environment
            if page >= 0:
                os.close(page)
            self._on_exited(actor, f"its process could not be started: {error}")
            return
        child = _Child(actor, process, page, None)
        self._children[actor] = child
        self._on_spawned(actor, process.pid)
        self._watch(child)

    def _start(
        self, actor: ActorId, environment: Mapping[str, str], page: int, launch: bytes
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *_interpreter_flags(), _BOOT, self._folder, actor, str(os.getpid())],
            stdin=subprocess.PIPE,
            env=dict(environment),
            pass_fds=(page,),
        )
        assert process.stdin is not None
        # Broken: it is dead already; the reaper tells why.
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(launch)
        return process

    def _watch(self, child: _Child) -> None:
        try:
            child.pidfd = os.pidfd_open(child.process.pid)
        except OSError:  # there are none, or too many files are open, or somebody else has reaped it

            def wait() -> None:
                child.process.wait()
                self._post(lambda: self._reap(child))

            threading.Thread(target=wait, name=f"dagc-wait-{child.process.pid}", daemon=True).start()
        else:
            self._by_pidfd[child.pidfd] = child
            self._epoll.register(child.pidfd, select.EPOLLIN)

    def _reap(self, child: _Child) -> None:
        code = child.process.wait()
        if child.pidfd is not None:
            self._epoll.unregister(child.pidfd)
            del self._by_pidfd[child.pidfd]
            os.close(child.pidfd)
        executing = marker.read(child.marker)
        os.close(child.marker)
        del self._children[child.actor]
        self._on_exited(child.actor, exit_reason(code, executing))

    def _kill(self, actor: ActorId) -> None:
        child = self._children.get(actor)
        if child is not None:
            child.process.kill()

    def _close(self) -> None:
        self._closing = True
        for child in self._children.values():
            child.process.kill()


def exit_reason(code: int, executing: str) -> str:
    """What became of a process, in words. `code` as subprocess has it: a negative one is a signal."""
    if code >= 0:
        what = f"exited with code {code}"
    else:
        try:
            what = f"killed by {signal.Signals(-code).name}"
        except ValueError:  # real-time signals have numbers only
            what = f"killed by signal {-code}"
    return f"{what} while executing {executing}" if executing else what


def _interpreter_flags() -> list[str]:
    """What a worker is started with: as this interpreter, and unbuffered, so that what an actor prints is not lost."""
    flags = ["-u"]
    flags += ["-O" * sys.flags.optimize] if sys.flags.optimize else []
    flags += ["-X", "faulthandler"] if "faulthandler" in sys._xoptions else []
    flags += ["-X", "dev"] if sys.flags.dev_mode else []
    return [*flags, *(f"-W{option}" for option in sys.warnoptions)]
