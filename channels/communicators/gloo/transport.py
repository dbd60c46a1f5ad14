"""Groups over gloo: how they are made and joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from channels.communicators.base import Transport
from channels.communicators.coordination.coordinator import CoordinatedGroup, Coordinator, check_world_size
from channels.communicators.coordination.interrupts import Stand
from channels.communicators.coordination.membership import Membership
from channels.communicators.coordination.wire import GroupId
from channels.communicators.gloo.communicator import GlooCommunicator, interrupted
from channels.communicators.gloo.links import Links
from channels.communicators.memory import check_timeout

__all__ = ["MAX_WORLD_SIZE", "GlooGroup", "GlooTransport"]

#: Ranks of one group: each has a connection to each.
MAX_WORLD_SIZE = 128
_LOOPBACK = "127.0.0.1"


class GlooGroup(CoordinatedGroup):
    """The creator's handle. Dropping it breaks the group."""


@dataclass(frozen=True)
class GlooTransport(Transport):
    """gloo's connections."""

    name: ClassVar[str] = "gloo"

    #: The address by which the ranks of other machines reach the creator's; None: all ranks are on this machine.
    host: str | None = None

    def create(self, world_size: int, name: str = "group") -> GlooGroup:
        """As Transport.create. Raises OSError if nothing can listen on `host`."""
        check_world_size(world_size, MAX_WORLD_SIZE)
        return GlooGroup(Coordinator(self.name, name, world_size, self.host))

    def join(self, group_id: bytes, rank: int, world_size: int, timeout: float | None = None) -> GlooCommunicator:
        group = GroupId.decode(group_id, self.name)
        group.check(rank, world_size)
        check_timeout(timeout)
        stand = Stand(f"dagc-stand-{rank}-{group.name}")
        membership = Membership(group, rank)

        def connect() -> Links:
            membership.join(timeout)
            return Links(membership, membership.address or _LOOPBACK)

        try:
            links = stand.call(connect, lambda error: membership.break_(interrupted(rank, "join", error)))
            return GlooCommunicator(membership, links, stand)
        except BaseException as error:
            membership.break_(f"rank {rank} could not join: {error}")
            membership.close()
            stand.close()
            raise
