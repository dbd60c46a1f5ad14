"""Where the ranks of a group are while it is checked: processes of their own, or threads of this one.

A party makes one call at a time: `start` it, then ask for its `outcome`. A process is started once and makes call after
call, because starting one takes longer than most checks.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
import subprocess
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import IO, Any

from channels.base import Failure

__all__ = ["WATCHDOG", "Party", "ProcessParty", "ThreadParty", "serve"]

#: Seconds after which a call that should have ended counts as a hang.
WATCHDOG = 30.0

_LENGTH = struct.Struct("<Q")
_SERVE = "from channels.testing_ranks import serve; serve()"


class Party(ABC):
    """Somewhere to make calls."""

    @abstractmethod
    def start(self, function: Callable[..., Any], *args: Any) -> None:
        """Begin `function(*args)`."""

    @abstractmethod
    def outcome(self) -> Any:
        """What the call returned, or a Failure with what it raised. AssertionError if it hangs."""

    @abstractmethod
    def settle(self) -> None:
        """Wait for the end of a call whose outcome nobody has asked for, if there is one. Also if the party is dead."""

    @abstractmethod
    def close(self) -> None:
        """End the party."""


class ThreadParty(Party):
    """A thread of this process for each call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._outcome: Any = None

    def start(self, function: Callable[..., Any], *args: Any) -> None:
        self._thread = threading.Thread(target=self._call, args=(function, args), daemon=True)
        self._thread.start()

    def outcome(self) -> Any:
        assert self._thread is not None, "nothing was started"
        self._thread.join(WATCHDOG)
        assert not self._thread.is_alive(), "a rank hangs"
        self._thread = None
        return self._outcome

    def settle(self) -> None:
        if self._thread is not None:
            self.outcome()

    def close(self) -> None:
        self.settle()

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._outcome = _outcome(function, args)


class ProcessParty(Party):
    """Another Python process, with the import path of this one. Functions are found there by their names."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )
        self._at_work = False
        self._dead = False

    def start(self, function: Callable[..., Any], *args: Any) -> None:
        assert self.process.stdin is not None, "it was asked for"
        if not self._dead:
            self._at_work = True
            _put(self.process.stdin, pickle.dumps((function, args)))

    def outcome(self) -> Any:
        assert self.process.stdout is not None, "it was asked for"
        assert self._at_work, f"the rank in process {self.process.pid} was killed, or nothing was started"
        self._at_work = False
        ready, _, _ = select.select([self.process.stdout], [], [], WATCHDOG)
        assert ready, f"the rank in process {self.process.pid} hangs"
        answer = _get(self.process.stdout)
        self._dead = answer is None
        assert answer is not None, f"the process {self.process.pid} of a rank has ended"
        return pickle.loads(answer)

    def settle(self) -> None:
        if self._at_work:
            self.outcome()

    def kill(self) -> None:
        """Returns when it is dead. It is left a zombie, as it would be in a busy parent."""
        self._dead, self._at_work = True, False
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def serve() -> None:
    """What the process of a ProcessParty runs. Its output goes to stderr, so that nobody prints into the answers."""
    questions, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    while (question := _get(questions)) is not None:
        _put(answers, _pickled(_outcome(_unpickle_and_call, (question,))))


def _unpickle_and_call(question: bytes) -> Any:
    function, args = pickle.loads(question)
    return function(*args)


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the outcome
        return Failure(error, traceback.format_exc())


def _pickled(outcome: Any) -> bytes:
    try:
        return pickle.dumps(outcome)
    except Exception as error:  # noqa: BLE001 - handed to whoever asks for the outcome
        return pickle.dumps(Failure(TypeError(f"the outcome {outcome!r} cannot be pickled: {error}")))


def _put(stream: IO[bytes], data: bytes) -> None:
    for piece in (_LENGTH.pack(len(data)), data):
        left = memoryview(piece)
        while left:
            left = left[stream.write(left) :]


def _get(stream: IO[bytes]) -> bytes | None:
    """None at the end of the stream."""
    length = _read(stream, _LENGTH.size)
    return None if length is None else _read(stream, *_LENGTH.unpack(length))


def _read(stream: IO[bytes], length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        piece = stream.read(length - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
