"""picture_of: what a drawing of a compiled graph shows, before anybody knows where it goes on the paper.

A box is an input, a call or the output. A wire is one value on its way from the box that makes it to all the boxes that
use it, as a channel has one writer and many readers. A Pick is not a box but a wire of its own, `[0]`; a Done is a
dashed wire.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from dagc.containers import leaves
from dagc.graph import DRIVER, Call, Collective, Done, Graph, Input, Node, Output, Pick, Value
from dagc.passes.edges import TICK
from dagc.plan import Channel, Plan

__all__ = ["Box", "BoxKind", "Picture", "Style", "Wire", "picture_of", "shorten"]

#: Characters. A call's name that is longer is written on two lines, and a line is never longer than _LINE.
_NAME, _LINE, _DETAIL = 28, 40, 30


class BoxKind(Enum):
    INPUT = "input"  #: of the driver: an argument of execute, or the tick
    CALL = "call"
    OUTPUT = "output"  #: of the driver
    OTHER = "other"  #: a kind of node that is none of these


class Style(Enum):
    """How a value goes; the legend says it with these words."""

    CROSS = "to another process"
    NEAR = "by reference"
    ORDER = "order, no data"


@dataclass(frozen=True)
class Box:
    name: str
    kind: BoxKind
    #: Its name, on one line or two.
    names: tuple[str, ...]
    #: A line in smaller type, or "": who makes the call if the name does not say it, and its constants.
    detail: str
    #: What the graph says about it, in one line.
    about: str
    #: Who makes the call, as an index into `Picture.actors`; None for the driver.
    actor: int | None = None


@dataclass(frozen=True)
class Wire:
    """`source` and `targets` are indices into `Picture.boxes`; the source comes before each target."""

    value: str
    source: int
    targets: tuple[int, ...]
    style: Style
    #: The transport, after `[i]` if the value is one of several; "" for a value that stays with its actor.
    label: str
    #: The channel, or why there is none, in one line.
    about: str


@dataclass(frozen=True)
class Picture:
    #: The plan's first line, in two parts.
    title: str
    subtitle: str
    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    #: The names of those who make calls, in the order of their first call.
    actors: tuple[str, ...]

    @property
    def styles(self) -> tuple[Style, ...]:
        """Those that occur, in their own order."""
        found = {wire.style for wire in self.wires}
        return tuple(style for style in Style if style in found)


class _Origin(NamedTuple):
    """Where a value comes from."""

    box: int
    party: str
    #: Its index among the values of a call that returns several.
    pick: int | None


def picture_of(graph: Graph, plan: Plan) -> Picture:
    """The picture of a verified graph and of the plan that was made of it."""
    title, _, subtitle = str(plan).partition("\n")[0].removeprefix("plan ").partition(": ")
    actors = {name: i for i, name in enumerate(dict.fromkeys(step.actor for step in graph.steps))}
    boxes: list[Box] = []
    origins: dict[str, _Origin] = {}
    wires = _Wires(plan)
    tick = plan.by_name.get(TICK)
    if tick is not None:
        about = f"{TICK} = sent to actors whose first call receives nothing; it begins their execution"
        boxes.append(Box(TICK, BoxKind.INPUT, (TICK,), "", about))
    begun: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, (Pick, Done)):
            origins[node.name] = origins[node.call]._replace(pick=node.index if isinstance(node, Pick) else None)
            continue
        box = _box(node, actors)
        party = node.actor if isinstance(node, (Call, Collective)) else DRIVER
        boxes.append(box)
        here = len(boxes) - 1
        origins[node.name] = _Origin(here, party, None)
        for use in node.uses:
            wires.add(use, origins[use], here, party, order_only=isinstance(graph.by_name[use], Done))
        if tick is not None and party in tick.readers and party not in begun:
            wires.add(TICK, _Origin(0, DRIVER, None), here, party, order_only=True)
        begun.add(party)
    return Picture(title, subtitle, tuple(boxes), wires.found(), tuple(actors))


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters: what is left out is left out of the middle, since names differ at both ends."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}\u2026{text[-tail:]}"


class _Way(NamedTuple):
    """What the uses of a value have in common that are one wire."""

    value: str
    style: Style
    #: It stays with the actor that made it, though the value may have a channel for others.
    stays: bool


class _Wires:
    """Uses of values, gathered to wires."""

    def __init__(self, plan: Plan) -> None:
        self._channels = plan.by_name
        self._targets: dict[_Way, list[int]] = {}
        self._origins: dict[str, _Origin] = {}

    def add(self, value: str, origin: _Origin, target: int, party: str, *, order_only: bool) -> None:
        channel = self._channels.get(value)
        stays = party == origin.party
        if order_only:
            style = Style.ORDER
        elif stays or (channel is not None and channel.transport == "local"):
            style = Style.NEAR
        else:
            style = Style.CROSS
        self._origins[value] = origin
        self._targets.setdefault(_Way(value, style, stays), []).append(target)

    def found(self) -> tuple[Wire, ...]:
        wires = []
        for way, targets in self._targets.items():
            origin = self._origins[way.value]
            channel = None if way.stays else self._channels.get(way.value)
            parts = ["" if origin.pick is None else f"[{origin.pick}]", "" if channel is None else channel.transport]
            label, about = " ".join(filter(None, parts)), _about(way, origin, channel)
            wires.append(Wire(way.value, origin.box, tuple(targets), way.style, label, about))
        return tuple(wires)


def _about(way: _Way, origin: _Origin, channel: Channel | None) -> str:
    what = f"{way.value} ({Style.ORDER.value})" if way.style is Style.ORDER else way.value
    if way.stays:
        return f"{what}: {Style.NEAR.value}, within {origin.party}"
    if channel is None:
        return f"{what}: from {origin.party}, without a channel"
    sizes = f"{channel.transport}, {channel.slots} x {channel.buffer_bytes} bytes"
    return f"{what}: {channel.writer} -> {', '.join(channel.readers)}, {sizes}"


def _box(node: Node, actors: dict[str, int]) -> Box:
    about = f"{node.name} = {node}"
    if isinstance(node, Call):
        where = "" if node.name.startswith(f"{node.actor}.{node.method}") else f"{node.actor}.{node.method}"
        detail = " ".join(filter(None, [where, _constants(node)]))
        lines = _name_lines(node.name, node.actor)
        return Box(node.name, BoxKind.CALL, lines, shorten(detail, _DETAIL), about, actors[node.actor])
    if isinstance(node, Collective):
        lines = _name_lines(node.name, node.actor)
        detail = shorten(f"rank {node.rank} of {node.group}", _DETAIL)
        return Box(node.name, BoxKind.CALL, lines, detail, about, actors[node.actor])
    if isinstance(node, Input):
        return Box(node.name, BoxKind.INPUT, (shorten(node.name, _LINE),), "", about)
    if isinstance(node, Output):
        return Box(node.name, BoxKind.OUTPUT, (shorten(node.name, _LINE),), "", about)
    return Box(node.name, BoxKind.OTHER, (shorten(node.name, _LINE),), type(node).__name__, about)


def _name_lines(name: str, actor: str) -> tuple[str, ...]:
    if len(name) <= _NAME or not name.startswith(f"{actor}."):
        return (shorten(name, _LINE),)
    return shorten(f"{actor}.", _LINE), shorten(name[len(actor) + 1 :], _LINE)


def _constants(call: Call) -> str:
    """The arguments that hold no value of the graph, as the graph prints them; values are wires already."""

    def constant(argument: object) -> bool:
        return not any(isinstance(leaf, Value) for leaf in leaves(argument))

    args = tuple(arg for arg in call.args if constant(arg))
    kwargs = {key: arg for key, arg in call.kwargs.items() if constant(arg)}
    if not args and not kwargs:
        return ""
    printed = str(dataclasses.replace(call, args=args, kwargs=kwargs, after=()))
    return printed[printed.index("(") :]
