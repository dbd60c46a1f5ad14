"""What connects the ranks of a communicator: sockets between processes, in place of NVLink and networks.

The process that made the unique id listens at a name in it and tells every rank where the others are, as NCCL's
bootstrap does. Every two ranks have two connections: one for kernels, one for what waits on the host.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Aborted", "Connection", "Root", "Stop", "connect"]

_FRAME = struct.Struct("<cQ")


class Aborted(Exception):
    """Whoever waited is to stop."""


class Stop:
    """A flag that can be waited for together with sockets."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.is_set = False

    def set(self) -> None:
        self.is_set = True
        os.write(self._write, b"!")

    def fileno(self) -> int:
        return self._read

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Root:
    """The bootstrap of one communicator, in the process that made its id."""

    def __init__(self) -> None:
        self.name = f"fake-nccl-{secrets.token_hex(16)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind("\0" + self.name)
        self._listener.listen(64)
        self._stop = Stop()
        self._thread = threading.Thread(target=self._run, name="fake-nccl-root", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._stop.close()

    def _run(self) -> None:
        ranks: dict[int, tuple[socket.socket, dict[str, Any]]] = {}
        try:
            while True:
                _wait([self._listener], self._stop)
                accepted, _ = self._listener.accept()
                told = json.loads(accepted.recv(4096))
                ranks[told["rank"]] = accepted, told
                if len(ranks) == told["size"]:
                    table = json.dumps({rank: told for rank, (_, told) in ranks.items()}).encode()
                    for one, _ in ranks.values():
                        one.sendall(struct.pack("<I", len(table)) + table)
                    return
        except Aborted:
            pass
        finally:
            for one, _ in ranks.values():
                one.close()
            self._listener.close()


class Connection:
    """Frames between two ranks: a kind, a byte, and data."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.setblocking(False)
        self._in = bytearray()
        self._out = bytearray()
        self._frames: dict[bytes, deque[bytes]] = {}
        self.dead = False

    def put(self, kind: bytes, data: bytes = b"") -> None:
        self._out += _FRAME.pack(kind, len(data)) + data

    def take(self, kind: bytes) -> bytes | None:
        """The oldest frame of the kind, if there is one."""
        frames = self._frames.get(kind)
        return frames.popleft() if frames else None

    def pump(self) -> None:
        """Send and receive what is possible at once."""
        try:
            while self._out:
                with memoryview(self._out) as waiting:
                    sent = self._socket.send(waiting)
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.dead = True
        try:
            while not self.dead:
                data = self._socket.recv(1 << 20)
                self.dead = not data
                self._in += data
        except BlockingIOError:
            pass
        except OSError:
            self.dead = True
        while len(self._in) >= _FRAME.size:
            kind, length = _FRAME.unpack_from(self._in)
            if len(self._in) < _FRAME.size + length:
                break
            with memoryview(self._in) as come:
                self._frames.setdefault(kind, deque()).append(bytes(come[_FRAME.size : _FRAME.size + length]))
            del self._in[: _FRAME.size + length]

    @property
    def sent(self) -> bool:
        return not self._out

    def events(self) -> int:
        return 0 if self.dead else select.POLLIN | (select.POLLOUT if self._out else 0)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


def until(done: Callable[[], bool], connections: list[Connection], stop: Stop, died: Callable[[], None]) -> None:
    """Pump until `done()`. Raises Aborted when it is stopped; of a dead connection `died` hears, once."""
    told = False
    while True:
        for one in connections:
            one.pump()
        if stop.is_set:
            raise Aborted
        if done():
            return
        if not told and any(one.dead for one in connections):
            told = True
            died()
        poll = select.poll()
        poll.register(stop.fileno(), select.POLLIN)
        for one in connections:
            if one.events():
                poll.register(one.fileno(), one.events())
        poll.poll()


def connect(
    root: str, rank: int, size: int, device: int, stop: Stop
) -> dict[int, tuple[dict[str, Any], list[Connection]]]:
    """Meet the others: rank -> what it said, and the two connections to it. Waits for ever; raises Aborted."""
    name = f"fake-nccl-{secrets.token_hex(16)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("\0" + name)
    listener.listen(2 * size)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        told.connect("\0" + root)
        told.sendall(json.dumps({"rank": rank, "size": size, "device": device, "name": name}).encode())
        (length,) = struct.unpack("<I", _exactly(told, 4, stop))
        table = {int(other): said for other, said in json.loads(_exactly(told, length, stop)).items()}
        found: dict[int, tuple[dict[str, Any], list[Connection]]] = {other: (said, []) for other, said in table.items()}
        for other in range(rank):
            for _ in range(2):
                one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                one.connect("\0" + table[other]["name"])
                one.sendall(struct.pack("<I", rank))
                found[other][1].append(Connection(one))
        for _ in range(2 * (size - 1 - rank)):
            _wait([listener], stop)
            one, _ = listener.accept()
            (other,) = struct.unpack("<I", _exactly(one, 4, stop))
            found[other][1].append(Connection(one))
        return found
    finally:
        listener.close()
        told.close()


def _exactly(one: socket.socket, length: int, stop: Stop) -> bytes:
    data = b""
    while len(data) < length:
        _wait([one], stop)
        piece = one.recv(length - len(data))
        if not piece:
            raise ConnectionError("the other side has gone")
        data += piece
    return data


def _wait(sockets: list[socket.socket], stop: Stop) -> None:
    select.select([*sockets, stop], [], [])
    if stop.is_set:
        raise Aborted
