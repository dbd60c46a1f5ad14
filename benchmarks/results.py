"""From the answers of all rounds to one figure a contestant, and to ratios between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.protocol import Answer
from benchmarks.rows import Row

__all__ = ["CONTESTANTS", "Figure", "Result", "verdict"]

#: In the order of their turns, and of their columns.
CONTESTANTS = ("limit", "dagc", "ray")


@dataclass(frozen=True)
class Figure:
    """A contestant's figure in a row: medians over its rounds; or `missing`, why there is none."""

    value: float | None
    p99_us: float | None
    #: The best and the worst round: how noisy the machine was.
    spread: tuple[float, float] | None
    rounds: Sequence[Answer]
    missing: str = ""

    @staticmethod
    def of(row: Row, answers: Sequence[Answer], missing: str = "") -> Figure:
        good = [answer for answer in answers if "error" not in answer]
        if not good:
            reason = answers[0]["error"] if answers else missing
            return Figure(None, None, None, answers, reason)
        values = [answer[row.key] for answer in good]
        tails = [answer["p99_us"] for answer in good if "p99_us" in answer]
        return Figure(median(values), median(tails) if tails else None, (min(values), max(values)), answers)


@dataclass(frozen=True)
class Result:
    """A row, measured."""

    row: Row
    figures: Mapping[str, Figure]

    def times(self, slow: str, fast: str) -> float | None:
        """How many times as long `slow` needs as `fast`. Above 1: it is slower."""
        a, b = self.figures[slow].value, self.figures[fast].value
        if not a or not b or self.row.key == "percent":
            return None
        return b / a if self.row.key == "per_second" else a / b

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.row.title,
            "key": self.row.key,
            "dagc_by_limit": self.times("dagc", "limit"),
            "ray_by_dagc": self.times("ray", "dagc"),
            "contestants": {
                name: {
                    "value": figure.value,
                    "p99_us": figure.p99_us,
                    "spread": figure.spread,
                    "missing": figure.missing,
                    "rounds": figure.rounds,
                }
                for name, figure in self.figures.items()
            },
        }


def verdict(result: Result) -> tuple[float, bool] | None:
    """dagc's figure and whether it is within the row's budget; None without a budget or a figure."""
    budget, value = result.row.budget, result.figures["dagc"].value
    if budget is None or value is None:
        return None
    return value, value >= budget.limit if budget.at_least else value <= budget.limit
