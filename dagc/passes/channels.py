"""make_channels: one channel a value, however many read it: a value is serialized once, and written once.

But for a value whose tensors go by a communicator to some readers and through shared memory to others, as to the
driver: these get a channel each, since the one waits for its readers and the other holds messages for them.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

from dagc.passes.edges import TICK
from dagc.plan import Channel

if TYPE_CHECKING:
    from dagc.options import CompileOptions
    from dagc.passes.edges import Edge
    from runtime.tensor_transport import TensorTransport

__all__ = ["BUFFERED", "TOKEN_BYTES", "make_channels", "slots_for"]

#: Transports that hold messages. By all others, those of communicators, a send and its recvs meet.
BUFFERED = frozenset({"local", "shm"})
#: What a slot of a channel holds that never carries a value: None, or that something failed.
TOKEN_BYTES = 64


def make_channels(
    transports: Mapping[Edge, str],
    options: CompileOptions,
    ends: Container[str] = (),
    said: Mapping[str, TensorTransport] | None = None,
) -> tuple[Channel, ...]:
    """The channels in the order of their values, with a party once among the readers of a value.

    `said`: value -> how its tensors travel. `ends`: values that say only that a call has been made.

    Each buffered channel has a slot for every execution under way, so that no writer ever waits for a reader: that is
    what makes any order of sends free of deadlocks (passes/schedule.py). What of it the plan does not need is taken
    back by passes/buffers.py.
    """
    slots = slots_for(options.max_inflight)
    by_value: dict[str, list[Edge]] = {}
    for edge in transports:
        by_value.setdefault(edge.value, []).append(edge)
    channels = []
    for value, edges in by_value.items():
        # Shared memory reaches readers in the writer's own process too. Another channel would be a second write and a
        # second buffer to spare those readers a copy.
        merged = {"local": "shm"} if any(transports[edge] == "shm" for edge in edges) else {}
        readers: dict[str, list[str]] = {}
        for edge in edges:
            transport = transports[edge]
            readers.setdefault(merged.get(transport, transport), []).append(edge.reader)
        size = TOKEN_BYTES if value == TICK or value in ends else options.buffer_bytes
        # The driver knows its channels by the names of their values, and reads buffered ones.
        named = min(readers, key=lambda transport: transport not in BUFFERED)
        for transport, found in readers.items():
            name = value if transport == named else f"{value}@{transport}"
            held = slots if transport in BUFFERED else 0
            channels.append(Channel(name, edges[0].writer, tuple(found), transport, held, size, _tensors(value, said)))
    return tuple(channels)


def _tensors(value: str, said: Mapping[str, TensorTransport] | None) -> str:
    if said is None or value not in said:
        return ""
    chosen = said[value]
    return f"{chosen.spec or ''}{'' if chosen.device == 'default' else f'@{chosen.device}'}"


def slots_for(executions: int) -> int:
    """Slots of a ring that holds a message of so many executions; a ring has a power of two."""
    return 1 << (executions - 1).bit_length()
