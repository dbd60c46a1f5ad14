"""How far two ways of computing a model agree, token by token.

Compared free-running, two models part for good at the first token where rounding decides a near tie. So the steps are
teacher-forced: both get the tokens of one of them, and what is compared is the logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.llm.model import Batch
from examples.llm.sequences import Submit

# Starts one step, and returns a function that waits for its logits, [S, vocab_size].
SubmitLogits = Callable[[Tensor, Batch], Callable[[], Tensor]]


@dataclass
class Agreement:
    """Counted over all teacher-forced positions."""

    positions: int = 0
    same_tokens: int = 0
    """positions where both would choose the same next token"""
    largest_difference: float = 0.0
    """between two logits, absolute"""
    largest_logit: float = 0.0
    """absolute, of the reference: what the difference compares to"""

    def add(self, found: Tensor, expected: Tensor) -> None:
        """One step's logits, [S, vocab_size] twice. Raises ValueError if their shapes differ."""
        if found.shape != expected.shape:
            raise ValueError(f"logits of shape {tuple(found.shape)}; expected {tuple(expected.shape)}")
        difference = (found - expected).abs().max().item()
        # NaN is larger than nothing; it must not pass for agreement.
        self.largest_difference = max(self.largest_difference, float("inf") if difference != difference else difference)
        self.largest_logit = max(self.largest_logit, expected.abs().max().item())
        self.positions += expected.shape[0]
        self.same_tokens += int((found.argmax(-1) == expected.argmax(-1)).sum())


def greedy(submit: SubmitLogits) -> Submit:
    """Steps for `generate`, each giving the likeliest next tokens, [S]."""

    def submit_greedy(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        wait = submit(tokens, batch)
        return lambda: wait().argmax(dim=-1)

    return submit_greedy


def teacher_forced(submit: SubmitLogits, reference: SubmitLogits, agreement: Agreement) -> Submit:
    """Steps for `generate` that go both ways with the reference's tokens; what came out is added to `agreement`."""

    def submit_both(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        wait, wait_reference = submit(tokens, batch), reference(tokens, batch)

        def wait_both() -> Tensor:
            expected = wait_reference()
            agreement.add(wait(), expected)
            return torch.argmax(expected, dim=-1)

        return wait_both

    return submit_both


def common_prefix(found: Sequence[int], expected: Sequence[int]) -> int:
    """How many tokens are the same before the first one that is not."""
    pairs = enumerate(zip(found, expected, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(found), len(expected)))


def preference(
    reference: SubmitLogits, prompt: Sequence[int], expected: Sequence[int], found: Sequence[int]
) -> float | None:
    """Where `found` first parts from `expected`: by how much the reference's logit of the expected token is larger.

    About 0 is a near tie, which rounding may decide either way. None if one is the beginning of the other. The
    reference computes prompt and answer up to there anew, in slot 0 of its KV cache.
    """
    same = common_prefix(found, expected)
    if same == min(len(found), len(expected)):
        return None
    tokens = [*prompt, *expected[:same]]
    logits = reference(torch.tensor(tokens), Batch(slots=(0,), starts=(0,), lengths=(len(tokens),)))()[0]
    return (logits[expected[same]] - logits[found[same]]).item()
