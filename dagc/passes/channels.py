"""make_channels: one channel a value, however many read it; a value is serialized once, and written once."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

from dagc.passes.edges import TICK
from dagc.plan import Channel

if TYPE_CHECKING:
    from dagc.options import CompileOptions
    from dagc.passes.edges import Edge

__all__ = ["RENDEZVOUS", "TOKEN_BYTES", "make_channels", "slots_for"]

#: Transports that hold no message: a send and its recvs meet.
RENDEZVOUS = frozenset({"nccl"})
#: What a slot of a channel holds that never carries a value: None, or that something failed.
TOKEN_BYTES = 64


def make_channels(
    transports: Mapping[Edge, str], options: CompileOptions, ends: Container[str] = ()
) -> tuple[Channel, ...]:
    """The channels in the order of their values, each named like its value, with a party once among its readers.

    `ends`: values that say only that a call has been made. Each channel has a slot for every execution under way, so
    that no writer ever waits for a reader: that is what makes any order of sends free of deadlocks
    (passes/schedule.py). What of it the plan does not need is taken back by passes/buffers.py.
    """
    slots = slots_for(options.max_inflight)
    by_value: dict[str, list[Edge]] = {}
    for edge in transports:
        by_value.setdefault(edge.value, []).append(edge)
    channels = []
    for value, edges in by_value.items():
        chosen = {transports[edge] for edge in edges}
        # Shared memory reaches readers in the writer's own process too. Two channels for one value would be a second
        # write and a second buffer to spare those readers a copy.
        transport = "shm" if chosen == {"local", "shm"} else chosen.pop()
        readers = tuple(edge.reader for edge in edges)
        size = TOKEN_BYTES if value == TICK or value in ends else options.buffer_bytes
        held = 0 if transport in RENDEZVOUS else slots
        channels.append(Channel(value, edges[0].writer, readers, transport, held, size))
    return tuple(channels)


def slots_for(executions: int) -> int:
    """Slots of a ring that holds a message of so many executions; a ring has a power of two."""
    return 1 << (executions - 1).bit_length()
