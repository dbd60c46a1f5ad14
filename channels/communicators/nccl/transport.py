"""Groups over NCCL: how they are made and joined."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from channels.communicators.base import Transport
from channels.communicators.coordination.coordinator import CoordinatedGroup, Coordinator, check_world_size
from channels.communicators.coordination.membership import Membership
from channels.communicators.coordination.wire import GroupId
from channels.communicators.memory import check_timeout
from channels.communicators.nccl.communicator import NcclCommunicator
from channels.communicators.nccl.cuda import describe, load_nccl, load_torch, pack_id, unpack_id
from channels.communicators.nccl.handle import Handle
from channels.communicators.nccl.streams import COLLECTIVE, SEND, Streams

__all__ = ["MAX_WORLD_SIZE", "NcclGroup", "NcclTransport"]

#: Ranks of one group: the coordinator has a connection to each.
MAX_WORLD_SIZE = 1024


class NcclGroup(CoordinatedGroup):
    """The creator's handle. Dropping it breaks the group. NCCL's own bootstrap runs in this process, too."""


@dataclass(frozen=True)
class NcclTransport(Transport):
    """NCCL."""

    name: ClassVar[str] = "nccl"
    asynchronous: ClassVar[bool] = True

    #: The GPU of this rank; None: the current device of the thread that joins.
    device: int | None = None
    #: The address by which the ranks of other machines reach the creator's; None: all ranks are on this machine.
    host: str | None = None
    #: Connect every two ranks when they join. Without, the first send or recv of a pair waits on the host.
    connect_peers: bool = True

    def create(self, world_size: int, name: str = "group") -> NcclGroup:
        """As Transport.create. Raises ImportError if CuPy or NCCL is missing, OSError if it cannot listen on `host`."""
        check_world_size(world_size, MAX_WORLD_SIZE)
        unique_id = pack_id(load_nccl().get_unique_id())
        return NcclGroup(Coordinator(self.name, name, world_size, self.host, unique_id))

    def join(self, group_id: bytes, rank: int, world_size: int, timeout: float | None = None) -> NcclCommunicator:
        """As Transport.join. Raises ImportError if CuPy or NCCL is missing, RuntimeError if there is no GPU."""
        group = GroupId.decode(group_id, self.name)
        group.check(rank, world_size)
        check_timeout(timeout)
        nccl, torch = load_nccl(), load_torch()
        device = torch.cuda.current_device() if self.device is None else self.device
        membership = Membership(group, rank)
        handle = Handle(nccl, world_size, unpack_id(group.extra, nccl), rank)
        streams = Streams(torch, device)
        connecting = _Connecting(nccl, streams, handle, membership, self.connect_peers, torch)
        started = time.monotonic()
        try:
            membership.join(timeout)
            connecting.start()
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
            if not membership.settle(lambda: connecting.over, left):
                membership.late("connection to all ranks (ncclCommInitRank)", [], timeout or 0.0, 0)
            membership.check()
            if connecting.error is not None:
                membership.break_(f"rank {rank} could not join: {describe(connecting.error)}")
                raise membership.error() from connecting.error
        except BaseException as error:
            connecting.given_up = True
            membership.break_(f"rank {rank} could not join: {error}")
            handle.abort()
            membership.close()
            raise
        return NcclCommunicator(nccl, torch, streams, membership, handle)


class _Connecting(threading.Thread):
    """ncclCommInitRank, and the connections between every two ranks: both wait for the other ranks without a limit."""

    def __init__(
        self, nccl: Any, streams: Streams, handle: Handle, membership: Membership, peers: bool, torch: Any
    ) -> None:
        super().__init__(name=f"dagc-nccl-join-{membership.rank}-{membership.group.name}", daemon=True)
        self._nccl = nccl
        self._torch = torch
        self._handle = handle
        self._streams = streams
        self._membership = membership
        self._peers = peers
        self.given_up = False
        self.over = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            # NCCL takes the current device of the thread that calls it.
            self._torch.cuda.set_device(self._streams.device)
            self._handle.connect(lambda: self.given_up)
            if self._peers and not self.given_up:
                self._connect_peers()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for it
            self.error = error
        self.over = True
        self._membership.touch()

    def _connect_peers(self) -> None:
        rank, size = self._membership.rank, self._membership.group.world_size
        made = {"dtype": self._torch.int32, "device": self._torch.device("cuda", self._streams.device)}
        ours, theirs, total = (self._torch.zeros(size, **made) for _ in range(3))
        number = self._nccl.NCCL_INT32

        def meet(comm: Any, stream: int) -> None:
            for peer in range(size):
                if peer != rank:
                    comm.send(ours.data_ptr() + 4 * peer, 1, number, peer, stream)
                    comm.recv(theirs.data_ptr() + 4 * peer, 1, number, peer, stream)

        def add(comm: Any, stream: int) -> None:
            comm.allReduce(ours.data_ptr(), total.data_ptr(), size, number, self._nccl.NCCL_SUM, stream)

        for name, use, tensors, call in (
            (SEND, self._handle.group, (ours, theirs), meet),
            (COLLECTIVE, self._handle.call, (ours, total), add),
        ):
            done = self._streams.launch([name], tensors, _bound(use, call, lambda: self.given_up))
            while not done.query() and not self.given_up:
                time.sleep(0.0005)


def _bound(
    use: Callable[[Callable[[Any], None], Callable[[], bool]], None],
    call: Callable[[Any, int], None],
    given_up: Callable[[], bool],
) -> Callable[[int], None]:
    return lambda stream: use(lambda comm: call(comm, stream), given_up)
