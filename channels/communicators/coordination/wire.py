"""What the members of a group and its creator say to each other, how it is framed, and who may say it.

    GroupId        what `GroupHandle.id` is: where the coordinator listens, and the secret of the group
    Message        a JSON object; "is" says which. Nothing is unpickled that came over a socket
    Challenge      both sides prove that they know the secret before anything else is read

On one machine the socket is an abstract Unix socket: no port, no file that a killed process leaves behind, and the
kernel says whose process is at the other end. Between machines it is TCP on the address that the creator named. The
proof is a challenge in both directions (HMAC-SHA256 over two random numbers), so the secret itself never travels. What
follows is neither encrypted nor signed; NCCL and gloo send the tensors themselves in the clear on that network.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import struct
import weakref
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "HANDSHAKE_S",
    "MAX_FRAME",
    "Challenge",
    "GroupId",
    "Message",
    "Unreadable",
    "answer",
    "close_in_children",
    "decode",
    "encode",
    "open_process",
    "peer_process",
    "reason_of",
]

#: A message. Its fields are checked where they are used: a peer that knows the secret may still be a broken one.
Message = dict[str, Any]

#: Bytes of the longest message; the longest that is sent is a reason.
MAX_FRAME = 1 << 16
#: Seconds in which the other side has to prove who it is.
HANDSHAKE_S = 10.0

_LENGTH = struct.Struct("!I")
_MARK = b"dagc group "
_NONCE = 32
_PROOF = 32
_CREDENTIALS = struct.Struct("3i")


class Unreadable(Exception):
    """What came is no message, or whoever sent it does not know the secret."""


@dataclass(frozen=True)
class GroupId:
    """What a rank must know to join; as bytes, `GroupHandle.id`."""

    transport: str
    name: str
    world_size: int
    #: The name of an abstract Unix socket, or "" if it is TCP.
    path: str
    host: str
    port: int
    secret: bytes = field(repr=False)
    #: What the transport itself needs.
    extra: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        fields = {**self.__dict__, "secret": self.secret.hex(), "extra": self.extra.hex()}
        return _MARK + json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes, transport: str) -> GroupId:
        """Raises ValueError if it is not the id of a group of that transport."""
        try:
            if not data.startswith(_MARK):
                raise ValueError("it does not begin like one")
            fields = json.loads(data[len(_MARK) :])
            found = cls(
                **{**fields, "secret": bytes.fromhex(fields["secret"]), "extra": bytes.fromhex(fields["extra"])}
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{bytes(data[:16])!r}... is not the id of a group of {transport}: {error}; expected the `id` of what "
                f"create() of the transport {transport} has returned"
            ) from error
        if found.transport != transport:
            raise ValueError(
                f"the id of group {found.name} is of the transport {found.transport}; expected one of {transport}"
            )
        return found

    def check(self, rank: int, world_size: int) -> None:
        """Raises ValueError if no rank of the group is meant."""
        if world_size != self.world_size:
            raise ValueError(
                f"communicator {self.name}: world_size={world_size}, but the group was made for {self.world_size} ranks"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"communicator {self.name}: rank={rank}; expected 0 to {world_size - 1}")


def encode(message: Message) -> bytes:
    """A frame. Raises ValueError if it would be too long."""
    data = json.dumps(message).encode()
    if len(data) > MAX_FRAME:
        raise ValueError(f"a message of {len(data)} bytes; expected at most {MAX_FRAME}")
    return _LENGTH.pack(len(data)) + data


def decode(buffer: bytearray) -> list[Message]:
    """The whole messages at the front of the buffer, which are removed from it. Raises Unreadable."""
    found = []
    while len(buffer) >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer)
        if length > MAX_FRAME:
            raise Unreadable(f"a message of {length} bytes was announced; expected at most {MAX_FRAME}")
        if len(buffer) < _LENGTH.size + length:
            break
        data = bytes(buffer[_LENGTH.size : _LENGTH.size + length])
        del buffer[: _LENGTH.size + length]
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"a message is not JSON: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("is"), str):
            raise Unreadable(f"a message is {data[:80]!r}; expected an object with a string under 'is'")
        found.append(message)
    return found


def reason_of(reason: str) -> str:
    """A reason as it is told to others: valid Unicode, short enough for a message, not empty."""
    text = reason.encode(errors="replace").decode()
    return (text if len(text) <= 4000 else text[:4000] + " ...") or "it was aborted"


# ---- the proof ----


class Challenge:
    """The coordinator's side of the proof, without I/O: send `hello`, take `length` bytes, send what `check` gives."""

    #: Bytes of the answer.
    length = _NONCE + _PROOF

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._nonce = secrets.token_bytes(_NONCE)
        self.hello = _MARK + self._nonce

    def check(self, answer: bytes) -> bytes:
        """The counter-proof. Raises Unreadable if whoever answered does not know the secret."""
        nonces = self._nonce + answer[:_NONCE]
        if not hmac.compare_digest(answer[_NONCE:], _proof(self._secret, b"member", nonces)):
            raise Unreadable("whoever connected does not know the secret of the group")
        return _proof(self._secret, b"coordinator", nonces)


def answer(connection: socket.socket, secret: bytes) -> None:
    """The member's side. Raises Unreadable if the other side does not know the secret, and OSError."""
    hello = _exactly(connection, len(_MARK) + _NONCE)
    if not hello.startswith(_MARK):
        raise Unreadable("what listens there is not the coordinator of a group")
    ours = secrets.token_bytes(_NONCE)
    nonces = hello[len(_MARK) :] + ours
    connection.sendall(ours + _proof(secret, b"member", nonces))
    if not hmac.compare_digest(_exactly(connection, _PROOF), _proof(secret, b"coordinator", nonces)):
        raise Unreadable("what listens there does not know the secret of the group")


def peer_process(connection: socket.socket) -> int | None:
    """The process at the other end of a Unix socket; None if it is TCP, or a process that this one cannot see.

    Raises Unreadable if it is another user's.
    """
    if connection.family != socket.AF_UNIX:
        return None
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid != os.geteuid():
        raise Unreadable(f"process {pid} of user {uid} is at the other end; expected one of user {os.geteuid()}")
    return pid or None


def open_process(pid: int | None) -> int | None:
    """A descriptor that becomes readable when the process ends. None if there is no process, or the kernel refuses.

    A connection alone does not tell: a child that was forked holds the connections of its parent.
    """
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except (
        OSError
    ):  # it has ended: the connection says so; or old kernels and sandboxes, which have only the connection
        return None


def _proof(secret: bytes, side: bytes, nonces: bytes) -> bytes:
    return hmac.digest(secret, side + b"\0" + nonces, "sha256")


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise Unreadable("the connection ended before it was known who is at the other end")
        data += piece
    return data


#: Sockets that a forked child must not keep open: it would hide the end of its parent.
_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_children(*sockets: socket.socket) -> None:
    """Close them in every child that this process forks, there alone."""
    _sockets.update(sockets)


def _after_fork() -> None:
    for one in list(_sockets):
        one.close()


os.register_at_fork(after_in_child=_after_fork)
