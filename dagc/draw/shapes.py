"""The shapes of boxes and of their samples in the legend: calls have stripes on the left, the driver's are round."""

from __future__ import annotations

from dagc.draw.picture import Box, BoxKind
from dagc.draw.scene import Paint, Shape
from dagc.draw.theme import bands

__all__ = ["box_shapes", "sample_shapes"]

_RADIUS, _SAMPLE_RADIUS = 6.0, 3.0
#: A stripe, from one to the next, and from the border to the first.
_STRIPE, _STEP, _INSET = 3.0, 4.5, 4.0
#: Between the two borders of the output.
_RING = 3.5
_SAMPLE_HEIGHT = 13.0


def box_shapes(box: Box, x: float, y: float, width: float, height: float) -> tuple[Shape, ...]:
    """What is drawn for a box in this rectangle, in this order; the first is its border."""
    if box.actor is not None:
        return _call(box.actor, x, y, width, height, _RADIUS)
    outer = Shape(x, y, width, height, height / 2, Paint.DRIVER)
    if box.kind is not BoxKind.OUTPUT:
        return (outer,)
    inner = height - 2 * _RING
    return outer, Shape(x + _RING, y + _RING, width - 2 * _RING, inner, inner / 2, Paint.DRIVER)


def sample_shapes(actor: int, x: float, y: float, width: float) -> tuple[Shape, ...]:
    """A small call of an actor; `y` is its middle."""
    return _call(actor, x, y - _SAMPLE_HEIGHT / 2, width, _SAMPLE_HEIGHT, _SAMPLE_RADIUS)


def _call(actor: int, x: float, y: float, width: float, height: float, radius: float) -> tuple[Shape, ...]:
    stripes = (
        Shape(x + _INSET + _STEP * i, y + _INSET, _STRIPE, height - 2 * _INSET, _STRIPE / 2, Paint.STRIPE)
        for i in range(bands(actor))
    )
    return Shape(x, y, width, height, radius, Paint.CALL), *stripes
