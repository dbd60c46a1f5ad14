"""A server's I/O: requests arrive by the clock, a router says where they go, compiled graphs carry it out. asyncio.

Every actor that decodes has one step under way, since its next step needs the tokens of this one. Prefills run beside
the steps, each in an execution of the graph of its (prefill actor, decode actor) pair.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dagc import CompiledGraph
from examples.llm.load import Arrival, requests
from examples.llm.replica import Admitted
from examples.llm.router import Batcher, Route, Router, Served, batch_of


@dataclass(frozen=True)
class StepTime:
    """One step of one actor; times are those of time.perf_counter."""

    actor: int
    began_s: float
    ended_s: float
    sequences: int
    prompt_tokens: int
    """tokens of prompts, beside the one of each sequence that decodes"""


@dataclass
class Run:
    """What one run of the load produced."""

    requests: list[Served]
    started_s: float
    wall_s: float = 0.0
    steps: list[StepTime] = field(default_factory=list)
    admitted: dict[int, tuple[int, Admitted]] = field(default_factory=dict)
    """number of the request -> (decode actor, how its KV cache came there); empty where nothing is handed over"""
    busy_s: Sequence[float] = ()
    """seconds that each actor worked"""


# (prefill actor, decode actor) -> graph that takes (tokens, slot) and gives [first token, Admitted]
Pairs = Mapping[tuple[int, int], CompiledGraph]
# actor -> graph that takes (tokens, batch) and gives the next ids [S]
Steps = Mapping[int, CompiledGraph]


class Server:
    """Serves one load once, with `slots` sequences at most in each actor that decodes.

    Without `pairs` every actor of `steps` prefills for itself, by `chunk` tokens a step, or whole prompts. Actors are
    numbered as by `Router`.
    """

    def __init__(
        self, load: Sequence[Arrival], steps: Steps, pairs: Pairs | None = None, *, slots: int, chunk: int | None = None
    ) -> None:
        self._load = load
        self._steps = steps
        self._pairs = pairs or {}
        self._router = Router(len({prefill for prefill, _ in self._pairs}), len(steps), slots)
        self._batchers = {actor: Batcher(chunk) for actor in steps}

    async def run(self) -> Run:
        """Raises what a graph raises; then nothing of the run goes on."""
        started = time.perf_counter()
        self._unfinished = len(self._load)
        self._work = {actor: asyncio.Event() for actor in self._steps}
        self._done = Run(requests(self._load, started), started)
        self._routes = {request.number: asyncio.get_running_loop().create_future() for request in self._done.requests}
        await _all_of([*map(self._serve, self._done.requests), *map(self._decode, self._steps)])
        self._done.wall_s = time.perf_counter() - started
        return self._done

    async def _serve(self, request: Served) -> None:
        """One request, until its sequence is in the batches of an actor."""
        await asyncio.sleep(request.arrived_s - time.perf_counter())
        self._router.add(request)
        self._dispatch()
        route: Route = await self._routes[request.number]
        if self._pairs:
            await self._prefill(request, route)
        if request.finished:
            self._finished(request)
        else:
            self._batchers[route.decode].add(request)
            self._work[route.decode].set()

    async def _prefill(self, request: Served, route: Route) -> None:
        graph = self._pairs[route.prefill, route.decode]
        request.started_s = time.perf_counter()
        first_token, admitted = await graph.execute_async(tokens=torch.tensor(request.prompt), slot=request.slot)
        request.output.append(int(await first_token))
        request.times.append(time.perf_counter())
        self._router.prefilled(route)  # its last layers may still be on their way: the next prompt need not wait
        self._dispatch()
        self._done.admitted[request.number] = route.decode, await admitted
        request.cached = len(request.prompt)

    async def _decode(self, actor: int) -> None:
        """Steps of one actor, until the whole load is served."""
        batcher, graph, work = self._batchers[actor], self._steps[actor], self._work[actor]
        while self._unfinished:
            spans = batcher.next_step()
            if not spans:
                work.clear()
                await work.wait()
                continue
            began = time.perf_counter()
            for request, _ in spans:
                if not request.cached:
                    request.started_s = began
            tokens, batch = batch_of(spans)
            next_ids = (await (await graph.execute_async(tokens=tokens, batch=batch))).tolist()
            ended = time.perf_counter()
            prompt_tokens = len(tokens) - sum(1 for request, _ in spans if request.missing == 1)
            self._done.steps.append(StepTime(actor, began, ended, len(spans), prompt_tokens))
            for request in batcher.stepped(spans, next_ids, ended):
                self._finished(request)

    def _dispatch(self) -> None:
        for route in self._router.dispatch():
            self._routes[route.request.number].set_result(route)

    def _finished(self, request: Served) -> None:
        self._router.finished(self._routes[request.number].result())
        self._unfinished -= 1
        self._dispatch()
        if not self._unfinished:
            for work in self._work.values():
                work.set()


async def _all_of(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of them to their end; the first that raises ends the others. (asyncio.TaskGroup needs Python 3.11.)"""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
