"""The spans of a run as the page carries them: a few bytes each, in JSON that may stand inside a <script>.

A party's spans are one stream of numbers, row by row, and in a row op by op: nanoseconds from the end of the span
before to the begin of this one, then its length, then, for an op that can wait, how much of it was waiting. An actor's
ops follow each other without gaps, so most numbers are small; written as zigzag LEB128 varints (the encoding of
Protocol Buffers) and in base64 a span takes about ten characters, a third of what its numbers take as text.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import numpy as np

from dagc.plan import Op, OpKind, Plan
from dagc.report.tallies import Nanoseconds, Run

__all__ = ["Cut", "cut_of", "embed", "links", "run_data", "varints"]

#: Of executions: the first ones show how the pipeline fills, the last ones how it runs.
FIRST, LAST = 20, 380
#: A page with more spans would be too large to send around.
SPANS = 200_000


class Cut(NamedTuple):
    """Which executions are not on the page."""

    #: The last one before them and the first one behind them.
    after: int
    before: int
    #: How many they are, and how many are on the page before and behind them.
    left_out: int
    first: int
    last: int


def cut_of(run: Run) -> Cut | None:
    """None if all executions fit on a page."""
    ops = sum(len(party.ops) for party in run.parties.values())
    room = max(FIRST, min(FIRST + LAST, SPANS // max(1, ops)))
    total = len(run.executions)
    if total <= room:
        return None
    first = room * FIRST // (FIRST + LAST)
    last = room - first
    return Cut(int(run.executions[first - 1]), int(run.executions[-last]), total - room, first, last)


def run_data(run: Run) -> dict[str, Any]:
    """A run as plain data. Times are nanoseconds from its first span.

    What was left out leaves a short gap: what came after it is moved to the left by `moved`, since at its true place it
    would be a sliver at the end of an empty chart.
    """
    cut = cut_of(run)
    rows = np.arange(len(run.executions))
    origin = min((int(party.begins.min()) for party in run.parties.values() if party.begins.size), default=0)
    shift = np.full((len(rows), 1), origin)
    place = None
    if cut is not None:
        rows = np.concatenate([rows[: cut.first], rows[-cut.last :]])
        parties = [party for party in run.parties.values() if party.begins.size]
        at = max(int(party.ends[: cut.first].max()) for party in parties)
        then = min(int(party.begins[-cut.last :].min()) for party in parties)
        moved = max(0, then - at - (at - origin) // 10)
        place = {"after": cut.after, "before": cut.before, "left_out": cut.left_out, "at": at - origin, "moved": moved}
        shift = origin + np.repeat([0, moved], [cut.first, cut.last])[:, None]
    return {
        "executions": len(run.executions),
        "cut": place,
        "numbers": _base64(varints(np.diff(run.executions[rows], prepend=0))),
        "rows": len(rows),
        "parties": [
            {
                "name": name,
                "ops": [[op.kind.value, op.target, int(_can_wait(op))] for op in party.ops],
                "spans": _base64(
                    varints(_stream(party.ops, party.begins[rows] - shift, party.ends[rows] - shift, waiting[rows]))
                ),
            }
            for (name, party), waiting in zip(run.parties.items(), run.waiting.values(), strict=True)
        ],
    }


def _can_wait(op: Op) -> bool:
    return op.kind in (OpKind.RECV, OpKind.SEND, OpKind.JOIN)


def _stream(ops: tuple[Op, ...], begins: Nanoseconds, ends: Nanoseconds, waiting: Nanoseconds) -> Nanoseconds:
    if not begins.size:
        return begins.ravel()
    before = np.concatenate([[0], ends.ravel()[:-1]]).reshape(begins.shape)
    # (rows, ops, 3), then without the waits of ops that never wait.
    numbers = np.stack([begins - before, ends - begins, waiting], axis=2)
    there = np.ones((len(ops), 3), dtype=bool)
    there[:, 2] = [_can_wait(op) for op in ops]
    return numbers[:, there].ravel()


def varints(numbers: Nanoseconds) -> bytes:
    """Zigzag LEB128: seven bits a byte, the lowest first, the eighth says that more follow.

    For example [0, -1, 1, 64] is 00 01 02 80 01.
    """
    zigzag = ((numbers << 1) ^ (numbers >> 63)).astype(np.uint64)
    lengths = np.ones(len(zigzag), dtype=np.int64)
    for bits in range(7, 64, 7):
        lengths += zigzag >= np.uint64(1 << bits)
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for byte in range(int(lengths.max(initial=0))):
        there = lengths > byte
        low = (zigzag[there] >> np.uint64(7 * byte)) & np.uint64(0x7F)
        more = (lengths[there] > byte + 1).astype(np.uint64) << np.uint64(7)
        out[starts[there] + byte] = low | more
    return out.tobytes()


def links(plan: Plan) -> list[list[Any]]:
    """For the lines that show where an execution goes: each channel, its writer and its readers, by index."""
    at = {party: i for i, party in enumerate(plan.schedule)}
    return [[c.name, at[c.writer], [at[reader] for reader in c.readers]] for c in plan.channels]


def embed(data: Any) -> str:
    """JSON that can stand inside a <script>: nothing in it ends the element or begins a comment."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
