"""Command line of `examples.pipeline_llm`, and what it shares with that of `examples.tensor_parallel_llm`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from examples.llm.checkpoint import default_cache

PROGRAM = "pipeline_llm"
PROMPTS = [
    "What is the capital of France, and what is it known for?",
    "Explain why the sky is blue.",
    "Write the first sentence of a story about a lighthouse.",
    "Give me one tip for sleeping better.",
]


@dataclass(frozen=True)
class Options:
    prompts: list[str]
    stages: int
    max_new_tokens: int
    threads_per_stage: int
    groups: int
    rounds: int
    offline_tiny: bool
    cache: Path
    plan: Path
    report: Path


def parse(argv: Sequence[str] | None, description: str | None) -> Options:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_shared(parser)
    add("--stages", type=positive, default=2, metavar="N", help="actors to cut the model into (default: 2)")
    add("--threads-per-stage", type=positive, default=1, metavar="N", help="torch threads of each actor (default: 1)")
    add("--max-inflight", type=positive, metavar="N", help="groups of prompts in flight (default: one for each stage)")
    add("--plan", type=Path, metavar="FILE", help="where to write the compiled plan (default: in the cache)")
    add("--report", type=Path, metavar="FILE", help="where to write the page about the run (default: in the cache)")
    given = parser.parse_args(argv)
    prompts = prompts_of(given, parser)
    return Options(
        prompts=prompts,
        stages=given.stages,
        max_new_tokens=given.max_new_tokens,
        threads_per_stage=given.threads_per_stage,
        groups=min(given.max_inflight or given.stages, len(prompts)),
        rounds=given.rounds,
        offline_tiny=given.offline_tiny,
        cache=given.cache,
        plan=given.plan or given.cache / f"{PROGRAM}.plan",
        report=given.report or given.cache / f"{PROGRAM}.html",
    )


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Prompts, what is generated for them, how often, and with which model."""
    add = parser.add_argument
    add("--prompt", action="append", metavar="TEXT", help="a prompt; may be repeated (default: four short ones)")
    add("--prompts", type=Path, metavar="FILE", help="more prompts, one a line")
    add(
        "--max-new-tokens", type=positive, default=32, metavar="N", help="tokens for each prompt (default: %(default)s)"
    )
    add("--rounds", type=positive, default=3, metavar="N", help="how often each way is timed (default: %(default)s)")
    add("--offline-tiny", action="store_true", help="a tiny random model: needs no weights, its text means nothing")
    add("--cache", type=Path, default=default_cache(), metavar="DIR", help="converted models (default: %(default)s)")


def prompts_of(given: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Those of --prompt and --prompts, or the default ones. Ends the program if the file cannot be read."""
    prompts: list[str] = given.prompt or []
    if given.prompts:
        try:
            prompts = prompts + [line for line in given.prompts.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"--prompts {given.prompts}: {error}")
        if not prompts:
            parser.error(f"--prompts {given.prompts}: the file has no prompt in it")
    return prompts or PROMPTS


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, found {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


def exit_with_usage_error(message: object, program: str = PROGRAM) -> NoReturn:
    """Ends the program as argparse does, for what only shows once the checkpoint is open."""
    print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(2)
