"""Results as text: one table of medians and ratios, then the budgets."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import CONTESTANTS, Result, verdict

__all__ = ["budgets", "failures", "line", "table_head"]

_WIDTHS = (24, 12, 12, 10, 12, 12, 12, 18)
_HEAD = ("", "limit", "dagc", "p99", "Ray", "dagc/limit", "Ray/dagc", "dagc's rounds")


def table_head() -> str:
    return f"{_columns(_HEAD)}\n{'-' * (sum(_WIDTHS) + len(_WIDTHS) - 1)}"


def line(result: Result) -> str:
    """A row of the table; times are p50."""
    key = result.row.key
    limit, dagc, ray = (result.figures[name] for name in CONTESTANTS)
    spread = " ... ".join(_quantity(value, key) for value in dagc.spread) if dagc.spread else ""
    return _columns(
        (
            result.row.title,
            _quantity(limit.value, key),
            _quantity(dagc.value, key),
            _quantity(dagc.p99_us, "p99_us"),
            "failed" if ray.value is None and ray.rounds else _quantity(ray.value, key),
            _times(result.times("dagc", "limit")),
            _times(result.times("ray", "dagc")),
            spread,
        )
    )


def failures(results: Sequence[Result]) -> list[str]:
    """What a contestant was asked and could not answer, in its own words."""
    return [
        f"{name}, {result.row.title}: {figure.rounds[0]['error']}"
        for result in results
        for name, figure in result.figures.items()
        if figure.rounds and figure.value is None
    ]


def budgets(results: Sequence[Result]) -> list[str]:
    lines = []
    for result in results:
        budget, judged = result.row.budget, verdict(result)
        if budget is not None and judged is not None:
            value, ok = judged
            key, bound = result.row.key, ">=" if budget.at_least else "<="
            allowed = f"{bound} {_quantity(budget.limit, key)}"
            lines.append(f"{budget.text:40}{allowed:>14}{_quantity(value, key):>14}   {'ok' if ok else 'over'}")
    return lines


def _quantity(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    if key == "per_second":
        return f"{value:,.0f} /s"
    if key == "percent":
        return f"{value:.2f} %"
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    if value >= 1e3:
        return f"{value / 1e3:.2f} ms"
    return f"{value:.1f} us"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f} x" if ratio < 10 else f"{ratio:,.0f} x"


def _columns(cells: Sequence[str]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return " ".join([first.strip().ljust(_WIDTHS[0]), *others]).rstrip()
