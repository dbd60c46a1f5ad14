"""What the garbage collector ends, or a signal handler does, in the middle of what holds a lock in the same thread."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from channels import Alarm
from tests.drivers import said
from tests.interrupts import in_time


def test_a_communicator_is_collected_while_its_own_thread_sends(tmp_path: Path) -> None:
    """Its end tells the group that it leaves, by the same connection."""
    program = """
import weakref
from channels.communicators.gloo import GlooTransport

class Collecting:
    "A socket; whenever something was sent by it, the collector's turn comes."

    def __init__(self, socket):
        self.socket = socket

    def sendall(self, data):
        self.socket.sendall(data)
        gc.collect()

    def __getattr__(self, name):
        return getattr(self.socket, name)

gc.disable()
transport = GlooTransport()
group = transport.create(1, "g")
communicator = transport.join(group.id, 0, 1)
member = communicator._membership
member._socket = Collecting(member._socket)
alive = weakref.ref(communicator)
communicator.itself = communicator
del communicator
assert alive() is not None
group.abort("the end")  # the member says that it has heard, and the communicator is collected as it does
member._thread.join(HANG)
print(member._thread.is_alive(), alive())
group.destroy()
"""
    assert said(program, tmp_path) == "False None\n"


def test_an_alarm_is_set_in_the_middle_of_being_set(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    written: list[int] = []

    def interrupted(fd: int, data: bytes) -> int:
        if fd == alarm.fileno():  # other threads write, too
            written.append(fd)
            if len(written) == 1:
                alarm.set()
        return write(fd, data)

    with closing(Alarm()) as alarm:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", interrupted)
            in_time(alarm.set)
        assert len(written) == 2
        assert alarm.wait()
