"""svg_of: a picture as SVG, a file of its own or an element of an HTML page.

It has no ids, all its classes begin with the class of its root, and so do the rules of its style sheet: nothing leaks
into the page, and little of the page into it. The colours are written out twice, light and dark, and not as CSS
variables, which editors of SVG do not know.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from dagc.draw.compose import make_scene
from dagc.draw.picture import Picture, Style
from dagc.draw.scene import Frame, Key, Line, Paint, Point, Scene, Shape, Text
from dagc.draw.theme import BORDER, CASING, DARK, DASH, HEAD, HUES, LIGHT, WIDTHS, Theme
from dagc.errors import GraphError

__all__ = ["svg_of"]

#: Characters of all of these are 0.6 of the size wide, or a little less: text fits its box whichever the reader has.
_FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
_ADVANCE = 0.605
#: What XML 1.0 does not allow, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def svg_of(picture: Picture, prefix: str) -> str:
    """A picture as an `svg` element, which is also a whole file. `prefix` is the class of its root.

    Raises GraphError for a prefix that is not a name in CSS.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", prefix):
        raise GraphError(f"the prefix of a drawing is {prefix!r}; expected a letter, then letters, digits, - and _")
    writer = _Writer(prefix)
    return "\n".join(writer.elements(picture, make_scene(picture, _measure))) + "\n"


def _measure(text: str, size: float) -> float:
    wide = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return wide * size * _ADVANCE


class _Writer:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def elements(self, picture: Picture, scene: Scene) -> Iterator[str]:
        width, height = _number(scene.width), _number(scene.height)
        label = quoteattr(_clean(f"{picture.title}: {picture.subtitle}"))
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="{self._prefix}" role="img" aria-label={label} '
            f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        )
        yield f"<style>{''.join(self._rules(len(picture.actors)))}</style>"
        yield f'<rect{self._class("page")} width="{width}" height="{height}"/>'
        yield self._text(scene.title, "title")
        for note in scene.notes:
            yield self._text(note, "muted")
        for key in scene.keys:
            yield from self._key(key)
        for line in scene.lines:
            yield from self._line(line)
        for frame in scene.frames:
            yield from self._frame(frame)
        yield "</svg>"

    def _class(self, *kinds: str) -> str:
        return f' class="{" ".join(f"{self._prefix}-{kind}" for kind in kinds if kind)}"'

    def _rules(self, actors: int) -> Iterator[str]:
        root = f".{self._prefix}"
        yield f"{root}{{font-family:{_FONTS};max-width:100%;height:auto}}"
        yield f"{root}-title,{root}-name{{font-weight:600}}{root}-mid{{text-anchor:middle}}"
        yield f"{root} path{{fill:none;stroke-linejoin:round}}"
        # What the mouse must touch is wider than what is seen.
        yield f"{root}-casing,{root}-reach{{stroke-width:{CASING};pointer-events:stroke}}"
        for style, width in WIDTHS.items():
            yield f"{root}-{_kind(style)} {root}-ink{{stroke-width:{width}}}"
        yield f"{root}-{_kind(Style.ORDER)} {root}-ink{{stroke-dasharray:{' '.join(map(_number, DASH))}}}"
        yield f"{root}-{Paint.DRIVER.value},{root}-{Paint.CALL.value}{{stroke-width:{BORDER}}}"
        yield from self._colours(LIGHT, actors)
        yield f"@media (prefers-color-scheme:dark){{{''.join(self._colours(DARK, actors))}}}"

    def _colours(self, theme: Theme, actors: int) -> Iterator[str]:
        root = f".{self._prefix}"
        yield f"{root}-page{{fill:{theme.page}}}{root}-casing{{stroke:{theme.page}}}"
        yield f"{root} text{{fill:{theme.text}}}{root} {root}-muted{{fill:{theme.muted}}}"
        yield f"{root} {root}-ink{{stroke:{theme.wire}}}{root} {root}-head{{fill:{theme.wire}}}"
        hover = f"{root} {root}-wire:hover {root}"
        yield f"{hover}-ink{{stroke:{theme.text}}}{hover}-head{{fill:{theme.text}}}"
        yield f"{root}-driver{{fill:{theme.page};stroke:{theme.driver}}}"
        for actor in range(min(actors, len(HUES))):
            inside, border = theme.fill(actor), theme.border(actor)
            of_actor = f"{root}-a{actor} {root}"
            yield f"{of_actor}-call{{fill:{inside};stroke:{border}}}{of_actor}-stripe{{fill:{border}}}"

    def _line(self, line: Line) -> Iterator[str]:
        path = "".join(map(_stroke, line.strokes))
        heads = "".join(
            f"M{_number(x)} {_number(y)}l{_number(-HEAD / 2)} {_number(-HEAD)}h{_number(HEAD)}z" for x, y in line.arrows
        )
        yield f"<g{self._class('wire', _kind(line.wire.style))}><title>{_escaped(line.wire.about)}</title>"
        yield f'<path{self._class("casing" if line.cased else "reach")} d="{path}"/>'
        yield f'<path{self._class("ink")} d="{path}"/><path{self._class("head")} d="{heads}"/>'
        if line.label is not None:
            yield self._text(line.label, "muted")
        yield "</g>"

    def _frame(self, frame: Frame) -> Iterator[str]:
        actor = frame.box.actor
        yield "<g>" if actor is None else f"<g{self._class(_actor(actor))}>"
        yield f"<title>{_escaped(frame.box.about)}</title>{self._shapes(frame.shapes)}"
        for name in frame.names:
            yield self._text(name, "name")
        if frame.detail is not None:
            yield self._text(frame.detail, "muted")
        yield "</g>"

    def _key(self, key: Key) -> Iterator[str]:
        if isinstance(key.what, Style):
            ink = f'<path{self._class("ink")} d="{_stroke((key.start, key.end))}"/>'
            yield f"<g{self._class(_kind(key.what))}>{ink}{self._text(key.text, 'muted')}</g>"
        elif key.what is not None:
            yield f"<g{self._class(_actor(key.what))}>{self._shapes(key.shapes)}{self._text(key.text, '')}</g>"
        else:
            yield self._text(key.text, "muted")

    def _shapes(self, shapes: tuple[Shape, ...]) -> str:
        return "".join(
            f"<rect{self._class(shape.paint.value)} "
            f'x="{_number(shape.x)}" y="{_number(shape.y)}" width="{_number(shape.width)}" '
            f'height="{_number(shape.height)}" rx="{_number(shape.radius)}"/>'
            for shape in shapes
        )

    def _text(self, text: Text, kind: str) -> str:
        place = f'x="{_number(text.x)}" y="{_number(text.y)}" font-size="{_number(text.size)}"'
        return f"<text{self._class(kind, 'mid' if text.centred else '')} {place}>{_escaped(text.text)}</text>"


def _kind(style: Style) -> str:
    return style.name.lower()


def _actor(actor: int) -> str:
    return f"a{actor % len(HUES)}"


def _stroke(points: tuple[Point, ...]) -> str:
    (x, y), *others = points
    path = [f"M{_number(x)} {_number(y)}"]
    for to_x, to_y in others:
        if _number(to_x) == _number(x):
            path.append(f"V{_number(to_y)}")
        elif to_y == y:
            path.append(f"H{_number(to_x)}")
        else:
            half = _number((y + to_y) / 2)
            path.append(f"C{_number(x)} {half} {_number(to_x)} {half} {_number(to_x)} {_number(to_y)}")
        x, y = to_x, to_y
    return "".join(path)


def _number(value: float) -> str:
    """At most two decimals: no eye sees the third, and files stay small."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _escaped(text: str) -> str:
    return escape(_clean(text))


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
