"""make_heading: what stands above the drawing: the plan's first line, then the legend of actors and wires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagc.draw.picture import Picture, Style, shorten
from dagc.draw.scene import NOTE, TITLE, Key, Measure, Text
from dagc.draw.shapes import sample_shapes

__all__ = ["Heading", "make_heading"]

#: The width of a sample in the legend.
_SAMPLE = 22.0
#: From line to line: of the notes, and of the legend.
_LEADING, _ROW = 17.0, 21.0
#: Between a sample and its text, and between two entries.
_NEAR, _APART = 7.0, 18.0
#: Actors that the legend names; the others are counted.
_MOST_ACTORS = 24
_LONGEST = 48


@dataclass(frozen=True)
class Heading:
    title: Text
    notes: tuple[Text, ...]
    keys: tuple[Key, ...]
    #: Where the drawing may begin.
    bottom: float


def make_heading(picture: Picture, measure: Measure, left: float, top: float, width: float) -> Heading:
    """The heading in a column that begins at `left` and `top` and is `width` wide; one long word may be wider."""
    y = top + TITLE * 0.8
    title = Text(left, y, TITLE, shorten(picture.title, _LONGEST), centred=False)
    notes = []
    for line in _wrapped(picture.subtitle, measure, width):
        y += _LEADING + 1
        notes.append(Text(left, y, NOTE, line, centred=False))
    actors: list[tuple[int | Style | None, str]] = [(i, name) for i, name in enumerate(picture.actors)]
    if len(actors) > _MOST_ACTORS:
        actors[_MOST_ACTORS:] = [(None, f"and {len(actors) - _MOST_ACTORS} more")]
    keys: list[Key] = []
    for entries in (actors, [(style, style.value) for style in picture.styles]):
        if entries:
            keys += _legend(entries, measure, left, y + _ROW + 3, width)
            y = keys[-1].text.y
    return Heading(title, tuple(notes), tuple(keys), y + _ROW / 2)


def _legend(
    entries: Sequence[tuple[int | Style | None, str]], measure: Measure, left: float, y: float, width: float
) -> list[Key]:
    """Entries in rows, the first with its baseline at `y`."""
    keys = []
    x = left
    for what, name in entries:
        shown = shorten(name, _LONGEST)
        indent = 0.0 if what is None else _SAMPLE + _NEAR
        taken = indent + measure(shown, NOTE)
        if x > left and x + taken > left + width:
            x, y = left, y + _ROW
        middle = y - NOTE * 0.36
        shapes = sample_shapes(what, x, middle, _SAMPLE) if isinstance(what, int) else ()
        text = Text(x + indent, y, NOTE, shown, centred=False)
        keys.append(Key(what, (x, middle), (x + _SAMPLE, middle), shapes, text))
        x += taken + _APART
    return keys


def _wrapped(text: str, measure: Measure, width: float) -> list[str]:
    """The parts of a list with commas, as many on a line as fit."""
    lines: list[str] = []
    for part in text.split(", "):
        if lines and measure(f"{lines[-1]}, {part},", NOTE) <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return [f"{line}," for line in lines[:-1]] + lines[-1:]
