"""What every example needs before its own part: an open checkpoint, encoded prompts, and a check that they fit."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from examples.llm.checkpoint import Checkpoint
from examples.llm.config import LlamaConfig
from examples.llm.gguf_import import ModelNotInstalledError, find_smollm2, open_gguf
from examples.llm.options import add_shared, exit_with_usage_error, prompts_of
from examples.llm.sequences import Workload
from examples.llm.tiny import open_tiny
from examples.llm.tokenizer import ChatTokenizer


@dataclass(frozen=True)
class Setup:
    """The shared options, and the model that they name."""

    program: str
    texts: list[str]
    """the prompts, as they were written"""
    rounds: int
    checkpoint: Checkpoint
    tokenizer: ChatTokenizer
    workload: Workload

    @property
    def config(self) -> LlamaConfig:
        return self.checkpoint.config

    def usage_error(self, message: object) -> NoReturn:
        exit_with_usage_error(message, self.program)


def parser_of(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that has the options of `add_shared` already."""
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_shared(parser)
    return parser


def open_model(offline_tiny: bool, cache: Path, program: str) -> Checkpoint:
    """What these options name. Ends the program with a usage error if the model is not installed."""
    try:
        return open_tiny(cache) if offline_tiny else open_gguf(find_smollm2(), cache)
    except ModelNotInstalledError as error:
        exit_with_usage_error(error, program)
    except OSError as error:
        exit_with_usage_error(f"--cache {cache}: {error}", program)


def set_up(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Setup:
    """Opens the checkpoint and encodes the prompts. Ends the program with a usage error for what does not fit."""
    texts = prompts_of(given, parser)
    checkpoint = open_model(given.offline_tiny, given.cache, parser.prog)
    tokenizer = ChatTokenizer(checkpoint)
    prompts = [tokenizer.encode_chat(text) for text in texts]
    workload = Workload(prompts, given.max_new_tokens, checkpoint.config.eos_token_ids)
    context = checkpoint.config.max_position_embeddings
    if workload.max_len > context:
        exit_with_usage_error(
            f"the longest prompt and --max-new-tokens {given.max_new_tokens} make {workload.max_len} tokens; "
            f"the model's context has {context}",
            parser.prog,
        )
    return Setup(parser.prog, texts, given.rounds, checkpoint, tokenizer, workload)


def check_stages(setup: Setup, said: str, stages: int) -> None:
    """Ends the program with a usage error, about what was said, if the model has fewer pieces than that."""
    if stages > setup.config.num_pieces:
        setup.usage_error(f"{said}: this model has {setup.config.num_pieces} pieces to share out")
