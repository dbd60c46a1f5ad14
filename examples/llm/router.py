"""Who goes where, in a server: the queue, the slots, the batches. Scheduling state alone; no process, no clock.

Router    a request waits until a decode actor has a free slot, and an actor is free to prefill it
Batcher   of one actor: which tokens of which sequences its next step computes (continuous batching)
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.llm.model import Batch
from examples.llm.sequences import Request


@dataclass
class Served(Request):
    """A request to a server. `slot` is -1 until it has one; times are those of time.perf_counter."""

    number: int = 0
    kind: str = ""
    arrived_s: float = 0.0
    started_s: float = 0.0
    """when its prefill was submitted; it waited in the queue until then"""
    cached: int = 0
    """how many of its tokens, prompt and output, are in the KV cache"""

    @property
    def missing(self) -> int:
        """Tokens whose keys and values must be computed before the next token is known: 1 when it decodes."""
        return len(self.prompt) + len(self.output) - self.cached

    def span(self, tokens: int) -> list[int]:
        """The ids that come next into the cache."""
        return [*self.prompt, *self.output][self.cached : self.cached + tokens]


@dataclass(frozen=True)
class Route:
    """Where a request goes. Its slot is reserved from now on: keys and values arrive while the prompt is prefilled."""

    request: Served
    prefill: int
    """number of the actor that prefills it"""
    decode: int
    """number of the actor that decodes it"""


class Router:
    """First come, first served. Actors are numbered: the first `prefills` prefill, the next `decodes` decode.

    A request leaves the queue when a decode actor has a free slot and a prefill actor is idle. Without a slot
    nothing is prefilled: its KV cache would have nowhere to go. A prefill actor has one prompt at a time: two would
    take turns on it, and both would be late.

    With no prefill actors every decode actor prefills for itself, and free slots are the only limit.
    """

    def __init__(self, prefills: int, decodes: int, slots: int) -> None:
        self.waiting: deque[Served] = deque()
        self._colocated = not prefills
        self._idle = list(range(prefills))
        self._free = {prefills + number: list(range(slots)) for number in range(decodes)}

    def add(self, request: Served) -> None:
        self.waiting.append(request)

    def dispatch(self) -> list[Route]:
        """What can start now, in order of arrival; slots and prefill actors are taken for it."""
        routes = []
        while self.waiting and (self._colocated or self._idle):
            decode = max(self._free, key=lambda number: len(self._free[number]))  # the first of the emptiest
            if not self._free[decode]:
                break
            request = self.waiting.popleft()
            request.slot = self._free[decode].pop(0)
            routes.append(Route(request, decode if self._colocated else self._idle.pop(0), decode))
        return routes

    def prefilled(self, route: Route) -> None:
        """The prefill actor has nothing more to do for this request. Raises ValueError if it was idle already."""
        if not self._colocated:
            if route.prefill in self._idle:
                raise ValueError(f"prefill actor {route.prefill} is idle; expected it to be at work on {route}")
            self._idle.append(route.prefill)

    def finished(self, route: Route) -> None:
        """The request has its answer; its slot is free. Raises ValueError if it was free already."""
        free = self._free[route.decode]
        if route.request.slot in free:
            raise ValueError(f"slot {route.request.slot} of actor {route.decode} is free; expected it to be {route}'s")
        free.append(route.request.slot)


class Batcher:
    """The sequences of one actor. Every step has all that decode, one token each, and some tokens of prompts.

    chunk: how many tokens of prompts a step has at most (chunked prefill, Agrawal et al. 2023, arXiv:2308.16369, whose
    steps are such batches of a chunk and decodes); None for one whole prompt at a time.
    """

    def __init__(self, chunk: int | None = None) -> None:
        self._chunk = chunk
        self._running: list[Served] = []

    def add(self, request: Served) -> None:
        """A request with a slot: its prompt may be in the cache already, or not."""
        self._running.append(request)

    def next_step(self) -> list[tuple[Served, int]]:
        """Which sequences take part, and with how many tokens; empty if there is nothing to do."""
        spans = [(request, 1) for request in self._running if request.missing == 1]
        budget = self._chunk
        for request in self._running:
            if request.missing > 1:
                tokens = request.missing if budget is None else min(request.missing, budget)
                spans.append((request, tokens))
                budget = (budget or 0) - tokens
                if budget <= 0:
                    break
        return spans

    def stepped(self, spans: Sequence[tuple[Served, int]], next_ids: Sequence[int], now_s: float) -> list[Served]:
        """Take in the result of a step, one id for each of its sequences; returns those that are finished.

        A sequence gets a token if the step had all that was missing of it. The id after a part of a prompt means
        nothing.
        """
        for (request, tokens), token in zip(spans, next_ids, strict=True):
            complete = tokens == request.missing
            request.cached += tokens
            if complete:
                request.output.append(token)
                request.times.append(now_s)
        finished = [request for request, _ in spans if request.finished]
        self._running = [request for request in self._running if not request.finished]
        return finished


def batch_of(spans: Sequence[tuple[Served, int]]) -> tuple[Tensor, Batch]:
    """Token ids [T] int64 of a step, and where they belong."""
    batch = Batch(
        slots=tuple(request.slot for request, _ in spans),
        starts=tuple(request.cached for request, _ in spans),
        lengths=tuple(tokens for _, tokens in spans),
    )
    return torch.tensor([token for request, tokens in spans for token in request.span(tokens)]), batch
