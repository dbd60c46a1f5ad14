"""Figures as text for people: aligned columns, times with the unit that suits them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["duration", "table"]

_UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))


def duration(seconds: float) -> str:
    """Three significant digits: "1.25 ms"."""
    for unit, size in _UNITS:
        if abs(seconds) >= 0.9995 * size:
            value = seconds / size
            digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    return "0"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns two spaces apart: the first flush left, the others, which are numbers, flush right.

    What stands after the columns of the first row is a remark, and flush left.
    """
    columns = len(rows[0]) if rows else 0
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(columns)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join([*cells, *row[columns:]]).rstrip())
    return lines
