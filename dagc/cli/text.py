"""Quantities as text for people, beside those of dagc/tables.py."""

from __future__ import annotations

__all__ = ["memory", "rate", "times"]


def rate(value: float) -> str:
    """So many a second."""
    return f"{value:,.0f} /s"


def memory(value: float) -> str:
    """A number of bytes."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value:.0f} B"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f} x" if value < 10 else f"{value:,.0f} x"
