"""write_png: a picture as PNG, drawn with Pillow (the extra `draw`) in the light theme, two pixels a unit.

Pillow draws lines without smoothing, so everything is drawn twice as large and scaled down, in bands, so that it takes
little more memory than the result. A large graph gets fewer pixels a unit, down to what can just be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dagc.draw.compose import make_scene
from dagc.draw.picture import Picture, Style
from dagc.draw.scene import NAME, Frame, Key, Line, Paint, Point, Scene, Shape, Text
from dagc.draw.theme import BORDER, CASING, DASH, HEAD, LIGHT, WIDTHS
from dagc.errors import GraphError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

__all__ = ["write_png"]

#: The font in a size.
Font = Callable[[float], "FreeTypeFont"]

#: Pixels a unit: usually, and at least.
_SCALE, _LEAST_SCALE = 2.0, 0.5
#: How much larger everything is drawn.
_SMOOTH = 2
#: Of the result: pixels, and pixels on a side, beyond which viewers give up.
_MOST_PIXELS, _LONGEST_SIDE = 40_000_000, 30_000
#: Pixels of a band as it is drawn.
_BAND = 16_000_000
#: Straight pieces that a curve is drawn with.
_PIECES = 24


def write_png(picture: Picture, path: Path) -> None:
    """Draw a picture to a file.

    Raises GraphError if Pillow is not installed, or is without FreeType, and if the graph is too large.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont

        @cache
        def font(size: float) -> FreeTypeFont:
            return cast("FreeTypeFont", ImageFont.load_default(size=size))

        font(NAME)
    except (ImportError, TypeError) as error:  # TypeError: before Pillow 10.1 it had no default font of any size
        raise GraphError(
            f"a .png is drawn with Pillow 10.1 or later, which is not here ({error}): pip install 'dagc[draw]', or "
            "draw to a name in .svg or .dot, which need nothing"
        ) from None
    scene = make_scene(picture, lambda text, size: font(size).getlength(text))
    side = max(scene.width, scene.height)
    scale = min(_SCALE, math.sqrt(_MOST_PIXELS / (scene.width * scene.height)), _LONGEST_SIDE / side)
    if scale < _LEAST_SCALE:
        raise GraphError(
            f"the drawing of graph {picture.title} is {scene.width:.0f} x {scene.height:.0f} units large, which is too "
            "much for a .png that can be read; draw to a name in .svg"
        )
    width, height = math.ceil(scene.width * scale), math.ceil(scene.height * scale)
    image = Image.new("RGB", (width, height), LIGHT.page)
    rows = max(1, _BAND // (width * _SMOOTH**2))
    for top in range(0, height, rows):
        band = Image.new("RGB", (width * _SMOOTH, min(rows, height - top) * _SMOOTH), LIGHT.page)
        pen = _Pen(ImageDraw.Draw(band), font, scale * _SMOOTH, top * _SMOOTH, band.height)
        pen.draw(scene)
        image.paste(band.reduce(_SMOOTH), (0, top))
    image.save(path, "PNG")


class _Pen:
    """Draws a band of the scene, of `height` rows from the row `top` on."""

    def __init__(self, draw: ImageDraw, font: Font, scale: float, top: int, height: int) -> None:
        self._draw = draw
        self._font = font
        self._scale = scale
        self._first = top
        #: The edges of the band in units, as everything is that the methods are given.
        self._top, self._bottom = top / scale, (top + height) / scale

    def draw(self, scene: Scene) -> None:
        self._text(scene.title, LIGHT.text)
        for note in scene.notes:
            self._text(note, LIGHT.muted)
        for key in scene.keys:
            self._key(key)
        for line in scene.lines:
            self._line(line)
        for frame in scene.frames:
            self._frame(frame)

    def _line(self, line: Line) -> None:
        ends = [y for stroke in line.strokes for _, y in (stroke[0], stroke[-1])]
        if max(ends) < self._top - CASING or min(ends) > self._bottom + CASING:
            return
        paths = [list(_points(stroke)) for stroke in line.strokes]
        if line.cased:
            for path in paths:
                self._path(path, LIGHT.page, CASING)
        for path in paths:
            for part in _dashes(path) if line.wire.style is Style.ORDER else [path]:
                self._path(part, LIGHT.wire, WIDTHS[line.wire.style])
        for x, y in line.arrows:
            self._draw.polygon(
                self._places([(x, y), (x - HEAD / 2, y - HEAD), (x + HEAD / 2, y - HEAD)]), fill=LIGHT.wire
            )
        if line.label is not None:
            self._text(line.label, LIGHT.muted)

    def _frame(self, frame: Frame) -> None:
        border = frame.shapes[0]
        if border.y + border.height < self._top or border.y > self._bottom:
            return
        for shape in frame.shapes:
            self._shape(shape, frame.box.actor)
        for name in frame.names:
            self._text(name, LIGHT.text)
        if frame.detail is not None:
            self._text(frame.detail, LIGHT.muted)

    def _key(self, key: Key) -> None:
        if isinstance(key.what, Style):
            path = [key.start, key.end]
            for part in _dashes(path) if key.what is Style.ORDER else [path]:
                self._path(part, LIGHT.wire, WIDTHS[key.what])
        for shape in key.shapes:
            self._shape(shape, key.what if isinstance(key.what, int) else None)
        self._text(key.text, LIGHT.text if isinstance(key.what, int) else LIGHT.muted)

    def _text(self, text: Text, colour: str) -> None:
        if text.y + text.size < self._top or text.y - text.size > self._bottom:
            return
        place = self._places([(text.x, text.y)])[0]
        font = self._font(text.size * self._scale)
        self._draw.text(place, text.text, fill=colour, font=font, anchor="ms" if text.centred else "ls")

    def _shape(self, shape: Shape, actor: int | None) -> None:
        border = LIGHT.driver if actor is None else LIGHT.border(actor)
        inside = LIGHT.page if actor is None else LIGHT.fill(actor)
        corners = self._places([(shape.x, shape.y), (shape.x + shape.width, shape.y + shape.height)])
        stripe = shape.paint is Paint.STRIPE
        self._draw.rounded_rectangle(
            corners,
            shape.radius * self._scale,
            border if stripe else inside,
            border,
            0 if stripe else self._pixels(BORDER),
        )

    def _path(self, path: Sequence[Point], colour: str, width: float) -> None:
        self._draw.line(self._places(path), colour, self._pixels(width), joint="curve")

    def _places(self, points: Sequence[Point]) -> list[Point]:
        # Rounded before they are moved: Pillow would round what is above the band in another direction.
        return [(round(x * self._scale), round(y * self._scale) - self._first) for x, y in points]

    def _pixels(self, units: float) -> int:
        return max(1, round(units * self._scale))


def _points(stroke: Sequence[Point]) -> Iterator[Point]:
    """The stroke as straight pieces; see `Line` for the curves."""
    yield stroke[0]
    for (x, y), (to_x, to_y) in pairwise(stroke):
        if x != to_x:
            for i in range(1, _PIECES):
                t = i / _PIECES
                # A cubic whose middle control points are halfway down: this is it in x, and in y.
                share = t * t * (3 - 2 * t)
                down = 1.5 * t * (1 - t) + t**3
                yield x + (to_x - x) * share, y + (to_y - y) * down
        yield to_x, to_y


def _dashes(path: Sequence[Point]) -> Iterator[list[Point]]:
    """The parts of a path of straight pieces that are drawn when it is dashed."""
    dash, space = DASH
    part: list[Point] = [path[0]]
    down, left = True, dash
    for (x, y), (to_x, to_y) in pairwise(path):
        length = math.hypot(to_x - x, to_y - y)
        gone = 0.0
        while length - gone > left:
            gone += left
            point = (x + (to_x - x) * gone / length, y + (to_y - y) * gone / length)
            if down:
                yield [*part, point]
            part = [point]
            down, left = not down, space if down else dash
        left -= length - gone
        part.append((to_x, to_y))
    if down and len(part) > 1:
        yield part
