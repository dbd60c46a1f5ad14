"""What the command lines of the examples have in common."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from examples.llm.checkpoint import default_cache

PROMPTS = [
    "What is the capital of France, and what is it known for?",
    "Explain why the sky is blue.",
    "Write the first sentence of a story about a lighthouse.",
    "Give me one tip for sleeping better.",
]


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


def exit_with_usage_error(message: object, program: str) -> NoReturn:
    """Ends the program as argparse does, for what only shows once the checkpoint is open."""
    print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(2)
