"""A rank's tie to its group: what it hears from the coordinator, and what it tells it.

A thread sleeps on the connection. What it hears is state here (`verdict`, `left`, `over`); whoever waits for it waits
on one condition, and `on_change` is called after each change, so that a transport can end what waits elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from channels.communicators.coordination.wire import (
    HANDSHAKE_S,
    MAX_FRAME,
    GroupId,
    Message,
    Unreadable,
    answer,
    close_in_children,
    decode,
    encode,
    open_process,
    peer_process,
    reason_of,
)
from channels.errors import ChannelBroken, ChannelClosed, ChannelTimeout

__all__ = ["HEARD_S", "VERDICT_S", "Membership", "Verdict"]

#: Seconds in which a rank that breaks the group hears from the coordinator why it is broken.
VERDICT_S = 5.0
#: Seconds that an abort waits for the other ranks to know of it.
HEARD_S = 1.0


@dataclass(frozen=True)
class Verdict:
    """The group is broken."""

    reason: str
    #: The rank that broke it, if it was one.
    by: int | None = None
    #: By waiting longer than it was allowed to.
    late: bool = False


class Membership:
    """One rank's connection. Any thread may call anything here."""

    def __init__(self, group: GroupId, rank: int) -> None:
        """Connect. Raises ChannelBroken if the coordinator cannot be reached, or refuses."""
        self.group = group
        self.rank = rank
        self.verdict: Verdict | None = None
        #: The ranks that have left, and what each said that it had done.
        self.left: Mapping[int, Any] = {}
        #: Every rank has left; true if all of them are still connected.
        self.over: bool | None = None
        #: What a coordinator that asks is told: how many operations this rank has begun, and the last of them.
        self.progress: Callable[[], tuple[int, str]] = _no_progress
        #: Called after every change, by the thread of this object.
        self.on_change: Callable[[], None] = _nothing
        self._complete = False
        self._all_heard = False
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._sending = threading.RLock()  # the garbage collector may end a communicator in the middle of a message
        self._closed = False
        self._pid = os.getpid()
        connected: socket.socket | None = None
        try:
            connected = _connect(group)
            pid = peer_process(connected)
        except (OSError, Unreadable) as error:
            if connected is not None:
                connected.close()
            raise ChannelBroken(
                f"communicator {group.name}: the group cannot be reached: {error}; has whoever made it destroyed it?"
            ) from error
        self._socket = connected
        #: The address of this machine, as the coordinator's machine sees it; None if that is this machine.
        self.address: str | None = None if group.path else self._socket.getsockname()[0]
        self._who = "" if pid is None else f" ({pid})"
        self._process = open_process(pid)
        close_in_children(self._socket)
        self._thread = threading.Thread(target=self._run, name=f"dagc-rank-{rank}-{group.name}", daemon=True)
        self._send({"is": "hello", "rank": rank, "who": f"process {os.getpid()} on {socket.gethostname()}"})
        self._thread.start()

    def join(self, timeout: float | None) -> None:
        """Wait for all ranks. Raises ChannelTimeout, which breaks the group, and ChannelBroken."""
        if not self._wait(lambda: self._complete, timeout):
            self.late("join", [], timeout or 0.0, 0)
        self.check()

    def check(self) -> None:
        """Raises what the verdict is, if there is one."""
        if self.verdict is not None:
            raise self.error()

    def error(self) -> ChannelBroken | ChannelTimeout:
        """The verdict as what is raised; of a rank that waited too long a ChannelTimeout, the first time."""
        assert self.verdict is not None, "there is one"
        text = f"communicator {self.group.name}: {self.verdict.reason}"
        if self.verdict.late and self.verdict.by == self.rank:
            self.verdict = Verdict(self.verdict.reason, self.verdict.by)
            return ChannelTimeout(f"{text}; the group is broken by that")
        return ChannelBroken(text)

    def check_open(self, *, destroyed: bool) -> None:
        """Raises ChannelBroken in a child of the process that joined, ChannelClosed if this rank has destroyed it."""
        if os.getpid() != self._pid:
            raise ChannelBroken(
                f"communicator {self.group.name} was made before a fork and belongs to the parent process"
            )
        if destroyed:
            raise self.destroyed()

    def destroyed(self) -> ChannelClosed:
        """What is raised for this rank's own operations after it has left."""
        return ChannelClosed(f"communicator {self.group.name}: this rank has destroyed it")

    def gone(self, rank: int, request: object) -> ChannelClosed:
        """What is raised for an operation that needs a rank which has left."""
        return ChannelClosed(
            f"communicator {self.group.name}: rank {rank} has destroyed its communicator; it does not take part in "
            f"this {request}"
        )

    def late(self, doing: str, awaited: list[int], waited: float, begun: int) -> None:
        """This rank waited too long; break the group. If `awaited` is empty the coordinator finds out for whom."""
        self._send({"is": "late", "doing": doing, "awaited": awaited, "waited": waited, "begun": begun})
        if not self._wait(lambda: False, VERDICT_S):
            self._decide(Verdict(f"rank {self.rank} waited {waited:g} s to {doing}", self.rank, late=True))

    def break_(self, reason: str) -> None:
        """Break the group. Returns when all ranks know the reason, or somebody does not answer."""
        if self.verdict is None and not self._closed:
            self._send({"is": "break", "reason": reason_of(reason)})
            if not self._wait(lambda: False, VERDICT_S):
                self._decide(Verdict(reason_of(reason), self.rank))
            with self._changed:
                # Of another's reason, that one is told.
                self._changed.wait_for(lambda: self._all_heard or self._closed or not self._is_ours(), HEARD_S)

    def touch(self) -> None:
        """Something that somebody waits for in `settle` has changed."""
        with self._changed:
            self._changed.notify_all()

    def settle(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done()`, or there is a verdict; whether so."""
        return self._wait(done, timeout)

    def put(self, key: str, value: bytes) -> None:
        self._send({"is": "put", "key": key, "value": value.hex()})

    def get(self, key: str, timeout: float) -> bytes:
        """What somebody has put there. Raises ChannelBroken, and ChannelTimeout if nobody does in time."""
        found = self._wait(lambda: key in self._values, timeout)
        self.check()
        if not found:
            raise ChannelTimeout(f"communicator {self.group.name}: no rank has sent {key!r} within {timeout:g} s")
        return self._values[key]

    def leave(self, counts: Any = None) -> None:
        """Tell the others that this rank takes part no more, and what it has done (JSON)."""
        if not self._closed:
            self._send({"is": "leave", "counts": counts})

    def close(self) -> None:
        """End the connection. A rank that has not left is lost by that. May be called twice."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ---- inside ----

    def _wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: done() or self.verdict is not None, timeout)
            return done() or self.verdict is not None

    def _send(self, message: Message) -> None:
        data = encode(message)
        with self._sending, contextlib.suppress(OSError):  # its end is seen by the thread, which says so
            self._socket.sendall(data)

    def _run(self) -> None:
        buffer = bytearray()
        poll = select.poll()
        for one in (self._socket, self._process):
            if one is not None:
                poll.register(one, select.POLLIN)
        why = f"the process that made the group{self._who} has ended"
        try:
            while True:
                ready = [number for number, _ in poll.poll()]
                # What was said before the end counts, so the socket is read first, also if the process has ended.
                data = self._socket.recv(MAX_FRAME) if self._socket.fileno() in ready else b""
                if not data:
                    break
                buffer += data
                for message in decode(buffer):
                    self._hear(message)
        except (OSError, Unreadable, KeyError, TypeError, ValueError) as error:
            why = f"what the process that made the group{self._who} says cannot be understood: {error!r}"
        if not self._closed and self.over is None:
            self._decide(Verdict(why))
        self._closed = True
        self._socket.close()
        if self._process is not None:
            os.close(self._process)

    def _hear(self, message: Message) -> None:
        kind = message["is"]
        if kind == "report":
            begun, doing = self.progress()
            self._send({"is": "progress", "begun": begun, "doing": doing})
            return
        with self._changed:
            if kind == "complete":
                self._complete = True
            elif kind == "put":
                self._values[str(message["key"])] = bytes.fromhex(message["value"])
            elif kind == "left":
                self.left = {**self.left, int(message["rank"]): message["counts"]}
            elif kind == "over":
                self.over = bool(message["all_here"])
            elif kind == "heard":
                self._all_heard = True
            elif kind != "broken":
                raise Unreadable(f"a message of the unknown kind {kind!r}")
            self._changed.notify_all()
        if kind == "broken":
            self._decide(Verdict(str(message["reason"]), message["by"], bool(message["late"])))
            self._send({"is": "heard"})
        else:
            self.on_change()

    def _is_ours(self) -> bool:
        return self.verdict is not None and self.verdict.by == self.rank

    def _decide(self, verdict: Verdict) -> None:
        with self._changed:
            if self.verdict is None:
                self.verdict = verdict
            self._changed.notify_all()
        self.on_change()


def _connect(group: GroupId) -> socket.socket:
    """A connection whose other end has proved that it knows the secret. Raises OSError, Unreadable."""
    if group.path:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(HANDSHAKE_S)
    else:
        connection = socket.create_connection((group.host, group.port), HANDSHAKE_S)
    try:
        if group.path:
            connection.connect("\0" + group.path)
        answer(connection, group.secret)
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def _no_progress() -> tuple[int, str]:
    return 0, ""


def _nothing() -> None:
    pass
