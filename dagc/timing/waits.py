"""When the waiting that is in a span was over: what comes after it is the op's own time.

The stamps say when an op began and ended. Whether it waited is seen in another party's stamps:
- a recv for the end of its send, in the writer's trace;
- a send for a free slot: for the last recv of the message that had the slot before;
- of a rendezvous, the send for all readers to be there (at their recv, or at the post of it);
- a join for the last member to join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from dagc.errors import GraphError
from dagc.plan import Channel, OpKind, Plan
from dagc.timing.timeline import PartyTrace

__all__ = ["aligned", "columns_of", "published", "wait_ends"]

Stamps = NDArray[np.int64]


def aligned(parties: Mapping[str, PartyTrace]) -> dict[str, PartyTrace]:
    """The traces with the executions that all of them have, so that a row is the same execution everywhere."""
    common = reduce(np.intersect1d, (trace.executions for trace in parties.values()))
    found = {}
    for party, trace in parties.items():
        rows = np.searchsorted(trace.executions, common)
        found[party] = PartyTrace(
            party, trace.pid, trace.ops, common, trace.begins[rows], trace.ends[rows], trace.cpu[rows]
        )
    return found


def columns_of(trace: PartyTrace, kind: OpKind, target: str) -> list[int]:
    """The columns of a party's ops of this kind on this channel or group, in order."""
    return [i for i, op in enumerate(trace.ops) if op.kind is kind and op.target == target]


def published(trace: PartyTrace, columns: list[int]) -> Stamps:
    """When the messages of these sends could be taken, (rows, sends).

    The message is there a little before the send ends; and a reader that it wakes may take the writer's core, which
    then stamps the end much later. So no later than after the time that this send usually takes.
    """
    begins, ends = trace.begins[:, columns], trace.ends[:, columns]
    usual = np.median(ends - begins, axis=0).astype(np.int64) if len(begins) else 0
    return np.minimum(ends, begins + usual)


def wait_ends(plan: Plan, parties: Mapping[str, PartyTrace]) -> dict[str, Stamps]:
    """Party -> when the waiting in each of its ops was over, in the shape of its `begins`; `parties`: `aligned`.

    It is between the begin and the end of the op, and the begin if it did not wait.
    """
    found = {party: trace.begins.copy() for party, trace in parties.items()}
    places = _places(parties)

    def note(party: str, columns: Iterable[int], over: Stamps) -> None:
        for i, column in enumerate(columns):
            trace = parties[party]
            over_here = np.maximum(trace.begins[:, column], over[:, i])
            found[party][:, column] = np.minimum(over_here, trace.ends[:, column])

    for channel in plan.channels:
        _note_channel(channel, parties, places, note)
    for group in plan.groups:
        columns = {member: places[member, OpKind.JOIN, group.name] for member in group.members}
        joined = np.maximum.reduce([parties[member].begins[:, columns[member]] for member in group.members])
        for member in group.members:
            note(member, columns[member], joined)
    return found


def _places(parties: Mapping[str, PartyTrace]) -> dict[tuple[str, OpKind, str], list[int]]:
    """(party, kind, target) -> `columns_of` it; all at once, for looking them up one by one would be quadratic."""
    places: dict[tuple[str, OpKind, str], list[int]] = {}
    for party, trace in parties.items():
        for i, op in enumerate(trace.ops):
            places.setdefault((party, op.kind, op.target), []).append(i)
    return places


def _note_channel(
    channel: Channel,
    parties: Mapping[str, PartyTrace],
    places: Mapping[tuple[str, OpKind, str], list[int]],
    note: Callable[[str, Iterable[int], Stamps], None],
) -> None:
    writer = parties[channel.writer]
    sends = places.get((channel.writer, OpKind.SEND, channel.name), [])
    recvs = {reader: places.get((reader, OpKind.RECV, channel.name), []) for reader in channel.readers}
    if any(len(columns) != len(sends) for columns in recvs.values()):
        raise GraphError(
            f"channel {channel.name} is sent {len(sends)} times an execution and received otherwise by one of "
            f"{', '.join(channel.readers)}; expected as many times by all"
        )
    if not sends:
        return
    there = published(writer, sends)
    for reader, columns in recvs.items():
        note(reader, columns, there)
    if channel.slots == 0:
        asked = [
            parties[reader].begins[:, places.get((reader, OpKind.POST, channel.name), columns)]
            for reader, columns in recvs.items()
        ]
        note(channel.writer, sends, np.maximum.reduce(asked))
        return
    # Message number i may be written when number i - slots has been taken by everybody: in order, over all executions.
    taken = np.maximum.reduce([parties[reader].ends[:, columns] for reader, columns in recvs.items()]).ravel()
    contiguous = bool(np.all(np.diff(writer.executions) == 1))
    if contiguous and len(taken) > channel.slots:
        freed = np.concatenate([np.full(channel.slots, np.iinfo(np.int64).min), taken[: -channel.slots]])
        note(channel.writer, sends, freed.reshape(-1, len(sends)))
