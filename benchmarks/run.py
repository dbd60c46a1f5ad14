"""Runs the benchmarks: `python -m benchmarks.run [--quick] [--only NAME ...] [--json FILE] [--no-ray] [--strict]`.

Row by row, and in each row round by round: limit, dagc, Ray, limit, dagc, Ray, ... so that whatever else the machine
does meanwhile happens to all three. A figure is the median over the rounds of the p50 of each round. See README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine, report
from benchmarks.peer import ROOT, Peer
from benchmarks.protocol import Answer
from benchmarks.results import CONTESTANTS, Figure, Result, verdict
from benchmarks.rows import ROWS, Row

JSON = ROOT / ".cache" / "bench.json"
RAY_PYTHON = "DAGC_BENCH_RAY_PYTHON"
#: Between two measurements: what the last one tore down has ended then.
PAUSE_SECONDS = 0.05


def main() -> int:
    options = _options()
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    facts = machine.facts()
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    with ExitStack() as ends:
        peers: dict[str, Peer] = {}
        for name, peer in _start(ray=not options.no_ray):
            ends.callback(peer.close)
            peers[name] = peer
            if peer.reason:
                print(f"no column {name}: {peer.reason}")
        print(f"\n{report.table_head()}")
        results = []
        for row in rows:
            results.append(_measure(row, peers, options.rounds, options.seconds, options.quick))
            print(report.line(results[-1]), flush=True)
    for failure in report.failures(results):
        print(f"\n{failure}")
    print("\nBudgets", *report.budgets(results), sep="\n")
    versions = {name: peer.facts for name, peer in peers.items()}
    _save(options.json, {"machine": facts, "contestants": versions, "rounds": options.rounds}, results)
    over = [result for result in results if (judged := verdict(result)) is not None and not judged[1]]
    return 1 if options.strict and over else 0


def _measure(row: Row, peers: Mapping[str, Peer], rounds: int, seconds: float, quick: bool) -> Result:
    questions = {"limit": row.limit, "dagc": row.dagc, "ray": row.ray}
    answers: dict[str, list[Answer]] = {name: [] for name in CONTESTANTS}
    if not quick:
        rounds, seconds = row.rounds or rounds, row.seconds or seconds
    for _ in range(rounds):
        for name in CONTESTANTS:
            question, peer = questions[name], peers[name]
            failed = bool(answers[name]) and "error" in answers[name][-1]  # once is enough: a timeout takes long
            if question is not None and not peer.reason and not failed:
                answers[name].append(peer.ask({**question, "seconds": seconds}))
                time.sleep(PAUSE_SECONDS)
    missing = {name: peers[name].reason or "it has nothing like it" for name in CONTESTANTS}
    return Result(row, {name: Figure.of(row, answers[name], missing[name]) for name in CONTESTANTS})


def _start(ray: bool) -> Iterator[tuple[str, Peer]]:
    yield "limit", Peer("limit", sys.executable, "benchmarks.limit.peer")
    yield "dagc", Peer("dagc", sys.executable, "benchmarks.dagc_peer")
    python = sys.executable if importlib.util.find_spec("ray") else os.environ.get(RAY_PYTHON)
    reason = f"this Python has no ray; install the extra ray, or name a Python that has it in {RAY_PYTHON}"
    if not ray:
        python, reason = None, "--no-ray"
    yield "ray", Peer("ray", python, "benchmarks.ray_peer", "" if python else reason)


def _save(path: Path, head: Mapping[str, object], results: Sequence[Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {result.row.name: result.as_json() for result in results}
    judged = [
        {"name": result.row.name, "text": budget.text, "budget": budget.limit, "measured": found[0], "ok": found[1]}
        for result in results
        if (budget := result.row.budget) is not None and (found := verdict(result)) is not None
    ]
    path.write_text(json.dumps({**head, "rows": rows, "budgets": judged}, indent=2) + "\n")
    print(f"\nEvery round is in {path}")


def _options() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two rounds of 50 ms: to see that everything works")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"rows to measure: {', '.join(names)}")
    parser.add_argument("--json", type=Path, default=JSON, metavar="FILE", help="where every round goes (%(default)s)")
    parser.add_argument("--no-ray", action="store_true", help="leave Ray out")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a budget is exceeded")
    parser.add_argument("--rounds", type=int, default=None, help="of every row (5; with --quick 2)")
    parser.add_argument("--seconds", type=float, default=None, help="of every measurement (0.3; with --quick 0.05)")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.05 if options.quick else 0.3)
    return options


if __name__ == "__main__":
    sys.exit(main())
