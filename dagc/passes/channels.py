"""make_channels: one channel a value, however many read it; a value is serialized once, and written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dagc.plan import Channel

if TYPE_CHECKING:
    from dagc.options import CompileOptions
    from dagc.passes.edges import Edge

__all__ = ["make_channels"]


def make_channels(transports: Mapping[Edge, str], options: CompileOptions) -> tuple[Channel, ...]:
    """The channels in the order of their values, each named like its value, with a party once among its readers.

    Each has a slot for every execution under way, so that no writer ever waits for a reader: that is what makes any
    order of sends free of deadlocks (passes/schedule.py). The ring wants a power of two.
    """
    slots = 1 << (options.max_inflight - 1).bit_length()
    by_value: dict[str, list[Edge]] = {}
    for edge in transports:
        by_value.setdefault(edge.value, []).append(edge)
    channels = []
    for value, edges in by_value.items():
        # Shared memory reaches readers in the writer's own process too. Two channels for one value would be a second
        # write and a second buffer to spare those readers a copy.
        transport = "local" if all(transports[edge] == "local" for edge in edges) else "shm"
        readers = tuple(edge.reader for edge in edges)
        channels.append(Channel(value, edges[0].writer, readers, transport, slots, options.buffer_bytes))
    return tuple(channels)
