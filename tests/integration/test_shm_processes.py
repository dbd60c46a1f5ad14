"""Rings between real processes: deaths, forks, interrupts, wake-ups, idleness, and memory that somebody overwrote."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import channels
from channels import (
    Alarm,
    Channel,
    ChannelBroken,
    ChannelSpec,
    _ring,
    create_channel,
    empty,
    open_reader,
    open_writer,
    wake_fd,
)
from channels.shm import memory, trim
from tests.waiting import wait_until

#: So that other processes import what this one has imported.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(channels.__file__).parent.parent)}
LARGE = 1 << 16
PATIENCE = 30.0

PRELUDE = """
import base64, gc, os, pickle, resource, signal, sys
import numpy as np
from channels import *
from channels import _ring
from channels.shm import memory, trim
from tests.waiting import wait_until
specs = pickle.loads(base64.b64decode(sys.argv[1])) if len(sys.argv) > 1 else []
def say(text): print(text, flush=True)
def hear(): return sys.stdin.readline().strip()
"""


class Child:
    """Another Python process, which runs `program` with the ends' specs in `specs`."""

    def __init__(self, program: str, *channels: Channel) -> None:
        specs = base64.b64encode(pickle.dumps([channel.spec for channel in channels])).decode()
        command = [sys.executable, "-c", PRELUDE + program, specs]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def expect(self, text: str) -> None:
        heard = self.hear()
        if heard != text:
            self.process.kill()
            raise AssertionError(f"expected {text!r}, heard {heard!r} {self.process.communicate()[0]}")

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        print(text, file=self.process.stdin, flush=True)

    def kill(self) -> None:
        """Returns when it is dead. It is left a zombie, as it would be in a busy parent."""
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start_one(program: str, *channels: Channel) -> Child:
        children.append(Child(program, *channels))
        return children[-1]

    yield start_one
    for child in children:
        child.end()
    _ring.collect()


def ring(name: str = "x", **options: Any) -> Channel:
    return create_channel(ChannelSpec(name, "shm", **options))


ECHO = """
reader, writer = open_reader(specs[0], 0), open_writer(specs[1])
try:
    for i in range(10**9):
        writer.write(reader.read(i), i)
except ChannelClosed:
    writer.close()
    say("closed")
"""


def test_echo(start: Callable[..., Child]) -> None:
    there, back = ring("there"), ring("back")
    child = start(ECHO, there, back)
    writer, reader = open_writer(there.spec), open_reader(back.spec, 0)
    values: list[Any] = [1, "text", None, 2.5, b"bytes", [1, {"k": 2}], np.arange(10), np.arange(LARGE), "x" * 100_000]
    for i in range(300):
        value = values[i % len(values)]
        writer.write(value, i)
        found = reader.read(i, PATIENCE)
        assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
    writer.close()
    child.expect("closed")


def test_a_value_passes_through_three_processes_without_a_copy(start: Callable[..., Child]) -> None:
    rings = [ring(str(i)) for i in range(3)]
    for i in range(2):
        start(ECHO, *rings[i : i + 2])
    writer, reader = open_writer(rings[0].spec), open_reader(rings[2].spec, 0)
    for i in range(5):
        made = empty(LARGE, "i8")
        made[:] = i
        writer.write(made, i)
        found = reader.read(i, PATIENCE)
        assert found.__array_interface__["data"] == made.__array_interface__["data"], "it is the very memory"
        assert (found == i).all()
    writer.close()


def test_what_a_killed_reader_held_comes_back_exactly(start: Callable[..., Child]) -> None:
    gc.collect()
    trim()
    before = memory()
    channel = ring(slots=4)
    alone = memory()
    child = start(
        "reader = open_reader(specs[0], 0)\nkept = [reader.read(i) for i in range(20)]\nsay('holding')\nhear()", channel
    )
    writer = open_writer(channel.spec)
    for i in range(20):
        writer.write([np.arange(LARGE), np.arange(2 * LARGE)], i)
    child.expect("holding")
    assert memory()["live_blocks"] == alone["live_blocks"] + 40
    assert memory()["peers"] == alone["peers"] + 1
    child.kill()
    _ring.collect()
    assert memory()["live_blocks"] == alone["live_blocks"]
    assert memory()["live_bytes"] == alone["live_bytes"]
    assert memory()["peers"] == alone["peers"]
    channel.destroy()
    del writer
    assert memory()["live_blocks"] == before["live_blocks"]
    trim()
    assert memory()["free_bytes"] == 0


@pytest.mark.parametrize("read_before", [0, 1])
def test_a_killed_writers_data_arrives_or_is_broken(start: Callable[..., Child], read_before: int) -> None:
    channel = ring()
    child = start(
        "writer = open_writer(specs[0])\nfor i in range(4): writer.write(np.full(65536, i), i)\nsay('written')\nhear()",
        channel,
    )
    reader = open_reader(channel.spec, 0)
    child.expect("written")
    kept = [reader.read(i, PATIENCE) for i in range(read_before)]
    child.kill()
    child.process.wait()
    if read_before:
        _ring.collect()
    broken = ""
    for i in range(read_before, 4):
        try:
            kept.append(reader.read(i, PATIENCE))
        except ChannelBroken as error:
            broken = str(error)
            break
    assert not broken or str(child.process.pid) in broken
    assert len(kept) == 4 or broken
    for i, value in enumerate(kept):
        assert (value == i).all()


def test_a_forked_child_has_no_ends_and_takes_nothing_from_its_parent() -> None:
    program = (
        PRELUDE
        + """
channel = create_channel(ChannelSpec("x", "shm"))
writer, reader = open_writer(channel.spec), open_reader(channel.spec, 0)
writer.write(np.arange(65536), 0)
kept = reader.read(0)
writer.write(np.arange(65536), 1)
before = memory()
pid = os.fork()
if pid == 0:
    for call in (lambda: writer.write(1, 1), lambda: reader.read(1), reader.ready, reader.arm):
        try:
            call()
        except ChannelBroken as error:
            assert "fork" in str(error)
        else:
            os._exit(1)
    assert kept[-1] == 65535
    writer.close()
    reader.close()
    channel.destroy()
    del writer, reader, kept, channel
    gc.collect()
    trim()
    own = create_channel(ChannelSpec("own", "shm"))
    w, r = open_writer(own.spec), open_reader(own.spec, 0)
    w.write(np.ones(65536), 0)
    assert r.read(0).sum() == 65536
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert memory() == before, (memory(), before)
assert (kept == np.arange(65536)).all()
assert (reader.read(1, 0) == np.arange(65536)).all()
writer.write("on", 2)
assert reader.read(2, 0) == "on"
say("ok")
"""
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.stdout == "ok\n", done.stderr


def test_an_armed_reader_wakes_its_event_loop_from_another_process(start: Callable[..., Child]) -> None:
    channel = ring(readers=2)
    child = start("writer = open_writer(specs[0])\nfor i in range(50):\n    hear()\n    writer.write(i, i)", channel)
    reader, other = open_reader(channel.spec, 0), open_reader(channel.spec, 1)

    async def main() -> None:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def on_byte() -> None:
            os.read(wake_fd(), 4096)
            woken.set()

        loop.add_reader(wake_fd(), on_byte)
        for i in range(50):
            asked = False
            while not reader.ready():
                woken.clear()
                if reader.arm():
                    if not asked:
                        child.say("write")
                        asked = True
                    await asyncio.wait_for(woken.wait(), PATIENCE)
            assert reader.read(i, 0) == i
            assert other.read(i, 0) == i
        loop.remove_reader(wake_fd())

    asyncio.run(main())


def test_a_byte_for_a_pipe_that_is_gone_harms_nobody(start: Callable[..., Child]) -> None:
    channel = ring()
    child = start("reader = open_reader(specs[0], 0)\nassert reader.arm()\nsay('armed')\nhear()", channel)
    child.expect("armed")
    child.kill()
    writer = open_writer(channel.spec)
    writer.write(1, 1)
    channel.break_("its reader died")


def test_a_byte_for_an_alarm_that_is_gone_is_no_sigpipe(start: Callable[..., Child]) -> None:
    child = start(
        """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
channel, alarm = create_channel(ChannelSpec("x", "shm")), Alarm()
writer, reader = open_writer(channel.spec), open_reader(channel.spec)
for n in range(2):
    assert reader.arm(alarm)
    if n == 1:
        alarm.close()
    writer.write(n, n)
    assert reader.read(n) == n
say("alive")
"""
    )
    child.expect("alive")


NO_DESCRIPTORS = """
writer = open_writer(specs[0])
resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
writer.write("here", 1)
say("written")
hear()
"""


def test_a_sleep_ends_though_whoever_delivers_has_no_descriptor_left(start: Callable[..., Child]) -> None:
    """It cannot open the pipe."""
    channel = ring()
    reader = open_reader(channel.spec)
    with closing(Alarm()) as alarm:
        assert reader.arm(alarm)
        start(NO_DESCRIPTORS, channel).expect("written")
        assert not alarm.wait(), "the byte came all the same"
        assert reader.ready()
        assert reader.read(1) == "here"


def test_a_break_wakes_also_whoever_missed_the_byte_of_a_writer_that_died(start: Callable[..., Child]) -> None:
    channel = ring()
    reader = open_reader(channel.spec)
    with closing(Alarm()) as alarm:
        assert reader.arm(alarm)
        child = start(NO_DESCRIPTORS, channel)
        child.expect("written")
        child.kill()
        assert not alarm.wait(), "the byte came all the same"
        channel.break_("its writer died")
        wait_until(alarm.wait)


def test_break_wakes_waiting_readers_and_writers_of_other_processes(start: Callable[..., Child]) -> None:
    starved, full = ring("starved", readers=2), ring("full", slots=2)
    report = "except ChannelBroken as error: say(error)"
    for i in range(2):
        start(f"r = open_reader(specs[0], {i})\ntry: r.read(0)\n{report}", starved)
    writing = start(f"w = open_writer(specs[0])\ntry:\n    for i in range(9): w.write(i, i)\n{report}", full)
    wait_until(lambda: min(starved.statistics().reader_waits) > 0 and full.statistics().writer_waits > 0)
    full.break_("actor A died")
    writing.expect("channel full: actor A died")
    assert starved.statistics().messages == 0
    starved.destroy()


def test_destroy_wakes_waiting_readers_of_other_processes(start: Callable[..., Child]) -> None:
    channel = ring(readers=2)
    program = "r = open_reader(specs[0], {})\ntry: r.read(0)\nexcept ChannelBroken as error: say(error)"
    children = [start(program.format(i), channel) for i in range(2)]
    wait_until(lambda: min(channel.statistics().reader_waits) > 0)
    channel.destroy()
    for child in children:
        child.expect("channel x: the channel was destroyed by its creator")


def test_ctrl_c_interrupts_a_wait_and_loses_nothing(start: Callable[..., Child]) -> None:
    channel = ring()
    child = start(
        "reader = open_reader(specs[0], 0)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: reader.read(0)\nexcept KeyboardInterrupt: say('interrupted')\n"
        "say(reader.read(0))",
        channel,
    )
    wait_until(lambda: channel.statistics().reader_waits[0] > 0)
    child.process.send_signal(signal.SIGINT)
    child.expect("interrupted")
    open_writer(channel.spec).write("still there", 0)
    child.expect("still there")


def test_an_idle_wait_uses_no_processor(start: Callable[..., Child]) -> None:
    channel = ring()
    child = start(
        "def used():\n    u = resource.getrusage(resource.RUSAGE_SELF)\n    return u.ru_utime + u.ru_stime\n"
        "reader = open_reader(specs[0], 0)\nbefore = used()\nreader.read(0)\nsay(used() - before)",
        channel,
    )
    writer = open_writer(channel.spec)
    wait_until(lambda: channel.statistics().reader_waits[0] > 0)
    threading.Event().wait(2.0)  # the wait that is looked at
    writer.write(None, 0)
    assert float(child.hear()) < 0.1


HOSTILE = """
import contextlib, faulthandler, mmap, random
faulthandler.enable()
seed = int(specs[0].name)
rng = random.Random(seed)
HEADER = 1024  # of a block
for turn in range(150):
    spec = ChannelSpec("x", "shm", readers=rng.choice((1, 2)), slots=4, buffer_bytes=512)
    channel = create_channel(spec)
    pid, fd, key, block, generation = channel.spec.address
    writer = open_writer(channel.spec)
    readers = [open_reader(channel.spec, i) for i in range(spec.readers)]
    for i, value in enumerate((7, "text", [np.arange(9000), np.arange(9)], {"k": b"x" * 3000})):
        if rng.random() < 0.8:
            writer.write(value, 0)
    view = mmap.mmap(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR), 4096 * 4, offset=block)
    last = 64 * (5 + 2 * spec.readers) + 4 * 640 + HEADER
    how = rng.randrange(4)
    if how == 0:  # everything
        view[HEADER:last] = rng.randbytes(last - HEADER)
    elif how == 1:  # the header
        view[HEADER : HEADER + 640] = rng.randbytes(640)
    elif how == 2:  # the slots
        view[HEADER + 640 : last] = rng.randbytes(last - HEADER - 640)
    else:  # a few bytes anywhere
        for _ in range(rng.randrange(1, 40)):
            view[rng.randrange(HEADER, last)] = rng.randrange(256)
    for _ in range(6):
        for call in (
            *(lambda r=r: r.read(0, 0.001) for r in readers),
            lambda: writer.write([1, np.arange(9000)], 0, 0.001),
            *(r.ready for r in readers),
            *(r.arm for r in readers),
            channel.statistics,
        ):
            with contextlib.suppress(ChannelError):
                call()
    channel.break_("over")
    for end in (writer, *readers):
        end.close()
    view.close()
    del writer, readers, channel
trim()
say("alive")
"""


@pytest.mark.parametrize("seed", range(4))
def test_overwritten_memory_is_an_error_and_never_a_crash(start: Callable[..., Child], seed: int) -> None:
    channel = ring(str(seed))
    start(HOSTILE, channel).expect("alive")


def test_an_address_that_leads_nowhere_is_broken() -> None:
    channel = ring()
    pid, fd, key, block, generation = channel.spec.address
    for address in (
        (pid, fd, key, block, generation + 1),
        (pid, fd, key, block + 64, generation),
        (pid, fd, key, 2**62, generation),
        (pid, fd, key + 1, block, generation),
        (pid, 0, key + 1, block, generation),
        (1, fd, key + 1, block, generation),
        (2**22 + 1, fd, key + 1, block, generation),
    ):
        for open_end in (open_writer, lambda spec: open_reader(spec, 0)):
            with pytest.raises(ChannelBroken, match="cannot reach"):
                open_end(channel.spec.at(address))
    with contextlib.suppress(ChannelBroken):
        open_writer(channel.spec).write(1, 1)
