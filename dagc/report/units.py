"""Numbers for people: three significant digits and a unit, as the page shows them everywhere."""

from __future__ import annotations

import math

from dagc.tables import duration

__all__ = ["NOTHING", "apart", "binary", "count", "percent", "points_apart", "rate", "seconds"]

#: Stands where there is no number.
NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SIZES = ("B", "KiB", "MiB", "GiB")


def seconds(value: float) -> str:
    """A time: "1.20 ms", or "12.3 us" with a real micro sign."""
    return duration(value).replace("us", "\N{MICRO SIGN}s") if math.isfinite(value) else NOTHING


def binary(value: float) -> str:
    """A number of bytes: "512 B", "4 KiB" or "1.50 MiB"."""
    if not math.isfinite(value):
        return NOTHING
    power = min(3, int(math.log2(value) // 10)) if value >= 1 else 0
    scaled = value / 1024**power
    return f"{scaled:.0f} {_SIZES[power]}" if scaled == int(scaled) else f"{_three(scaled)} {_SIZES[power]}"


def rate(value: float) -> str:
    """Executions a second: "826 /s" or "12,300 /s"."""
    if not math.isfinite(value):
        return NOTHING
    return f"{_three(value)} /s"


def percent(share: float) -> str:
    """A share of one: "12.3 %"; "0 %" and "100 %" where the digit would be of no use."""
    if not math.isfinite(share):
        return NOTHING
    shown = f"{100 * share:.1f}".removesuffix(".0") if abs(share) < 5e-4 or share > 0.9995 else f"{100 * share:.1f}"
    return f"{shown} %".replace("-", _MINUS)


def count(value: int) -> str:
    return f"{value:,}"


def apart(predicted: float, measured: float) -> str:
    """How far a prediction is off: "+2.4 %"; nothing if it cannot be said."""
    if not (math.isfinite(predicted) and math.isfinite(measured)) or measured == 0:
        return ""
    return _signed(100 * (predicted - measured) / measured, "%")


def points_apart(predicted: float, measured: float) -> str:
    """As `apart`, of two shares: percentage points, since a percentage of a percentage misleads."""
    if not (math.isfinite(predicted) and math.isfinite(measured)):
        return ""
    return _signed(100 * (predicted - measured), "pt")


def _signed(value: float, unit: str) -> str:
    shown = f"{abs(value):.1f}" if abs(value) < 99.95 else f"{abs(value):,.0f}"
    sign = "\N{PLUS-MINUS SIGN}" if shown == "0.0" else "+" if value > 0 else _MINUS
    return f"{sign}{shown} {unit}"


def _three(value: float) -> str:
    """Three significant digits, and zeros where there are more before the point."""
    size = abs(value)
    sign = _MINUS if value < 0 else ""
    if size < 9.995:
        return f"{sign}{size:.2f}"
    if size < 99.95:
        return f"{sign}{size:.1f}"
    if size < 999.5:
        return f"{sign}{size:.0f}"
    return f"{sign}{round(size, 2 - math.floor(math.log10(size))):,.0f}"
