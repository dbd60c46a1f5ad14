"""Connections between every two ranks over gloo: sends and receives of bytes, each with a deadline.

gloo is used for what it is good at: it connects processes and moves bytes in its own threads. Its collectives are not
used, see `channels.communicators.gloo` for the reason. The process group is private: init_process_group of
torch.distributed is neither needed nor touched, and a program that calls it for itself is free to.

A wait of gloo ends when the bytes are there, when the connection breaks, or at its own timeout, which breaks every
connection of the process group (gloo/transport/tcp/unbound_buffer.cc: "Application timeout caused pair closure"). From
outside there is no other way to end one: `ProcessGroupGloo.abort` of torch 2.13 leaves a waiting receive waiting. So
`cut` lets a receive of its own time out on purpose. It takes a millisecond, wakes every wait of this process, and the
peers see their connections end.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from channels.communicators.coordination.membership import Membership
from channels.errors import ChannelTimeout

if TYPE_CHECKING:
    import torch

__all__ = ["CONNECT_S", "Late", "Links", "Lost", "Transfer", "remaining"]

#: Seconds in which all ranks connect to each other, once all have come.
CONNECT_S = 30.0

#: gloo takes no "for ever".
_FOREVER = timedelta(days=365)
_LEAST = timedelta(milliseconds=1)
#: Of a receive that nobody answers.
_UNANSWERED = 1 << 20


class Lost(Exception):
    """The connection to a rank broke; the text is gloo's."""

    def __init__(self, peer: int, text: str) -> None:
        super().__init__(text)
        self.peer = peer


class Late(Exception):
    """A rank did not do its part before the deadline."""

    def __init__(self, peer: int) -> None:
        super().__init__(peer)
        self.peer = peer


@dataclass(frozen=True)
class Transfer:
    """Bytes on their way to a rank, or from it."""

    work: Any
    peer: int


class Links:
    """The connections of one rank. One thread at a time, but for `cut`."""

    def __init__(self, membership: Membership, host: str) -> None:
        """Connect with every other rank; each does it at the same time.

        `host`: the address of this machine that the others reach. Raises RuntimeError as gloo does, or what the
        membership says if the group breaks meanwhile.
        """
        rank, size = membership.rank, membership.group.world_size
        self._group: Any = None
        self._peer = (rank + 1) % size
        if size == 1:
            return
        distributed = importlib.import_module("torch.distributed")
        gloo = distributed.ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=host)]
        options._timeout = timedelta(seconds=CONNECT_S)
        options._threads = 1  # of the collectives, which are not used
        store = _store_class()(membership)
        try:
            self._group = gloo(store, rank, size, options)
        except RuntimeError:
            membership.check()  # the reason behind gloo's
            raise

    def receive(self, into: torch.Tensor, peer: int, tag: int) -> Transfer:
        """Begin to receive into these bytes. Fewer may come."""
        return Transfer(self._begin(self._group.recv, into, peer, tag), peer)

    def send(self, tensor: torch.Tensor, peer: int, tag: int) -> Transfer:
        """Begin to send these bytes, which must not change until it is done."""
        return Transfer(self._begin(self._group.send, tensor, peer, tag), peer)

    def finish(self, transfers: Sequence[Transfer], deadline: float | None) -> None:
        """Wait for all of them. Raises Late or Lost, and then the connections are of no use any more."""
        for transfer in transfers:
            limit = remaining(deadline)
            # gloo drops what is no whole millisecond, and an end before the deadline would look like a lost connection.
            patience = _FOREVER if limit is None else timedelta(milliseconds=math.floor(limit * 1000)) + _LEAST
            try:
                transfer.work.wait(patience)
            except RuntimeError as error:
                if "Timed out waiting" in str(error) and remaining(deadline) == 0.0:
                    raise Late(transfer.peer) from error
                raise Lost(transfer.peer, str(error)) from error

    def cut(self) -> None:
        """Break all connections and wake whoever waits for them. From any thread."""
        group = self._group
        if group is not None:
            torch = importlib.import_module("torch")
            with contextlib.suppress(RuntimeError):  # that is the point of it
                group.recv([torch.empty(1, dtype=torch.uint8)], self._peer, _UNANSWERED).wait(_LEAST)

    def close(self) -> None:
        """Close the connections; what was sent still arrives."""
        self._group = None

    def _begin(self, operation: Any, tensor: torch.Tensor, peer: int, tag: int) -> Any:
        try:
            return operation([tensor], peer, tag)
        except RuntimeError as error:
            raise Lost(peer, str(error)) from error


def remaining(deadline: float | None) -> float | None:
    """Seconds until then, at least 0; None is never."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


@cache
def _store_class() -> Any:
    """A store of torch.distributed that keeps what ranks tell each other in the group's own connections.

    Not a TCPStore: it opens a port where whoever can connect may read and write without a secret. Not a FileStore: it
    needs a file system that all ranks share. It is made when it is first needed, because torch is optional.
    """
    distributed = importlib.import_module("torch.distributed")

    class MembershipStore(distributed.Store):  # type: ignore[misc, name-defined]
        """What ProcessGroupGloo asks of a store: everybody puts an address, and reads those of the others."""

        def __init__(self, membership: Membership) -> None:
            super().__init__()
            self._membership = membership

        def set(self, key: str, value: bytes | str) -> None:
            self._membership.put(key, value.encode() if isinstance(value, str) else bytes(value))

        def get(self, key: str) -> bytes:
            return self._membership.get(key, CONNECT_S)

        def wait(self, keys: Sequence[str], timeout: timedelta = _FOREVER) -> None:
            for key in keys:
                self._membership.get(key, min(timeout.total_seconds(), CONNECT_S))

        def multi_get(self, keys: Sequence[str]) -> list[bytes]:
            return [self.get(key) for key in keys]

        def check(self, keys: Sequence[str]) -> bool:
            try:
                self.wait(keys, timedelta(0))
            except ChannelTimeout:
                return False
            return True

        def has_extended_api(self) -> bool:
            return False

    return MembershipStore
