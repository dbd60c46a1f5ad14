"""The plan: what every party does in one execution, as data that prints, parses back and diffs.

It holds no handles, no sockets and no arrays, so that every pass that makes one is tested with strings, and a plan in a
bug report can be replayed.

    plan pipeline: 8 in flight, bind order, 3 parties, 3 channels, 8 ops, 96 KiB of slots

    channels:
      input             driver   ->  Stage_0  shm  8 x 4096
      Stage_0.forward   Stage_0  ->  Stage_1  shm  8 x 4096
      Stage_1.forward   Stage_1  ->  driver   shm  8 x 4096

    driver:
      send input
      recv Stage_1.forward
    ...

After torch.distributed.pipelining (schedules.py), whose actions and schedules are such data too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple, TypeVar

from dagc.errors import GraphError

__all__ = ["HEADS", "Channel", "Group", "Op", "OpKind", "Plan", "Schedule", "grid"]

T = TypeVar("T")

_CHANNEL = re.compile(r"\s*(\S+)\s+(\S+)\s+->\s+([^\s,]+(?:,\s*[^\s,]+)*)\s+(\w+)\s+(\d+)\s*x\s*(\d+)(?:\s+(\S+))?\s*")
#: Messages of a rendezvous whose heads are held: the one that is under way, and the next.
HEADS = 2
#: Rows of a grid around each mark, and how many rows are too few to be worth cutting.
_CONTEXT_ROWS, _WHOLE_ROWS = 4, 24


class OpKind(Enum):
    RECV = "recv"  #: take the next message of a channel
    RUN = "run"  #: make a call of the graph, or several one right after the other
    SEND = "send"  #: publish a value as the next message of a channel
    POST = "post"  #: begin to receive the next message of a rendezvous channel; a later recv waits for it
    JOIN = "join"  #: take part in a collective: it is done when every member of the group has joined


class Op(NamedTuple):
    """One step of a party. `str(op)` and `Op.parse` are inverses."""

    kind: OpKind
    #: RECV, SEND and POST: a channel. JOIN: a group. RUN: a call, or
    #: calls that were fused, with "+" between them.
    target: str

    @property
    def calls(self) -> tuple[str, ...]:
        """The calls that a RUN makes, in order."""
        return tuple(self.target.split("+")) if self.kind is OpKind.RUN else ()

    def __str__(self) -> str:
        return f"{self.kind.value} {self.target}"

    @staticmethod
    def parse(text: str) -> Op:
        """Raises GraphError if `text` is not an op."""
        match = re.fullmatch(r"\s*(recv|run|send|post|join)\s+(\S+)\s*", text)
        if match is None:
            raise GraphError(f"not an op: {text!r}; expected for example 'recv input' or 'run Stage_0.forward'")
        return Op(OpKind(match[1]), match[2])


class Channel(NamedTuple):
    """One writer, one or more readers, each of which gets every message in order. `str` and `parse` are inverses."""

    #: The value that it carries; with "@" and the transport where readers of one value need two channels.
    name: str
    writer: str
    readers: tuple[str, ...]
    #: "local", "shm", or the transport of the communicator that its tensors travel by.
    transport: str
    #: Messages that it holds before its writer waits. 0 is a rendezvous: the send and every recv happen together,
    #: as an unbuffered NCCL send does; only the heads of its messages are held.
    slots: int
    #: Bytes that one slot holds inline.
    buffer_bytes: int
    #: "float32[8,4096]": each message is one such tensor. "@cuda": tensors are on this device at the reader. Or both.
    tensors: str = ""

    @property
    def value(self) -> str:
        """The value that it carries."""
        return self.name.removesuffix(f"@{self.transport}")

    def cells(self) -> tuple[str, ...]:
        """The columns of the plan's table of channels."""
        sizes = f"{self.slots} x {self.buffer_bytes}"
        return self.name, self.writer, "->", ", ".join(self.readers), self.transport, sizes, self.tensors

    def __str__(self) -> str:
        return "  ".join(self.cells()).rstrip()

    @staticmethod
    def parse(text: str) -> Channel:
        """Raises GraphError if `text` is not a line of the table of channels."""
        match = _CHANNEL.fullmatch(text)
        if match is None:
            raise GraphError(
                f"not a channel: {text!r}; expected for example 'input  driver  ->  Stage_0, Stage_1  shm  8 x 4096'"
            )
        readers = tuple(re.split(r",\s*", match[3]))
        return Channel(match[1], match[2], readers, match[4], int(match[5]), int(match[6]), match[7] or "")


class Group(NamedTuple):
    """A collective: its members meet once in each execution. `str` and `parse` are inverses."""

    name: str
    #: As in torch.distributed: "allreduce", "allgather", "reducescatter" or "broadcast".
    kind: str
    #: In the order of their ranks.
    members: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}  {self.kind}  {', '.join(self.members)}"

    @staticmethod
    def parse(text: str) -> Group:
        """Raises GraphError if `text` is not a line of the table of groups."""
        match = re.fullmatch(r"\s*(\S+)\s+(\w+)\s+([^\s,]+(?:,\s*[^\s,]+)*)\s*", text)
        if match is None:
            raise GraphError(f"not a group: {text!r}; expected for example 'sum  allreduce  Rank_0, Rank_1'")
        return Group(match[1], match[2], tuple(re.split(r",\s*", match[3])))


#: Party -> its ops in one execution, in order.
Schedule = Mapping[str, tuple[Op, ...]]


@dataclass(frozen=True)
class Plan:
    """Channels, and what each party does. `Plan.parse(str(plan)) == plan`."""

    #: Of the compiled graph.
    name: str
    channels: tuple[Channel, ...]
    #: The driver first, then the actors in the order of the graph.
    schedule: Schedule
    groups: tuple[Group, ...] = ()
    #: Executions that may be under way at the same time.
    max_inflight: int = 1
    #: "bind": an actor ends one execution before it begins the next. "free": while one waits, it may begin the next.
    order: str = "bind"

    @cached_property
    def by_name(self) -> Mapping[str, Channel]:
        return {channel.name: channel for channel in self.channels}

    @property
    def slot_bytes(self) -> int:
        """What the slots take together; local channels carry references and take nothing."""
        return sum((c.slots or HEADS) * c.buffer_bytes for c in self.channels if c.transport != "local")

    def __str__(self) -> str:
        counts = [
            f"{self.max_inflight} in flight",
            f"{self.order} order",
            _count(len(self.schedule), "party", "parties"),
            _count(len(self.channels), "channel", "channels"),
            _count(sum(map(len, self.schedule.values())), "op", "ops"),
            f"{_bytes(self.slot_bytes)} of slots",
        ]
        lines = [f"plan {self.name}: {', '.join(counts)}", "", "channels:"]
        lines += [f"  {row}" for row in _align([channel.cells() for channel in self.channels])]
        if self.groups:
            lines += ["", "groups:"]
            lines += [f"  {row}" for row in _align([str(group).split("  ") for group in self.groups])]
        for party, ops in self.schedule.items():
            lines += ["", f"{party}:"]
            lines += [f"  {op.kind.value:4} {op.target}" for op in ops]
        return "\n".join(lines) + "\n"

    @staticmethod
    def parse(text: str) -> Plan:
        """The plan that prints as `text`; what the first line counts is not read, nor lines that begin with #.

        Raises GraphError with the number of the line, what was found there and an example of what is expected.
        """
        first: tuple[str, int, str] | None = None
        channels: list[Channel] | None = None
        groups: list[Group] = []
        schedule: dict[str, list[Op]] = {}
        add: Callable[[str], None] | None = None
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                if first is None:
                    first = _parse_first(line)
                elif line[0].isspace():
                    if add is None:
                        raise GraphError(f"{line!r} stands under no heading; expected 'channels:' or a party")
                    add(line)
                else:
                    heading = _parse_heading(line)
                    if channels is None:
                        if heading != "channels":
                            raise GraphError(f"heading {line!r}; expected 'channels:' before the first party")
                        channels = []
                        add = _adder(channels, Channel.parse)
                    elif heading == "groups" and not schedule:
                        add = _adder(groups, Group.parse)
                    elif heading in schedule:
                        raise GraphError(f"party {heading!r} stands twice; expected one list of ops for each")
                    else:
                        add = _adder(schedule.setdefault(heading, []), Op.parse)
            except GraphError as error:
                raise GraphError(f"line {number} of the plan: {error}") from None
        if first is None or channels is None:
            raise GraphError("the plan ends too early; expected 'plan NAME: ...', then 'channels:', then the parties")
        name, max_inflight, order = first
        ops = {party: tuple(found) for party, found in schedule.items()}
        return Plan(name, tuple(channels), ops, tuple(groups), max_inflight, order)


def grid(schedule: Schedule, at: Mapping[str, int] | None = None) -> str:
    """The schedule as a table: a row a step, a column a party.

    `at` is the step at which each party is stuck; its cell is marked, and rows far from every mark are left out.
    """
    at = at or {}
    steps = max(map(len, schedule.values()), default=0)
    shown = list(range(steps))
    if at and steps > _WHOLE_ROWS:
        marks = {min(step, steps - 1) for party, step in at.items() if party in schedule}
        shown = [s for s in shown if any(abs(s - mark) <= _CONTEXT_ROWS for mark in marks)]
    rows = [["step", *schedule]]
    before = -1
    for step in shown:
        if step != before + 1:
            rows.append(["..."])
        before = step
        mark = {party: "  <-- stuck" for party, stuck in at.items() if stuck == step}
        cells = [f"{ops[step]}{mark.get(party, '')}" if step < len(ops) else "" for party, ops in schedule.items()]
        rows.append([str(step), *cells])
    if before != steps - 1:
        rows.append(["..."])
    return "\n".join(_align(rows))


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with columns two spaces apart; a row may have fewer cells than the first."""
    if not rows:
        return []
    widths = [max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def _parse_first(line: str) -> tuple[str, int, str]:
    match = re.match(r"plan (\S+): (\d+) in flight, (bind|free) order(, |$)", line)
    if match is None:
        raise GraphError(
            f"{line!r}; expected the first line to be for example 'plan pipeline: 8 in flight, bind order'"
        )
    return match[1], int(match[2]), match[3]


def _adder(found: list[T], parse: Callable[[str], T]) -> Callable[[str], None]:
    return lambda line: found.append(parse(line))


def _parse_heading(line: str) -> str:
    match = re.fullmatch(r"(\S+):\s*", line)
    if match is None:
        raise GraphError(f"{line!r}; expected a heading, as 'Stage_0:', or an indented line under one")
    return match[1]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
