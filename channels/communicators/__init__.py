"""Communicators: tensors between the ranks of a group, without serialization.

    group = transport("shm").create(world_size=2)                 whoever sets up; it delivers group.id
    comm = transport("shm").join(group.id, rank, world_size=2)    in each process that takes part
    total = comm.allreduce(gradient, "sum")                       on every rank
    group.destroy()

The contract is in `channels.communicators.base`; `channels.testing_communicators.check_communicator` checks it on any
implementation. Nothing here knows actors, graphs or engines.
"""

from __future__ import annotations

from channels.communicators.agreed import AgreedTransport
from channels.communicators.base import Communicator, GroupHandle, Transport, Work
from channels.communicators.gloo import GlooTransport
from channels.communicators.nccl import NcclTransport
from channels.communicators.shm import ShmTransport
from channels.communicators.tensors import DTYPES, ReduceOp, Tensor, TensorSpec

__all__ = [
    "DTYPES",
    "AgreedTransport",
    "Communicator",
    "GlooTransport",
    "GroupHandle",
    "NcclTransport",
    "ReduceOp",
    "ShmTransport",
    "Tensor",
    "TensorSpec",
    "Transport",
    "Work",
    "transport",
]

_TRANSPORTS: dict[str, Transport] = {made.name: made for made in (ShmTransport(), GlooTransport(), NcclTransport())}


def transport(name: str) -> Transport:
    """The transport of that name, with its defaults. Raises ValueError if there is none."""
    try:
        return _TRANSPORTS[name]
    except KeyError:
        raise ValueError(f"unknown transport {name!r}; there are: {', '.join(sorted(_TRANSPORTS))}") from None
