"""No test leaves anything behind: processes, threads, file descriptors, shared memory, session folders.

An engine that a module-scoped fixture keeps running may have its own processes, threads (named dagc-..., and gRPC's
poller) and descriptors meanwhile; the module's last test is followed by its shutdown, and the next module's first test
would find what that left.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

import dagc
from channels import empty, wake_fd
from runtime import current
from runtime.embedded.folder import PREFIX, base_folder

# Whoever was started in the background of a script ignores Ctrl-C, and so would all that it starts; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A process makes its arena and its wake pipe once, and keeps them; whichever test came first would be told.
empty(1)
wake_fd()

#: Nothing of ours has a name in /dev/shm; these are what Python's and torch's own shared memory would be called. Others
#: may belong to another program of the machine.
_SHM_PREFIXES = ("dagc", "psm_", "sem.mp-", "torch_", "pymp-")
#: How long what is ending may take to end; nothing waits for this where nothing leaks.
_GRACE_S = 30.0


@dataclass(frozen=True)
class _Belongings:
    """What this process has at one moment."""

    children: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[str, str]]
    shared_memory: frozenset[str]
    folders: frozenset[str]

    @classmethod
    def now(cls) -> _Belongings:
        return cls(
            frozenset(child.pid for child in psutil.Process().children(recursive=True)),
            frozenset(threading.enumerate()),
            frozenset(_descriptors()),
            frozenset(name for name in os.listdir("/dev/shm") if name.startswith(_SHM_PREFIXES)),
            frozenset(name for name in os.listdir(base_folder()) if name.startswith((PREFIX, f".{PREFIX}"))),
        )

    def since(self, before: _Belongings, *, engine: bool) -> list[str]:
        """What is new, in words; without what a running engine may have."""
        found = [f"/dev/shm/{name}" for name in self.shared_memory - before.shared_memory]
        found += [f"session folder {name}" for name in self.folders - before.folders]
        threads = self.threads - before.threads
        if engine:
            return found + [f"thread {t.name}" for t in threads if not _is_of_engine(t)]
        found += [f"child process {pid}" for pid in self.children - before.children]
        found += [f"thread {t.name}" for t in threads]
        return found + [f"fd {number} -> {target}" for number, target in self.descriptors - before.descriptors]


def _is_of_engine(thread: threading.Thread) -> bool:
    return thread.name.startswith("dagc-") or "_poll_wrapper" in thread.name


def _descriptors() -> Iterator[tuple[str, str]]:
    for number in os.listdir("/proc/self/fd"):
        try:
            yield number, os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the listing's own
            continue


@pytest.fixture(scope="session", autouse=True)
def _sessions_in_a_folder_of_their_own() -> Iterator[None]:
    """Other programs of this machine have sessions too. Not tmp_path: its path is too long for sockets."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="test-dagc-") as folder:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _collections_are_quick() -> Iterator[None]:
    """What the imports left, torch's above all, is in the way of every collection: 150 ms, where a test needs many."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def threads() -> Iterator[None]:
    """An engine whose actors are threads of this process."""
    dagc.init(engine="threads")
    yield
    dagc.shutdown()


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    engine = current.started()
    before = _Belongings.now()
    yield
    after = current.started()
    if after is not engine and after is not None:
        after.shutdown()
        current.clear(after)
        pytest.fail(f"the test left {after!r} running")
    deadline = time.monotonic() + _GRACE_S
    while left := _Belongings.now().since(before, engine=engine is not None and after is engine):
        if time.monotonic() > deadline:
            pytest.fail("the test left behind: " + ", ".join(sorted(left)))
        gc.collect()  # gRPC's poller thread ends with its last channel
        time.sleep(0.01)
