"""Handle: a communicator of NCCL is given back once, whenever it is given up."""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from channels.communicators.nccl.cuda import IN_PROGRESS
from channels.communicators.nccl.handle import Handle

HANG = 30


class Communicator:
    """As CuPy's class. `init` is what ncclCommInitRank does, `poll` what ncclCommGetAsyncError does."""

    made: ClassVar[list[str]] = []
    init: ClassVar[Callable[[], None]]
    poll: ClassVar[Callable[[], None]]

    def __init__(self, *_arguments: Any) -> None:
        self.made.append("init")
        type(self).init()

    def check_async_error(self) -> None:
        type(self).poll()

    def abort(self) -> None:
        self.made.append("abort")

    def destroy(self) -> None:
        self.made.append("destroy")


@pytest.fixture(autouse=True)
def calls() -> list[str]:
    """The calls that were made of every communicator, in order."""
    Communicator.made.clear()
    Communicator.init = staticmethod(nothing)
    Communicator.poll = staticmethod(nothing)
    return Communicator.made


def nothing() -> None: ...


def in_progress() -> None:
    raise KeyError(IN_PROGRESS)  # as CuPy says it


class Made:
    """A handle, and the references to its communicator."""

    def __init__(self) -> None:
        self.handle = Handle(SimpleNamespace(NcclCommunicator=Communicator), 2, b"", 0)
        # So that one that is given back twice is not freed under those who look at it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.handle._comm))
        self._before = sys.getrefcount(self.handle._comm)

    @property
    def given_back(self) -> int:
        """How many references: it holds one to itself until it has ended."""
        return self._before - sys.getrefcount(self.handle._comm)

    def connecting(self, given_up: Callable[[], bool]) -> tuple[threading.Thread, list[str]]:
        """In a thread, as whoever joins has it, and what it raises there."""
        raised: list[str] = []

        def connect() -> None:
            try:
                self.handle.connect(given_up)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                raised.append(str(error))

        thread = threading.Thread(target=connect)
        thread.start()
        return thread, raised


def ended(thread: threading.Thread) -> bool:
    thread.join(HANG)
    return not thread.is_alive()


def test_it_is_freed_once_it_has_ended() -> None:
    handle = Handle(SimpleNamespace(NcclCommunicator=Communicator), 2, b"", 0)
    alive = weakref.ref(handle._comm)
    handle.connect(lambda: False)
    handle.abort()
    del handle
    assert alive() is None


@pytest.mark.parametrize("end", ["abort", "destroy"])
def test_it_is_given_back_by_its_end(calls: list[str], end: str) -> None:
    made = Made()
    made.handle.connect(lambda: False)
    assert made.given_back == 0
    getattr(made.handle, end)()
    assert (calls, made.given_back, made.handle.stuck) == (["init", end], 1, False)
    made.handle.abort()
    made.handle.destroy()
    assert (calls, made.given_back) == (["init", end], 1), "the second end does nothing"


def test_given_up_before_it_began_it_meets_nobody(calls: list[str]) -> None:
    made = Made()
    made.handle.abort()
    made.handle.connect(lambda: True)
    assert calls.count("abort") == 1
    assert "init" not in calls, "of a communicator that was aborted"
    assert (made.given_back, made.handle.stuck) == (1, False)


@pytest.mark.parametrize("outcome", ["the others came", "it failed"])
def test_given_up_in_a_call_that_blocks_it_is_left_to_that(calls: list[str], outcome: str) -> None:
    """Aborting beside ncclCommInitRank would free what that uses."""
    begun, others = threading.Event(), threading.Event()

    def init() -> None:
        begun.set()
        assert others.wait(HANG)
        if outcome == "it failed":
            raise RuntimeError("remote process exited")

    Communicator.init = staticmethod(init)
    made = Made()
    thread, raised = made.connecting(lambda: True)
    assert begun.wait(HANG)
    made.handle.abort()
    assert (calls, made.handle.stuck) == (["init"], True)
    others.set()
    assert ended(thread)
    assert (calls, made.given_back, made.handle.stuck) == (["init", "abort"], 1, False)
    assert raised == (["remote process exited"] if outcome == "it failed" else [])


def test_given_up_while_it_is_in_progress_it_is_aborted_once(calls: list[str]) -> None:
    """A communicator that does not block may be aborted at once, and whoever made it has nothing left to end."""
    polled, given_up = threading.Event(), threading.Event()

    def poll() -> None:
        polled.set()
        in_progress()

    Communicator.init = staticmethod(in_progress)
    Communicator.poll = staticmethod(poll)
    made = Made()
    thread, raised = made.connecting(given_up.is_set)
    assert polled.wait(HANG)
    made.handle.abort()
    assert calls == ["init", "abort"]
    given_up.set()
    assert ended(thread)
    assert (calls, made.given_back, made.handle.stuck) == (["init", "abort"], 1, False)
    assert raised == []


def test_given_up_before_it_is_known_that_it_does_not_block(calls: list[str]) -> None:
    begun, aborted = threading.Event(), threading.Event()

    def init() -> None:
        begun.set()
        assert aborted.wait(HANG)
        in_progress()

    def poll() -> None:
        assert calls == ["init"], "of a communicator that was aborted"
        in_progress()

    Communicator.init = staticmethod(init)
    Communicator.poll = staticmethod(poll)
    made = Made()
    thread, raised = made.connecting(lambda: True)
    assert begun.wait(HANG)
    made.handle.abort()
    aborted.set()
    assert ended(thread)
    assert (calls, made.given_back, made.handle.stuck) == (["init", "abort"], 1, False)
    assert raised == []


def test_several_threads_that_end_it_end_it_once(calls: list[str]) -> None:
    made = Made()
    made.handle.connect(lambda: False)
    together = threading.Barrier(4)

    def end() -> None:
        together.wait(HANG)
        made.handle.abort()

    threads = [threading.Thread(target=end) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    assert all(map(ended, threads))
    assert (calls, made.given_back) == (["init", "abort"], 1)
