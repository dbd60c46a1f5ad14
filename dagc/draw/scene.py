"""Scene: everything that is drawn, with its place in pixels. What the SVG and the PNG of a graph have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from dagc.draw.picture import Box, Style, Wire

__all__ = [
    "DETAIL",
    "NAME",
    "NOTE",
    "TITLE",
    "TRANSPORT",
    "Frame",
    "Key",
    "Line",
    "Measure",
    "Paint",
    "Point",
    "Scene",
    "Shape",
    "Text",
]

#: Sizes of type in pixels: a box's name, its detail, transports, the title, what stands under it.
NAME, DETAIL, TRANSPORT, TITLE, NOTE = 13.0, 11.0, 10.5, 15.0, 11.5

#: The width in pixels of a text in type of this size.
Measure = Callable[[str, float], float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Text:
    """One line. `y` is its baseline; `x` its middle, or its left end if it is not `centred`."""

    x: float
    y: float
    size: float
    text: str
    centred: bool = True


class Paint(Enum):
    """The colours of a shape: `theme.py` says which they are, of an actor's for each actor."""

    CALL = "call"
    STRIPE = "stripe"
    DRIVER = "driver"


@dataclass(frozen=True)
class Shape:
    """A rectangle with round corners; `x` and `y` are its left upper corner."""

    x: float
    y: float
    width: float
    height: float
    radius: float
    paint: Paint


@dataclass(frozen=True)
class Frame:
    """A box: its shapes, the first of which is its border, the lines of its name, and its detail if it has one."""

    box: Box
    shapes: tuple[Shape, ...]
    names: tuple[Text, ...]
    detail: Text | None


@dataclass(frozen=True)
class Line:
    """A wire. Between two points of a stroke lies a straight line if one is under the other, else an S with vertical
    ends: the cubic whose control points are halfway down."""

    wire: Wire
    strokes: tuple[tuple[Point, ...], ...]
    #: The tips of its arrow heads; all point down.
    arrows: tuple[Point, ...]
    label: Text | None
    #: It has a border in the colour of the page, which lets it pass over the lines that were drawn before.
    cased: bool


@dataclass(frozen=True)
class Key:
    """An entry of the legend: an actor, by its index, a style of wires, or words alone.

    An actor has shapes as a sample, a style the line from `start` to `end`.
    """

    what: int | Style | None
    start: Point
    end: Point
    shapes: tuple[Shape, ...]
    text: Text


@dataclass(frozen=True)
class Scene:
    width: float
    height: float
    #: The plan's name, and the lines under it.
    title: Text
    notes: tuple[Text, ...]
    keys: tuple[Key, ...]
    frames: tuple[Frame, ...]
    #: In the order in which they are drawn, all before the frames.
    lines: tuple[Line, ...]
