"""The rows of the table: what every contestant is asked, and what dagc may need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ROWS", "Budget", "Row"]

KB, MB = 2**10, 2**20


@dataclass(frozen=True)
class Budget:
    """A line of the budgets in the design. `limit` is in the unit of the row."""

    text: str
    limit: float
    #: A rate must be at least the limit; everything else at most.
    at_least: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table. Who is asked nothing (None) has an empty column."""

    name: str
    title: str
    #: What dagc is asked.
    dagc: Mapping[str, Any] | None
    #: What Ray is asked.
    ray: Mapping[str, Any] | None
    #: What the limit is asked.
    limit: Mapping[str, Any] | None
    #: The key of the answer: "p50_us", "per_second" or "percent".
    key: str = "p50_us"
    budget: Budget | None = None
    #: Seconds of a measurement, and rounds, where they are not those of the run.
    seconds: float | None = None
    rounds: int | None = None


def _same(name: str, title: str, budget: Budget | None = None, key: str = "p50_us", **question: Any) -> Row:
    """A row in which all three do the same."""
    return Row(name, title, question, question, question, key, budget)


def _size(nbytes: int) -> str:
    return f"{nbytes // MB} MB" if nbytes >= MB else f"{nbytes // KB} KB"


def _rows() -> list[Row]:
    rows = [
        _same("echo", "echo of an int", Budget("one actor, echo an int, p50", 5.0), bench="chain", actors=1),
        _same("asleep", "  after a pause of 2 ms", bench="asleep"),
        _same("chain4", "chain of 4 actors", Budget("chain of 4 actors, p50", 30.0), bench="chain", actors=4),
        _same("chain8", "chain of 8 actors", Budget("chain of 8 on 2 cores, p50", 80.0), bench="chain", actors=8),
    ]
    for depth in (1, 2, 4, 8, 16):
        budget = Budget("chain of 4, a second with 8 in flight", 100_000.0, at_least=True) if depth == 8 else None
        title = f"chain of 4, {depth} in flight"
        rows.append(_same(f"rate{depth}", title, budget, "per_second", bench="rate", actors=4, depth=depth))
    rows.append(_same("fanout4", "fan-out to 4", Budget("fan-out to 4, p50", 30.0), bench="fanout", actors=4))
    for nbytes in (4 * KB, 64 * KB, MB, 16 * MB, 64 * MB):
        name = f"array{_size(nbytes).replace(' ', '')}"
        budget = Budget("echo 16 MB array, p50", 1000.0) if nbytes == 16 * MB else None
        rows.append(_same(name, f"echo of {_size(nbytes)}", budget, bench="array", nbytes=nbytes))
    arena = {"bench": "arena", "nbytes": 16 * MB}
    in_arena = Budget("16 MB made in the arena, p50", 50.0)
    rows.append(Row("arena16MB", "  made by graph.empty", arena, None, arena, budget=in_arena))
    for nbytes in (MB, 16 * MB, 64 * MB):
        question = {"bench": "memcpy", "nbytes": nbytes}
        rows.append(Row(f"memcpy{nbytes // MB}MB", f"one copy of {_size(nbytes)}", None, None, question))
    aio, echo = {"bench": "aio"}, {"bench": "chain", "actors": 1}
    rows.append(Row("asyncio", "asyncio echo", aio, aio, echo, budget=Budget("asyncio echo, p50", 20.0)))
    call = {"bench": "call"}
    rows.append(Row("call", "call, not compiled", call, call, None))
    for actors in (1, 2, 4, 8):
        question = {"bench": "compile_", "actors": actors}
        budget = Budget("compile a chain of 8 running actors", 100_000.0) if actors == 8 else None
        rows.append(Row(f"compile{actors}", f"compile a chain of {actors}", question, question, None, budget=budget))
    # 0 % is what is promised; 0.5 % is what a process costs that wakes now and then for other reasons.
    none = Budget("idle graph, CPU of one actor", 0.5)
    idle = {"bench": "idle"}
    rows.append(Row("idle", "CPU of an idle actor", idle, idle, None, "percent", none, seconds=5.0, rounds=1))
    return rows


ROWS = _rows()
