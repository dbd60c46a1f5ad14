"""Plain text tables: cells of fixed width, figures with their units, medians over rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.protocol import Answer

__all__ = ["Table", "bytes_of", "figure", "first_errors", "rate", "ratio", "seconds", "spread"]


class Table:
    """Lines of cells, the first of them to the left, the others to the right."""

    def __init__(self, *columns: tuple[str, int]) -> None:
        """Of each column its title and its width."""
        self._titles = [title for title, _ in columns]
        self._widths = [width for _, width in columns]

    def head(self) -> str:
        return f"{self.line(*self._titles)}\n{'-' * (sum(self._widths) + len(self._widths) - 1)}"

    def line(self, *cells: str) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, self._widths, strict=True))
        return " ".join([first.strip().ljust(self._widths[0]), *others]).rstrip()


def figure(answers: Sequence[Answer], key: str) -> float | None:
    """The median over the rounds that have an answer; None if none has."""
    good = [answer[key] for answer in answers if "error" not in answer]
    return median(good) if good else None


def spread(answers: Sequence[Answer], key: str) -> str:
    """The best and the worst round of what is a time in microseconds."""
    good = [answer[key] / 1e6 for answer in answers if "error" not in answer]
    return f"{seconds(min(good))} ... {seconds(max(good))}" if good else ""


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if value >= unit:
            return f"{value / unit:.2f} {name}"
    return f"{value * 1e6:.1f} us"


def rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} /s" if value < 100 else f"{value:,.0f} /s"


def ratio(over: float | None, under: float | None) -> str:
    if not over or not under:
        return "-"
    found = over / under
    return f"{found:.2f} x" if found < 10 else f"{found:,.0f} x"


def bytes_of(size: int) -> str:
    for unit, name in ((1 << 20, "MB"), (1 << 10, "KB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def first_errors(named: Iterable[tuple[str, Sequence[Answer]]]) -> list[str]:
    """What could not be measured, in the words of who could not; each name once."""
    return [f"{name}: {answers[-1]['error']}" for name, answers in named if answers and "error" in answers[-1]]
