"""One model in stages, micro-batch after micro-batch: `python -m benchmarks.pipelining [--tiny] [--stages S]`.

dagc's compiled graph beside Ray's, torch.distributed.pipelining (GPipe over gloo) and the unsplit model, in rounds in
which all of them take turns; p50 of a step of m micro-batches, median over the rounds. The model is SmolLM2-135M in
float32, a micro-batch one prompt: its forward, to the logits of its last token, without a KV cache that outlives it.
Every process runs the same stage class with one torch thread (the unsplit model: one and two), prompt by prompt; every
way's logits are compared with those of the unsplit model.

The bubble is the part of the stages' time in which they do not compute: 1 - busy / (S elapsed), where busy is what all
stages take by their own clocks; `stages` is the median of each for one micro-batch, in the same steps. `ideal` is
(S-1) / (m+S-1), that of S equal stages and nothing between them (Huang et al. 2019, GPipe, arXiv:1811.06965). `limit`
is no way to run: the makespan of stages that take as long as they do one at a time, with the machine for themselves,
t1 + ... + tS + (m-1) max(ti).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import dagc
from benchmarks import machine
from benchmarks.protocol import Answer
from benchmarks.table import Table, figure, first_errors, rate, ratio, seconds, spread
from benchmarks.turns import Contestant, Way, contestants, ray_contestant, take_turns

PEERS = "benchmarks.pipeline_peers"
#: Of examples/llm, whose model this is; `safetensors` is what Ray's Python needs of it, too.
NEEDS = ("torch", "safetensors", "tokenizers", "gguf", "rich")
MICRO_BATCHES = (1, 2, 4, 8)
DAGC = "dagc, in flight"
#: On top of the deadline of an answer, for a model that is not in the cache yet.
CONVERSION_SECONDS = 120.0


def main() -> int:
    options = _options()
    facts = machine.facts()
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    lacking = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if lacking:
        print(f"the model needs the extra llm; this Python has no {', '.join(lacking)}: pip install -e '.[llm]'")
        return 2
    rows: list[dict[str, Any]] = []
    with contestants(_start(options)) as there, tempfile.TemporaryDirectory() as folder:
        versions = {name: dict(contestant.facts) for name, contestant in there.items()}
        job = _job(there["alone"], options, str(Path(folder, "reference.pt")))
        if job is None:
            return 2
        for m in options.micro_batches:
            rows.append(_measure(there, job, m, options))
            print(*_lines(rows[-1], options.tokens), sep="\n", flush=True)
    for line in first_errors((f"m = {row['m']}, {name}", found) for row in rows for name, found in row["ways"].items()):
        print(f"\n{line}")
    off = [a["difference"] for row in rows for found in row["ways"].values() for a in found if "difference" in a]
    print(f"\nNext tokens as in the unsplit model; the largest difference of a logit: {max(off):.2g}")
    if options.json:
        head = {"machine": facts, "contestants": versions, "stages": options.stages, "tokens": options.tokens}
        options.json.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
    return 0


def _start(options: argparse.Namespace) -> Iterator[Contestant]:
    yield Contestant("alone", f"{PEERS}.alone_peer")
    yield Contestant("dagc", f"{PEERS}.dagc_peer")
    none = "--no-torch" if options.no_torch else ""
    yield Contestant("GPipe", f"{PEERS}.torch_peer", None if none else sys.executable, none)
    yield ray_contestant(f"{PEERS}.ray_peer", ("torch", "safetensors"), not options.no_ray)


def _job(alone: Contestant, options: argparse.Namespace, reference: str) -> dict[str, Any] | None:
    """What everyone is asked to run: a checkpoint, cut where the costs of its pieces balance, and the prompts.

    None, and says why, if the model cannot be had.
    """
    most = max(options.micro_batches)
    asked = {"tiny": options.tiny, "reference": reference, "prompts": most, "tokens": options.tokens}
    made = alone.ask({"bench": "prepare", **asked, "seconds": CONVERSION_SECONDS})
    if "error" in made:
        print(made["error"].replace("--offline-tiny", "--tiny"))
        return None
    cut = [(pieces.start, pieces.stop) for pieces in dagc.partition(made["costs"], options.stages)]
    sizes = " and ".join(str(last - first) for first, last in cut)
    name = Path(made["checkpoint"]).name
    print(f"\n{name}, prompts of {options.tokens} tokens; {options.stages} stages of {sizes} pieces, 1 thread each")
    return {"checkpoint": made["checkpoint"], "reference": reference, "cut": cut}


def _measure(
    there: Mapping[str, Contestant], job: Mapping[str, Any], m: int, options: argparse.Namespace
) -> dict[str, Any]:
    asked = {"job": job, "m": m}
    found = take_turns(
        [
            Way("limit", there["alone"], {**asked, "bench": "stages"}),
            Way("unsplit, 1 thread", there["alone"], {**asked, "bench": "whole", "threads": 1}),
            Way("unsplit, 2 threads", there["alone"], {**asked, "bench": "whole", "threads": 2}),
            Way(DAGC, there["dagc"], {**asked, "bench": "in_flight"}),
            Way("dagc, one graph", there["dagc"], {**asked, "bench": "one_graph"}),
            Way("GPipe on gloo", there["GPipe"], {**asked, "bench": "gpipe"}),
            Way("Ray, in flight", there["Ray"], {**asked, "bench": "in_flight"}),
        ],
        options.rounds,
        options.seconds,
    )
    return {"m": m, "stages": options.stages, "ways": found}


# ---- the table ----


def _lines(row: Mapping[str, Any], tokens: int) -> Iterator[str]:
    m, stages, ways = row["m"], row["stages"], row["ways"]
    table = Table(
        (f"m = {m}", 20),
        ("a step", 11),
        ("tokens", 9),
        ("bubble", 8),
        ("ideal", 8),
        ("stages", 22),
        ("to dagc", 9),
        ("rounds", 26),
    )
    yield f"\n{table.head()}"
    mine = _seconds(ways[DAGC])
    for name, answers in ways.items():
        found = _seconds(answers)
        if found is None:
            yield table.line(name, "failed" if answers else "-", *[""] * 6)
            continue
        split = not name.startswith("unsplit")
        yield table.line(
            name,
            seconds(found),
            rate(m * tokens / found),
            _percent(figure(answers, "bubble")) if split else "",
            _percent((stages - 1) / (m + stages - 1)) if split else "",
            " + ".join(f"{median(times) * 1e3:.1f}" for times in zip(*_stage_s(answers), strict=True)) + " ms",
            ratio(found, mine),
            spread(answers, "p50_us"),
        )


def _seconds(answers: Sequence[Answer]) -> float | None:
    found = figure(answers, "p50_us")
    return None if found is None else found / 1e6


def _stage_s(answers: Sequence[Answer]) -> list[list[float]]:
    """Of each round, the seconds of each stage."""
    return [answer["stage_s"] for answer in answers if "error" not in answer]


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.pipelining", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--tiny", action="store_true", help="a small random Llama, which needs no weights")
    add("--stages", type=int, default=2, metavar="S")
    add("--micro-batches", "-m", nargs="+", type=int, default=MICRO_BATCHES, metavar="M")
    add("--tokens", type=int, default=16, metavar="T", help="of a prompt, which is a micro-batch")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=0.5, help="of every measurement, and at least three steps")
    add("--no-ray", action="store_true")
    add("--no-torch", action="store_true", help="leave torch.distributed.pipelining out")
    add("--json", type=Path, help="write every round there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
