"""Collectives in shared memory beside torch's gloo: `python -m benchmarks.communicators [--ranks N] [--only OP ...]`.

The same processes are ranks of both groups and take turns, round by round: memcpy, shm, gloo, memcpy, ... so that
whatever else the machine does meanwhile happens to all three. A round's figure is the median of its steps, on the
slowest rank; the table has the median over the rounds, and `best` the best round of shm. Tensors are float32, reduced
in place; torch has one thread a rank.

The bound is what must be moved divided by how fast it can be: a rank's tensors are its own memory, so whatever another
rank needs of it is written to shared memory once, and read there. In bytes of a tensor of N, with n ranks,

    allreduce       read N + 2 N (n-1)/n    the own tensor, the others' share of our part, and their results
                    written 2 N             the others' share of ours, our part of the result, and the result
    allgather       read n N, written (n+1) N;    broadcast    read N, written N, by the root or by another
    reducescatter   read N + N (n-1)/n, written N: N is all that a rank gives; it gets N/n

and memcpy of N bytes reads N and writes N: the time of that, measured with as many ranks copying at once as take part,
times the bytes moved over 2 N.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import group_steps, machine
from channels.communicators import ShmTransport
from channels.testing_group_subject import Members, Subject
from channels.testing_ranks import ProcessParty

CONTESTANTS = ("memcpy", "shm", "gloo")
SIZES = (4, 4096, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
#: Bytes that a rank moves, over those of a memcpy of its tensor; of n ranks.
MOVED: Mapping[str, Callable[[int], float]] = {
    "allreduce": lambda n: (3 + 2 * (n - 1) / n) / 2,
    "allgather": lambda n: (2 * n + 1) / 2,
    "reducescatter": lambda n: (2 + (n - 1) / n) / 2,
    "broadcast": lambda _: 1.0,
}
_WIDTHS = (14, 9, 11, 11, 11, 11, 11, 10, 9)
_HEAD = ("", "size", "memcpy", "bound", "shm", "best", "gloo", "shm/bound", "gloo/shm")


def main() -> int:
    options = _options()
    facts = machine.facts()
    print("  ".join(f"{name} {value}" for name, value in facts.items()), f" ranks {options.ranks}")
    gloo = not options.no_gloo and importlib.util.find_spec("torch") is not None
    if not gloo:
        print(f"no column gloo: {'--no-gloo' if options.no_gloo else 'this Python has no torch'}")
    parties = [ProcessParty() for _ in range(options.ranks)]
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder, Subject(ShmTransport(), parties).group(options.ranks) as members:
            if gloo:
                members.all(group_steps.start_gloo, str(Path(folder, "store")))
            print(f"\n{_columns(_HEAD)}\n{'-' * (sum(_WIDTHS) + len(_WIDTHS) - 1)}")
            for op in options.only:
                for size in options.sizes:
                    rows.append(_measure(members, op, size, options.rounds, options.seconds, gloo))
                    print(_line(rows[-1]), flush=True)
            if gloo:
                members.all(group_steps.stop_gloo)
    finally:
        for party in parties:
            party.close()
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "ranks": options.ranks, "rows": rows}, indent=1))
    return 0


def _measure(members: Members, op: str, size: int, rounds: int, seconds: float, gloo: bool) -> dict[str, Any]:
    found: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds):
        for name in CONTESTANTS if gloo else CONTESTANTS[:2]:
            found[name].append(max(members.all(group_steps.measure, name, op, size, seconds)))
    return {"op": op, "size": size, "bound": MOVED[op](len(members.parties)), "rounds": found}


# ---- the table ----


def _line(row: Mapping[str, Any]) -> str:
    rounds = row["rounds"]
    memcpy, shm = (statistics.median(rounds[name]) for name in ("memcpy", "shm"))
    gloo = statistics.median(rounds["gloo"]) if rounds["gloo"] else None
    bound = memcpy * row["bound"]
    figures = (memcpy, bound, shm, min(rounds["shm"]), gloo)
    beside = f"{gloo / shm:.1f} x" if gloo else "-"
    return _columns((row["op"], _size(row["size"]), *map(_time, figures), f"{shm / bound:.2f} x", beside))


def _columns(cells: Sequence[str]) -> str:
    return " ".join(
        f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, _WIDTHS, strict=True))
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def _size(size: int) -> str:
    for unit, name in ((1 << 20, "MB"), (1 << 10, "KB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.communicators", description="Collectives beside gloo and memcpy.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=tuple(MOVED), default=("allreduce",), metavar="OP")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, metavar="BYTES")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.15, help="of each contestant in each round")
    parser.add_argument("--no-gloo", action="store_true")
    parser.add_argument("--json", type=Path, help="write every round there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
