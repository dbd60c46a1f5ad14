"""Text <-> token ids: byte-level BPE from the checkpoint's vocabulary, and its chat template."""

from collections.abc import Sequence
from itertools import compress

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from examples.llm.checkpoint import Checkpoint


def bpe_tokenizer(tokens: Sequence[str], merges: Sequence[str], special: Sequence[bool]) -> Tokenizer:
    """Byte-level BPE with every digit a token of its own (what GGUF calls `tokenizer.ggml.pre = smollm`).

    tokens: the vocabulary, a token's place is its id; merges: "left right", best first; special: which tokens are
    control tokens, never split and left out of decoded text.
    """
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = compress(tokens, special)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return tokenizer


class ChatTokenizer:
    """A checkpoint's tokenizer together with its chat template."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_path))
        # The environment that Hugging Face renders chat templates in: sandboxed, since a template comes with a model.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(checkpoint.chat_template_path.read_text())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids without control tokens; a character whose last bytes are still to come is left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.rstrip("\ufffd")

    def render(self, prompt: str) -> str:
        """The chat template's text for one user message, up to where the assistant's answer begins."""
        return self._template.render(messages=[{"role": "user", "content": prompt}], add_generation_prompt=True)

    def encode_chat(self, prompt: str) -> list[int]:
        return self.encode(self.render(prompt))
