"""NCCL on the fake, for what gives host tensors: the conformance suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from channels.communicators.nccl import NcclGroup, NcclTransport
from tests.fakes_nccl import install
from tests.host_nccl import HostNcclTransport

__all__ = ["FakeNcclTransport"]


@dataclass(frozen=True)
class FakeNcclTransport(HostNcclTransport):
    """The fake is installed where this is used."""

    def create(self, world_size: int, name: str = "group") -> NcclGroup:
        install()
        return super().create(world_size, name)

    def join(self, group_id: bytes, rank: int, world_size: int, timeout: float | None = None) -> Any:
        install()
        if not 0 <= rank < world_size:
            return NcclTransport.join(self, group_id, rank, world_size, timeout)  # which refuses it
        return super().join(group_id, rank, world_size, timeout)
