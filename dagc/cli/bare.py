"""What a round trip costs without a graph: bare loops around pipes and rings, in child processes. A machine's limit.

A `Helper` is such a child. It is told what to loop over, and does so until the parent closes the first ring.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from channels import Channel, ChannelClosed, ChannelSpec, Reader, Writer, create_channel, open_reader, open_writer

__all__ = ["Helper", "chain", "fan_out", "helpers", "pipe_echo"]

_PR_SET_PDEATHSIG = 1
#: The child finds our packages where this process has found them, installed or not.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from dagc.cli.bare import serve; serve(int(sys.argv[2]))"
)
_END_SECONDS = 10.0


class Helper:
    """A child process, and a pipe to it."""

    def __init__(self) -> None:
        self.pipe, other = Pipe()
        path = json.dumps([os.path.abspath(folder) for folder in sys.path])
        command = [sys.executable, "-c", _BOOT, path, str(other.fileno())]
        # Ctrl-C in a terminal reaches the children, too, and it is this process that ends them: the mask, which they
        # inherit, holds it off until they ignore it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with other:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(other.fileno(),))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def wait(self) -> None:
        """Until it says that it is ready, or done. Raises OSError if it has ended instead."""
        try:
            self.pipe.recv()
        except EOFError:
            code = self._process.wait(_END_SECONDS)
            raise OSError(f"a child process ended with exit code {code}; what it said stands above") from None

    def loop(self, source: ChannelSpec, index: int, sink: ChannelSpec) -> None:
        """From reading end `index` of one ring into another until that is closed; then it is done."""
        self.pipe.send((source, index, sink))
        self.wait()

    def close(self) -> None:
        """End it, at once: it has nothing to clean up."""
        self._process.kill()
        self._process.wait()
        self.pipe.close()


@contextmanager
def helpers(count: int) -> Iterator[list[Helper]]:
    """So many children, ready."""
    with ExitStack() as ends:
        made = []
        for _ in range(count):
            made.append(Helper())
            ends.callback(made[-1].close)
        for helper in made:
            helper.wait()
        yield made


@contextmanager
def pipe_echo(helper: Helper) -> Iterator[Connection]:
    """A pipe of multiprocessing's; the child sends back what it receives."""
    helper.pipe.send(None)
    helper.wait()
    yield helper.pipe
    helper.pipe.send(None)
    helper.wait()


@contextmanager
def chain(through: Sequence[Helper], yield_us: float | None = None) -> Iterator[tuple[Writer, Reader]]:
    """Rings from here through each helper and back. `yield_us`: as in ChannelSpec; 0: every wait sleeps at once."""
    with _rings([1] * (len(through) + 1), yield_us) as rings:
        for helper, (source, sink) in zip(through, pairwise(rings), strict=True):
            helper.loop(source.spec, 0, sink.spec)
        with _ends(rings[0], rings[-1:], through) as (writer, (reader,)):
            yield writer, reader


@contextmanager
def fan_out(to: Sequence[Helper]) -> Iterator[tuple[Writer, list[Reader]]]:
    """One ring from here to all helpers, and one back from each."""
    with _rings([len(to), *[1] * len(to)], None) as (out, *backs):
        for index, (helper, back) in enumerate(zip(to, backs, strict=True)):
            helper.loop(out.spec, index, back.spec)
        with _ends(out, backs, to) as ends:
            yield ends


@contextmanager
def _rings(readers: Sequence[int], yield_us: float | None) -> Iterator[list[Channel]]:
    """One for each number of readers."""
    with ExitStack() as ends:
        made = []
        for count in readers:
            made.append(create_channel(ChannelSpec("bare", "shm", readers=count, yield_us=yield_us)))
            ends.callback(made[-1].destroy)
        yield made


@contextmanager
def _ends(first: Channel, lasts: Sequence[Channel], told: Sequence[Helper]) -> Iterator[tuple[Writer, list[Reader]]]:
    """This process's ends. When the block is left the loops end, one after the other, and only then may the rings."""
    writer, readers = open_writer(first.spec), [open_reader(last.spec) for last in lasts]
    try:
        yield writer, readers
    finally:
        writer.close()
        for reader in readers:
            reader.close()
        for helper in told:
            helper.wait()


def serve(descriptor: int) -> None:
    """The child: what it is told, until it is killed."""
    # A loop sleeps on memory of the parent's, which stays when that is killed: the kernel has to end this process.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with Connection(descriptor) as pipe:
        pipe.send(None)
        while True:
            told = pipe.recv()
            (_echo if told is None else _loop)(pipe, told)
            pipe.send(None)


def _echo(pipe: Connection, _told: None) -> None:
    pipe.send(None)
    while (value := pipe.recv()) is not None:
        pipe.send(value)


def _loop(pipe: Connection, told: tuple[ChannelSpec, int, ChannelSpec]) -> None:
    source, index, sink = told
    reader, writer = open_reader(source, index), open_writer(sink)
    pipe.send(None)
    read, write, number = reader.read, writer.write, 0
    try:
        while True:
            number += 1
            write(read(number), number)
    except ChannelClosed:
        reader.close()
        writer.close()
