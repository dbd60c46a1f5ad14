"""Prompts, groups of prompts, and the decode loop that keeps every stage busy.

A sequence's next token depends on its last one, so one sequence can occupy one stage at a time. The sequences are
therefore split into groups, and every group has one step under way: with at least as many groups as stages, each stage
has a group to work on.

    stage 0   A0 B0 A1 B1 A2 B2 ...         A0: step 0 (prefill) of group A
    stage 1      A0 B0 A1 B1 A2 B2 ...
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean

import torch
from torch import Tensor

from examples.llm.model import Batch


@dataclass
class Request:
    """One prompt and what has been generated for it; it keeps its slot of the KV cache throughout."""

    slot: int
    prompt: Sequence[int]
    max_new_tokens: int
    eos_token_ids: Sequence[int]
    output: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # when each token came, seconds after the start

    @property
    def finished(self) -> bool:
        return len(self.output) == self.max_new_tokens or bool(self.output and self.output[-1] in self.eos_token_ids)


@dataclass
class Group:
    """Requests that take their steps together, as one batch; a finished one leaves the batch."""

    requests: list[Request]

    @property
    def running(self) -> list[Request]:
        return [request for request in self.requests if not request.finished]

    def next_step(self) -> tuple[Tensor, Batch]:
        """Token ids [T] int64 and where they belong: whole prompts at first, then the last token of each request."""
        spans = [request.output[-1:] or request.prompt for request in self.running]
        lengths = [len(span) for span in spans]
        ends = [len(request.prompt) + len(request.output) for request in self.running]
        batch = Batch(
            slots=tuple(request.slot for request in self.running),
            starts=tuple(end - length for end, length in zip(ends, lengths, strict=True)),
            lengths=tuple(lengths),
        )
        return torch.tensor([token for span in spans for token in span]), batch


@dataclass(frozen=True)
class Workload:
    """Prompts to answer, as token ids, and when an answer ends."""

    prompts: list[list[int]]
    max_new_tokens: int
    eos_token_ids: Sequence[int]

    @property
    def max_len(self) -> int:
        """The longest that a sequence can get: what a slot of the KV cache must hold."""
        return max(map(len, self.prompts)) + self.max_new_tokens

    def deal(self, groups: int) -> list[Group]:
        """Fresh requests, dealt out to at most `groups` groups of about equal size."""
        requests = [
            Request(slot, prompt, self.max_new_tokens, self.eos_token_ids) for slot, prompt in enumerate(self.prompts)
        ]
        return [Group(requests[first::groups]) for first in range(min(groups, len(requests)))]


@dataclass(frozen=True)
class Generation:
    """What one run of the decode loop produced, and how fast."""

    outputs: list[list[int]]
    """token ids by prompt"""
    wall_s: float
    ttft_s: float
    """time to first token, mean over prompts"""
    tpot_s: float
    """time per output token after the first, mean over prompts; 0 if nobody got a second one"""

    @property
    def tokens_per_s(self) -> float:
        return sum(map(len, self.outputs)) / self.wall_s


# Starts one step and returns a function that waits for its result, the next token ids [S].
Submit = Callable[[Tensor, Batch], Callable[[], Tensor]]


def generate(groups: Sequence[Group], submit: Submit, on_token: Callable[[Request], None] | None = None) -> Generation:
    """Decode every request to its end, each group with one step in flight.

    The stages are first in, first out, so the step submitted first is the one to wait for: a deque is all the scheduler
    that this needs.
    """
    started = time.perf_counter()
    in_flight = deque((group, submit(*group.next_step())) for group in groups)
    while in_flight:
        group, wait = in_flight.popleft()
        next_ids = wait().tolist()
        now = time.perf_counter() - started
        stepped = group.running
        for request, token in zip(stepped, next_ids, strict=True):
            request.output.append(token)
            request.times.append(now)
        if group.running:
            in_flight.append((group, submit(*group.next_step())))
        if on_token:  # only now: the stages are at work again
            for request in stepped:
                on_token(request)

    wall_s = time.perf_counter() - started
    requests = sorted((request for group in groups for request in group.requests), key=lambda request: request.slot)
    gaps = [(r.times[-1] - r.times[0]) / (len(r.times) - 1) for r in requests if len(r.times) > 1]
    return Generation(
        outputs=[request.output for request in requests],
        wall_s=wall_s,
        ttft_s=mean(request.times[0] for request in requests),
        tpot_s=mean(gaps) if gaps else 0.0,
    )
