"""make_scene: a picture with a place for everything.

Between two ranks of boxes lies, from above: a strip in which every wire goes straight down, with its transport written
beside it; a strip of curves; a strip in which the wires go straight down again, to arrow heads. Through a rank a wire
goes straight down in a column of its own. So no wire can run through a box or through the text of another, whatever the
graph is; only what lay_out left without bends goes behind boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from dagc.draw.heading import make_heading
from dagc.draw.layers import Layout, Net, lay_out
from dagc.draw.picture import Box, BoxKind, Picture, Style
from dagc.draw.scene import DETAIL, NAME, TRANSPORT, Frame, Line, Measure, Point, Scene, Text
from dagc.draw.shapes import box_shapes

__all__ = ["make_scene"]

#: From the edge of the paper, and from the border of a box to its text.
_MARGIN, _PADDING = 24.0, 14.0
#: The room of the stripes on the left of a call.
_STRIPES = 8.0
#: Widths of boxes are multiples of this: names of nearly the same length give boxes of the same width.
_STEP = 16.0
#: A call that needs more than this, in widths of a usual one, does not make the others wider.
_EVEN = 1.3
_LEADING, _DETAIL_LEADING, _DRIVER_PADDING, _CALL_PADDING = 17.0, 15.0, 6.0, 9.0
#: The strips between two ranks. The first has two heights, with transports and without; the second grows with the width
#: of its curves, so that wide ones do not lie flat.
_TRUNK, _BARE_TRUNK, _ENTRY = 20.0, 8.0, 14.0
_CURVES, _MOST_CURVES, _STEEPNESS = 34.0, 120.0, 0.09
#: From a wire to its transport, from there to the next wire, between wires without, and between those that enter a box.
_NEAR, _APART, _PORT, _ENTRY_GAP = 6.0, 10.0, 14.0, 14.0
#: Values of one box whose transports are written; with more of them only the hover says it.
_MOST_LABELS = 6
#: Wires into one box for which it is made wider.
_MOST_ENTRIES = 40
#: A stroke ends this far above its arrow head's tip.
_HEAD = 6.0
#: The narrowest paper: room for the heading.
_NARROWEST = 420.0
#: What has less weight lies below.
_WEIGHT = {Style.ORDER: 0, Style.NEAR: 1, Style.CROSS: 2}


def make_scene(picture: Picture, measure: Measure) -> Scene:
    """The drawing of a picture, in type that `measure` knows. The picture has at least one box."""
    outlets = _find_outlets(picture, measure)
    entering = [0] * len(picture.boxes)
    for wire in picture.wires:
        for target in wire.targets:
            entering[target] += 1
    widths = _evened(picture, [_width(*f, measure) for f in zip(picture.boxes, outlets, entering, strict=True)])
    layout = lay_out(widths, [Net(wire.source, wire.targets) for wire in picture.wires])
    drawn = max(x + width / 2 for x, width in zip_longest(layout.xs, widths, fillvalue=0.0))
    width = max(drawn + 2 * _MARGIN, _NARROWEST)
    heading = make_heading(picture, measure, _MARGIN, _MARGIN, width - 2 * _MARGIN)
    drawing = _Drawing(picture, layout, outlets, widths, left=(width - drawn) / 2, top=heading.bottom + _MARGIN)
    lines = [drawing.line(i, first=first) for i, first in _drawing_order(picture)]
    frames = tuple(map(drawing.frame, range(len(picture.boxes))))
    height = drawing.bottom + _MARGIN
    return Scene(width, height, heading.title, heading.notes, heading.keys, frames, tuple(lines))


class _Outlet(NamedTuple):
    """Where a value leaves its box: all its wires begin there, whatever their style."""

    label: str
    #: On the right of the wire.
    room: float


def _drawing_order(picture: Picture) -> list[tuple[int, bool]]:
    """The wires, and whether each is the first of its value: the heaviest one, which has the casing and the label."""
    by_value: dict[str, list[int]] = {}
    for i, wire in enumerate(picture.wires):
        by_value.setdefault(wire.value, []).append(i)

    def weight(i: int) -> int:
        return _WEIGHT[picture.wires[i].style]

    groups = [sorted(group, key=weight, reverse=True) for group in by_value.values()]
    return [(i, i == group[0]) for group in sorted(groups, key=lambda group: weight(group[0])) for i in group]


def _find_outlets(picture: Picture, measure: Measure) -> list[dict[str, _Outlet]]:
    """For each box its values, in the order of the graph."""
    labels: list[dict[str, str]] = [{} for _ in picture.boxes]
    for wire in picture.wires:
        known = labels[wire.source].get(wire.value, "")
        labels[wire.source][wire.value] = max(known, wire.label, key=len)  # one that stays has no transport
    outlets = []
    for found in labels:
        shown = found if len(found) <= _MOST_LABELS else dict.fromkeys(found, "")
        rooms = {label: _NEAR + measure(label, TRANSPORT) + _APART if label else _PORT for label in shown.values()}
        outlets.append({value: _Outlet(label, rooms[label]) for value, label in shown.items()})
    return outlets


def _width(box: Box, outlets: dict[str, _Outlet], entering: int, measure: Measure) -> float:
    text = max(*(measure(line, NAME) for line in box.names), measure(box.detail, DETAIL))
    rooms = [outlet.room for outlet in outlets.values()]
    needed = [
        text + 2 * _PADDING + (_STRIPES if box.kind is BoxKind.CALL else 0),
        # The last label must not be wider than the half of the box that it stands under.
        sum(rooms[:-1]) + 2 * max(rooms[-1:], default=0.0),
        (min(entering, _MOST_ENTRIES) + 1) * _ENTRY_GAP,
    ]
    return -(-max(needed) // _STEP) * _STEP


def _evened(picture: Picture, widths: list[float]) -> list[float]:
    """The calls' boxes all of one width but for those that need much more: rows and columns are then even."""
    calls = [box.kind is BoxKind.CALL for box in picture.boxes]
    found = sorted(width for width, call in zip(widths, calls, strict=True) if call)
    if not found:
        return widths
    common = max(width for width in found if width <= _EVEN * found[len(found) // 2])
    return [max(width, common) if call else width for width, call in zip(widths, calls, strict=True)]


def _height(box: Box) -> float:
    padding = _CALL_PADDING if box.kind is BoxKind.CALL else _DRIVER_PADDING
    return len(box.names) * _LEADING + (_DETAIL_LEADING if box.detail else 0) + 2 * padding


class _Drawing:
    """First all that is horizontal, then the strips, whose heights depend on it; then lines and frames are read off."""

    def __init__(
        self,
        picture: Picture,
        layout: Layout,
        outlets: Sequence[dict[str, _Outlet]],
        widths: Sequence[float],
        *,
        left: float,
        top: float,
    ) -> None:
        self._picture = picture
        self._layout = layout
        self._outlets = outlets
        self._widths = widths
        self._heights = [_height(box) for box in picture.boxes]
        self._xs = [left + x for x in layout.xs]
        #: Value -> where it leaves its box.
        self._ports: dict[str, float] = {}
        #: (wire, target) -> where it enters the target.
        self._entries: dict[tuple[int, int], float] = {}
        self._place_ports()
        self._place_entries()
        #: Rank -> the upper and the lower edge of its boxes, and where the curves below it begin and end.
        self._rows: list[tuple[float, float, float, float]] = []
        self._place_rows(top)
        self.bottom = self._rows[-1][1]

    def frame(self, i: int) -> Frame:
        box, width, height = self._picture.boxes[i], self._widths[i], self._heights[i]
        top, bottom, _, _ = self._rows[self._layout.ranks[i]]
        middle = (top + bottom) / 2
        x = self._xs[i] + (_STRIPES / 2 if box.kind is BoxKind.CALL else 0)
        lines = len(box.names) * _LEADING + (_DETAIL_LEADING if box.detail else 0)
        y = middle - lines / 2
        names = []
        for name in box.names:
            names.append(Text(x, y + _LEADING / 2 + NAME * 0.36, NAME, name))
            y += _LEADING
        detail = Text(x, y + _DETAIL_LEADING / 2 + DETAIL * 0.36, DETAIL, box.detail) if box.detail else None
        shapes = box_shapes(box, self._xs[i] - width / 2, middle - height / 2, width, height)
        return Frame(box, shapes, tuple(names), detail)

    def line(self, i: int, *, first: bool) -> Line:
        """The wire's tree of pieces as strokes: one from the box on, and one from each branch."""
        wire = self._picture.wires[i]
        outlet = self._outlets[wire.source][wire.value]
        start = (self._ports[wire.value], self._edge(wire.source, lower=True))
        label = None
        if first and outlet.label:
            label = Text(start[0] + _NEAR, start[1] + 13, TRANSPORT, outlet.label, centred=False)
        strokes: list[tuple[Point, ...]] = []
        lower: dict[int, list[int]] = {}
        for a, b in self._pieces(i):
            lower.setdefault(a, []).append(b)
        waiting: list[tuple[int, list[Point]]] = [(wire.source, [start])]
        while waiting:
            vertex, stroke = waiting.pop()
            branch = (stroke[-1][0], self._rows[self._layout.ranks[vertex]][2])
            stroke.append(branch)
            for end in lower[vertex]:
                x = self._entries.get((i, end), self._xs[end])
                stroke.append((x, self._rows[self._layout.ranks[end] - 1][3]))
                if end in lower:
                    waiting.append((end, stroke))
                else:
                    strokes.append((*stroke, (x, self._edge(end, lower=False) - _HEAD)))
                stroke = [branch]
        arrows = [(self._entries[i, target], self._edge(target, lower=False)) for target in wire.targets]
        return Line(wire, tuple(strokes), tuple(arrows), label, cased=first)

    def _edge(self, box: int, *, lower: bool) -> float:
        top, bottom, _, _ = self._rows[self._layout.ranks[box]]
        return (top + bottom) / 2 + self._heights[box] / (2 if lower else -2)

    def _pieces(self, i: int) -> Sequence[tuple[int, int]]:
        """Of a wire; one without bends counts as if its targets were one rank below."""
        wire = self._picture.wires[i]
        found = self._layout.pieces[i]
        return found if found is not None else [(wire.source, target) for target in wire.targets]

    def _place_ports(self) -> None:
        """Values leave their box in the order of the places that they go to."""
        goals: dict[str, list[float]] = {}
        for i, wire in enumerate(self._picture.wires):
            goals.setdefault(wire.value, []).extend(self._xs[b] for a, b in self._pieces(i) if a == wire.source)
        for box, outlets in enumerate(self._outlets):
            means = {value: sum(goals[value]) / len(goals[value]) for value in outlets}
            values = sorted(outlets, key=means.__getitem__)
            rooms = [outlets[value].room for value in values]
            places = self._spread(box, [means[value] for value in values], rooms[:-1], max(rooms[-1:], default=0))
            self._ports.update(zip(values, places, strict=True))

    def _place_entries(self) -> None:
        """Wires enter a box in the order of the places that they come from."""
        origins: list[list[tuple[float, int]]] = [[] for _ in self._picture.boxes]
        for i, wire in enumerate(self._picture.wires):
            for a, b in self._pieces(i):
                if b < len(origins):
                    origins[b].append((self._ports[wire.value] if a == wire.source else self._xs[a], i))
        for box, found in enumerate(origins):
            found.sort()
            gap = min(_ENTRY_GAP, (self._widths[box] - 2 * _ENTRY_GAP) / max(len(found) - 1, 1))
            places = self._spread(box, [x for x, _ in found], [gap] * (len(found) - 1), _ENTRY_GAP)
            self._entries.update(zip([(i, box) for _, i in found], places, strict=True))

    def _spread(self, box: int, goals: Sequence[float], gaps: Sequence[float], last: float) -> list[float]:
        """Places along an edge of a box, with these gaps: around its middle, but one whose goal is straight above or
        below the middle stays straight. `last` is the room that the last one needs on its right."""
        if not goals:
            return []
        places = [0.0]
        for gap in gaps:
            places.append(places[-1] + gap)
        centre, half = self._xs[box], self._widths[box] / 2
        straight = [place for place, goal in zip(places, goals, strict=True) if abs(goal - centre) < 1]
        first = centre - (straight[0] if straight else places[-1] / 2)
        first = max(min(first, centre + half - places[-1] - last), centre - half + _ENTRY_GAP)
        return [first + place for place in places]

    def _place_rows(self, top: float) -> None:
        ranks = self._layout.ranks
        count = max(ranks) + 1
        heights, trunks, widest = [0.0] * count, [_BARE_TRUNK] * count, [0.0] * count
        for box, height in enumerate(self._heights):
            heights[ranks[box]] = max(heights[ranks[box]], height)
            if any(outlet.label for outlet in self._outlets[box].values()):
                trunks[ranks[box]] = _TRUNK
        for i, wire in enumerate(self._picture.wires):
            for a, b in self._pieces(i):
                start = self._ports[wire.value] if a == wire.source else self._xs[a]
                width = abs(self._entries.get((i, b), self._xs[b]) - start)
                widest[ranks[a]] = max(widest[ranks[a]], width)
        for rank in range(count):
            bottom = top + heights[rank]
            curves = bottom + trunks[rank]
            end = curves + min(_CURVES + _STEEPNESS * widest[rank], _MOST_CURVES)
            self._rows.append((top, bottom, curves, end))
            top = end + _ENTRY
