"""The creator's side of a group: one socket that listens, one thread that sleeps until somebody says something.

It is on the path of no operation: ranks join through it, and through it they hear what cannot be seen in the data: who
aborted and why, who has left, who has died. A member's death is the end of its connection, or of its process (a pidfd),
so it is told to the others in milliseconds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from channels.communicators.base import GroupHandle
from channels.communicators.coordination.roster import Post, Refused, Roster
from channels.communicators.coordination.wire import (
    HANDSHAKE_S,
    MAX_FRAME,
    Challenge,
    GroupId,
    Message,
    Unreadable,
    close_in_children,
    decode,
    encode,
    open_process,
    peer_process,
)

__all__ = ["CoordinatedGroup", "Coordinator", "check_world_size"]

#: Connections whose other side has not yet proved that it knows the secret. Of more, the oldest is dropped: a rank
#: proves it at once.
_STRANGERS = 64
#: Seconds that the end of a group may take: what a member does not read until then is given up.
_FLUSH_S = 1.0
#: Seconds in which nobody is heard after descriptors ran out.
_DEAF_S = 0.1


@dataclass(eq=False)
class _Connection:
    """Of somebody who may be a member."""

    socket: socket.socket
    challenge: Challenge
    deadline: float
    #: Has proved that it knows the secret.
    proved: bool = False
    rank: int | None = None
    #: A pidfd of the process at the other end.
    process: int | None = None
    received: bytearray = field(default_factory=bytearray)
    out: bytearray = field(default_factory=bytearray)
    #: To be closed once `out` is sent.
    refused: bool = False


class Coordinator:
    """Serves the ranks of one group until `close`."""

    def __init__(self, transport: str, name: str, world_size: int, host: str | None, extra: bytes = b"") -> None:
        """`host`: the address of this machine to listen on, by TCP; None: a Unix socket, for ranks of this machine.

        Raises ValueError if every address of the machine is meant, and OSError if it cannot listen there.
        """
        self._roster = Roster(name, world_size)
        self._members: dict[int, _Connection] = {}
        self._strangers: list[_Connection] = []
        #: For its thread, and what to set when it is done.
        self._commands: deque[tuple[Callable[[], Sequence[Post]], threading.Event]] = deque()
        #: To be set when all ranks know that the group is broken.
        self._hearing: list[threading.Event] = []
        self._ending: float | None = None
        secret = secrets.token_bytes(32)
        self._listener, path, port = _listen(host)
        self.id = GroupId(transport, name, world_size, path, host or "", port, secret, extra)
        self._listener.listen(world_size + _STRANGERS)
        self._wake, self._bell = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for one in (self._listener, self._wake, self._bell):
            one.setblocking(False)
        close_in_children(self._listener, self._wake, self._bell)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        #: While there are no descriptors.
        self._deaf_until: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"dagc-group-{name}", daemon=True)
        self._pid = os.getpid()
        self._thread.start()

    # ---- for any thread ----

    def abort(self, reason: str) -> None:
        """Returns when every rank that has joined knows it, or does not answer within a second."""
        heard = threading.Event()

        def break_() -> Sequence[Post]:
            self._hearing.append(heard)
            return self._roster.break_(reason)

        if self._do(break_) and threading.current_thread() is not self._thread:
            heard.wait(_FLUSH_S)

    def close(self) -> None:
        """Tell the members that the group is broken, if they have not all left, and end. May be called twice."""
        if not self._thread.is_alive() or os.getpid() != self._pid:
            return
        self._do(self._end)
        if threading.current_thread() is not self._thread:  # a handle that this very thread has collected
            self._thread.join()

    def _do(self, command: Callable[[], Sequence[Post]]) -> bool:
        """Let the thread do it, and wait until it has; False if there is none any more."""
        if not self._thread.is_alive() or os.getpid() != self._pid:
            return False
        done = threading.Event()
        self._commands.append((command, done))
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it has ended
            self._bell.send(b"!")
        return threading.current_thread() is self._thread or done.wait(_FLUSH_S)

    def _end(self) -> Sequence[Post]:
        self._ending = self._ending or time.monotonic() + _FLUSH_S
        if len(self._roster.left) == self._roster.world_size:
            return ()
        return self._roster.break_("the group was destroyed by whoever made it")

    # ---- for its thread ----

    def _run(self) -> None:
        try:
            while self._ending is None or (self._unsent() and time.monotonic() < self._ending):
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                while self._commands:
                    command, done = self._commands.popleft()
                    self._send(command())
                    done.set()
                now = time.monotonic()
                if self._deaf_until is not None and now >= self._deaf_until:
                    self._deaf_until = None
                    self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
                self._send(self._roster.tick(now))
                while self._hearing and self._roster.all_heard:
                    self._hearing.pop().set()
                for stranger in [one for one in self._strangers if one.deadline < now]:
                    self._drop(stranger)
        finally:
            for connection in [*self._members.values(), *self._strangers]:
                self._drop(connection)
            self._selector.close()
            for one in (self._listener, self._wake, self._bell):
                one.close()

    def _patience(self) -> float | None:
        deadlines = [one.deadline for one in self._strangers]
        others = (self._ending, self._roster.deadline, self._deaf_until)
        deadlines += [deadline for deadline in others if deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _unsent(self) -> bool:
        return any(one.out for one in self._members.values())

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError as error:  # whoever it was has gone again, or there are no descriptors
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # It stays readable, and would be asked without end. Whoever connects is heard a little later.
                self._selector.unregister(self._listener)
                self._deaf_until = time.monotonic() + _DEAF_S
            return
        close_in_children(accepted)
        connection = _Connection(accepted, Challenge(self.id.secret), time.monotonic() + HANDSHAKE_S)
        if len(self._strangers) >= _STRANGERS:
            self._drop(self._strangers[0])
        try:
            accepted.setblocking(False)
            connection.process = open_process(peer_process(accepted))
        except (OSError, Unreadable):
            accepted.close()
            return
        self._strangers.append(connection)
        connection.out += connection.challenge.hello
        self._selector.register(accepted, selectors.EVENT_READ, lambda: self._ready(connection))
        if connection.process is not None:
            self._selector.register(connection.process, selectors.EVENT_READ, lambda: self._died(connection))
        self._flush(connection)

    def _died(self, connection: _Connection) -> None:
        """Its process has ended. What it had sent before is read first: a rank may leave, and end at once."""
        self._ready(connection)
        self._drop(connection)

    def _ready(self, connection: _Connection) -> None:
        if connection.out:
            self._flush(connection)
        try:
            while data := connection.socket.recv(MAX_FRAME):
                connection.received += data
                self._take(connection)
        except BlockingIOError:
            return
        except Exception:  # noqa: BLE001 - see below
            # A stranger who proves nothing, or a member that has gone mad: whatever it sent, it must not end the thread
            # that the others rely on. Nothing of what it says can be used.
            self._drop(connection)
            return
        self._drop(connection)

    def _take(self, connection: _Connection) -> None:
        if not connection.proved:
            if len(connection.received) < Challenge.length:
                return
            answer = bytes(connection.received[: Challenge.length])
            del connection.received[: Challenge.length]
            connection.out += connection.challenge.check(answer)
            connection.proved = True
            self._flush(connection)
        for message in decode(connection.received):
            if connection.rank is None:
                self._hello(connection, message)
            else:
                self._send(self._roster.receive(connection.rank, message, time.monotonic()))

    def _hello(self, connection: _Connection, message: Message) -> None:
        rank, who = message.get("rank"), message.get("who")
        if message["is"] != "hello" or not isinstance(rank, int) or not isinstance(who, str):
            raise Unreadable(f"expected a hello, found {message!r}")
        if connection.refused or not 0 <= rank < self._roster.world_size:
            raise Unreadable(f"a hello of rank {rank}")
        try:
            posts = self._roster.join(rank, who)
        except Refused as refused:
            connection.refused = True
            connection.out += encode({"is": "broken", "reason": str(refused), "by": None, "late": False})
            self._flush(connection)
            return
        connection.rank = rank
        self._members[rank] = connection
        self._strangers.remove(connection)
        self._send(posts)

    def _send(self, posts: Sequence[Post]) -> None:
        for post in posts:
            connection = self._members.get(post.rank)
            if connection is not None:
                connection.out += encode(post.message)
                self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            while connection.out:
                del connection.out[: connection.socket.send(connection.out)]
        except BlockingIOError:
            pass
        except OSError:  # its end; what it sent before may still be read, and the end then comes from there
            connection.out.clear()
        if connection.socket.fileno() >= 0:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.out else 0)
            self._selector.modify(connection.socket, events, lambda: self._ready(connection))

    def _drop(self, connection: _Connection) -> None:
        if connection.socket.fileno() < 0:
            return
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if connection.process is not None:
            self._selector.unregister(connection.process)
            os.close(connection.process)
            connection.process = None
        if connection in self._strangers:
            self._strangers.remove(connection)
        if connection.rank is not None:
            del self._members[connection.rank]
            if self._ending is None:
                self._send(self._roster.lost(connection.rank))


class CoordinatedGroup(GroupHandle):
    """A group whose members talk to a coordinator in the process that made it. Dropping the handle breaks the group."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self.name = coordinator.id.name
        self.world_size = coordinator.id.world_size
        self.id = coordinator.id.encode()

    def abort(self, reason: str) -> None:
        self._coordinator.abort(reason)

    def destroy(self) -> None:
        self._coordinator.close()

    def __del__(self) -> None:
        if hasattr(self, "_coordinator"):
            self._coordinator.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {self.world_size}>"


def check_world_size(world_size: int, largest: int) -> None:
    """Raises ValueError."""
    if not 1 <= world_size <= largest:
        raise ValueError(f"world_size={world_size}; expected 1 to {largest}")


def _listen(host: str | None) -> tuple[socket.socket, str, int]:
    """(socket, name of it if it is a Unix socket, port if it is not)."""
    if host is None:
        # An abstract name is in no file system, so a killed process leaves none behind.
        path = f"dagc-group-{secrets.token_hex(16)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("\0" + path)
        return listener, path, 0
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    if address[0] in ("0.0.0.0", "::"):
        raise ValueError(
            f"host={host!r} would open a port on every address of this machine; expected the one address that the "
            "other machines reach it by"
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener, "", listener.getsockname()[1]
