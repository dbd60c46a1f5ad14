"""The colours of a drawing, in two themes, and its pens.

Actors take the hues of Okabe and Ito ("Color Universal Design", 2008), which people with any of the usual colour
deficiencies tell apart. Black and the pale yellow, which cannot be seen on both a dark and a light page, gave way to
wine and olive, which are about as far from the rest (tests/unit/test_draw.py measures it). The name of the actor stands
in every box, so nothing depends on colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from dagc.draw.picture import Style

__all__ = ["BORDER", "CASING", "DARK", "DASH", "HEAD", "HUES", "LIGHT", "WIDTHS", "Theme", "bands", "hue"]

#: Blue, orange, green, purple, sky blue, vermillion, olive, wine.
HUES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#a6a03a", "#882255")

#: Of wires and of the borders of boxes, in pixels.
WIDTHS = {Style.CROSS: 2.2, Style.NEAR: 1.1, Style.ORDER: 1.3}
BORDER = 1.3
#: Of the border of a wire in the colour of the page, both sides and the wire together.
CASING = 6.0
#: A dash and the space after it, in the style ORDER.
DASH = (5.0, 4.0)
#: The height and the width of an arrow head.
HEAD = 8.4


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb."""

    page: str
    text: str
    #: Of details, transports and the plan's numbers.
    muted: str
    wire: str
    #: The border of the driver's boxes.
    driver: str
    #: How much of an actor's hue there is in the inside of its boxes; the rest is the page.
    tint: float
    #: How much of the text's colour there is in their borders: hues that are dark on a dark page become lighter.
    lift: float

    def border(self, actor: int) -> str:
        """Of the boxes of the actor with this index, and their stripes. The hues repeat, see `bands`."""
        return _mixed(hue(actor), self.text, self.lift)

    def fill(self, actor: int) -> str:
        return _mixed(self.page, hue(actor), self.tint)


LIGHT = Theme(page="#ffffff", text="#17202a", muted="#55606b", wire="#6b7682", driver="#55606b", tint=0.2, lift=0.0)
DARK = Theme(page="#14181d", text="#e8edf2", muted="#a3afba", wire="#8a96a3", driver="#a3afba", tint=0.26, lift=0.2)


def _mixed(colour: str, other: str, share: float) -> str:
    pairs = ((int(colour[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a * (1 - share) + b * share):02x}" for a, b in pairs)


def hue(actor: int) -> str:
    """Of the actor with this index, in the order of first calls."""
    return HUES[actor % len(HUES)]


def bands(actor: int) -> int:
    """How many stripes its boxes have on the left, from 1 to 3: they tell actors of the same hue apart."""
    return 1 + actor // len(HUES) % 3
