"""torch CPU tensors through chains of actors and tensor-parallel layers: `python -m benchmarks.tensors [--no-ray]`.

Beside Ray's compiled graphs, torch's gloo and one process, in rounds in which all of them take turns. A figure is the
median over the rounds of the p50 of each round.

A chain of k actors that hand a tensor on is k + 1 hops, from the driver and back to it. Each hop writes the tensor to
memory that the next process can see, so k + 1 copies of its bytes are the limit of what does not know that the tensor
is the same as before.

The layers are 8 times (a product with 576 x 1536 cut by columns, relu, a product with 1536 x 576 cut by rows, an
allreduce), float32, on 2 ranks of one thread. dagc's and Ray's figures are of a driver that gives activations and gets
what both ranks have at the end ("gathered": what one has); gloo's ranks have theirs and keep them. Everyone's result is
compared with that of the unsplit layers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.protocol import Answer
from benchmarks.table import Table, bytes_of, figure, first_errors, rate, ratio, seconds, spread
from benchmarks.turns import Contestant, Way, contestants, ray_contestant, take_turns

PEERS = "benchmarks.tensor_peers"
PARTS = ("chain", "transports", "layers")
SIZES = (4 << 10, 64 << 10, 1 << 20, 16 << 20)
TOKENS = (1, 64)
ACTORS = 4
#: Of the chain in which the transports are compared: the fewest that have an edge between actors.
PAIR = 2
#: What `with_tensor_transport` is told: (transport, with the spec of the tensor).
TRANSPORTS = {
    "dagc": ("", False),
    "shm, spec": ("shm", True),
    "gloo": ("gloo", False),
    "gloo, spec": ("gloo", True),
}
Rows = list[dict[str, Any]]


def main() -> int:
    options = _options()
    facts = machine.facts()
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    if importlib.util.find_spec("torch") is None:
        print("this benchmark is about torch's tensors: pip install torch")
        return 2
    rows: Rows = []
    with contestants(_start(options)) as there:
        versions = {name: dict(contestant.facts) for name, contestant in there.items()}
        measure = {"chain": _chain, "transports": _transports, "layers": _layers}
        for part in options.only:
            rows += measure[part](there, options)
    for line in first_errors((f"{row['title']}, {name}", found) for row in rows for name, found in row["ways"].items()):
        print(f"\n{line}")
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "contestants": versions, "rows": rows}, indent=1) + "\n")
    return 0


def _start(options: argparse.Namespace) -> Iterator[Contestant]:
    yield Contestant("alone", f"{PEERS}.alone_peer")
    yield Contestant("dagc", f"{PEERS}.dagc_peer")
    if "layers" in options.only:
        none = "--no-gloo" if options.no_gloo else ""
        yield Contestant("gloo", f"{PEERS}.gloo_peer", None if none else sys.executable, none)
    yield ray_contestant(f"{PEERS}.ray_peer", ("torch", "numpy"), not options.no_ray)


# ---- a chain of actors ----


def _chain(there: Mapping[str, Contestant], options: argparse.Namespace) -> Rows:
    copies = ACTORS + 1
    print(f"\nChain of {ACTORS} actors that hand a torch tensor on; p50 of one execution")
    table = Table(
        ("", 8),
        ("one copy", 10),
        (f"{copies} copies", 10),
        ("dagc", 10),
        ("Ray", 10),
        ("Ray, tensors", 13),
        ("dagc/copies", 12),
        ("Ray/dagc", 9),
        ("dagc's rounds", 24),
    )
    print(table.head())
    rows: Rows = []
    for nbytes in options.sizes:
        asked = {"bench": "chain", "actors": ACTORS, "nbytes": nbytes, "transport": ""}
        found = take_turns(
            [
                Way("copy", there["alone"], {"bench": "copy", "nbytes": nbytes}),
                Way("dagc", there["dagc"], {**asked, "spec": False}),
                Way("Ray", there["Ray"], asked),
                Way("Ray, tensors", there["Ray"], {**asked, "transport": "auto"}),
            ],
            options.rounds,
            options.seconds,
        )
        rows.append({"title": f"chain, {bytes_of(nbytes)}", "ways": found})
        copy, mine, *rays = (_seconds(found[name]) for name in ("copy", "dagc", "Ray", "Ray, tensors"))
        limit = None if copy is None else copies * copy
        print(
            table.line(
                bytes_of(nbytes),
                *map(seconds, (copy, limit, mine)),
                *(_shown(found[name]) for name in ("Ray", "Ray, tensors")),
                ratio(mine, limit),
                ratio(min((ray for ray in rays if ray), default=None), mine),
                spread(found["dagc"], "p50_us"),
            ),
            flush=True,
        )
    print('"Ray, tensors": every value with_tensor_transport("auto"), which on CPUs is shared memory.')
    print('"Ray/dagc" is of the faster of the two.')
    _print_rates(rows)
    return rows


def _print_rates(rows: Rows) -> None:
    print("\nThe same with 8 in flight; executions a second")
    table = Table(("", 8), ("dagc", 12), ("Ray", 12), ("Ray, tensors", 13), ("dagc/Ray", 9))
    print(table.head())
    for row in rows:
        mine, *rays = (figure(row["ways"][name], "per_second") for name in ("dagc", "Ray", "Ray, tensors"))
        best = max((ray for ray in rays if ray), default=None)
        print(table.line(row["title"].removeprefix("chain, "), *map(rate, (mine, *rays)), ratio(mine, best)))


def _transports(there: Mapping[str, Contestant], options: argparse.Namespace) -> Rows:
    print(f"\nChain of {PAIR} actors, by what with_tensor_transport says of the tensor between them; p50")
    table = Table(("", 8), *((name, 12) for name in TRANSPORTS), ("gloo/dagc", 11))
    print(table.head())
    rows: Rows = []
    for nbytes in options.sizes:
        asked = {"bench": "chain", "actors": PAIR, "nbytes": nbytes}
        ways = [
            Way(name, there["dagc"], {**asked, "transport": transport, "spec": spec})
            for name, (transport, spec) in TRANSPORTS.items()
        ]
        found = take_turns(ways, options.rounds, options.seconds)
        rows.append({"title": f"transports, {bytes_of(nbytes)}", "ways": found})
        times = [_seconds(found[name]) for name in TRANSPORTS]
        gloo = min((time for time in times[2:] if time), default=None)
        cells = (_shown(found[name]) for name in TRANSPORTS)
        print(table.line(bytes_of(nbytes), *cells, ratio(gloo, times[0])), flush=True)
    return rows


# ---- tensor-parallel layers ----


def _layers(there: Mapping[str, Contestant], options: argparse.Namespace) -> Rows:
    print("\n8 tensor-parallel layers on 2 ranks, an allreduce each; p50 of all of them")
    names = ("unsplit", "dagc", "gloo", "Ray", "Ray, gathered")
    table = Table(("", 10), *((name, 13) for name in names), ("unsplit/dagc", 13), ("gloo/dagc", 10), ("Ray/dagc", 9))
    print(table.head())
    rows: Rows = []
    for tokens in options.tokens:
        asked = {"bench": "layers", "tokens": tokens}
        found = take_turns(
            [
                Way("unsplit", there["alone"], asked),
                Way("dagc", there["dagc"], asked),
                Way("gloo", there["gloo"], asked),
                Way("Ray", there["Ray"], asked),
                Way("Ray, gathered", there["Ray"], {**asked, "bench": "layers_gathered"}),
            ],
            options.rounds,
            options.seconds,
        )
        title = "1 token" if tokens == 1 else f"{tokens} tokens"
        rows.append({"title": f"layers, {title}", "ways": found})
        unsplit, mine, gloo, *rays = (_seconds(found[name]) for name in names)
        ray = min((ray for ray in rays if ray), default=None)
        cells = (_shown(found[name]) for name in names)
        print(table.line(title, *cells, ratio(unsplit, mine), ratio(gloo, mine), ratio(ray, mine)), flush=True)
    print('"Ray": its allreduce over its CPUCommunicator; "gathered": one rank adds up what the others send to it.')
    print('"Ray/dagc" is of the faster of the two.')
    return rows


def _seconds(answers: Sequence[Answer]) -> float | None:
    """p50, of the median round."""
    found = figure(answers, "p50_us")
    return None if found is None else found / 1e6


def _shown(answers: Sequence[Answer]) -> str:
    """A time; or that there was none, although it was there to be asked."""
    time = _seconds(answers)
    return "failed" if time is None and answers else seconds(time)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.tensors", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    add("--sizes", nargs="+", type=int, default=SIZES, metavar="BYTES", help="of the tensors in a chain")
    add("--tokens", nargs="+", type=int, default=TOKENS, metavar="N", help="that the layers compute at once")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=0.2, help="of every measurement")
    add("--no-ray", action="store_true")
    add("--no-gloo", action="store_true", help="leave the plain processes out; dagc's own gloo rows stay")
    add("--json", type=Path, help="write every round there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
