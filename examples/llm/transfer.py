"""What handing a KV cache over costs: on idle actors, and under load."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from dagc import CompiledGraph
from examples.llm.disaggregation import STEP_TIMEOUT_S
from examples.llm.replica import Admitted
from examples.llm.serving import Run, StepTime


@dataclass(frozen=True)
class Transfer:
    """One way of handing the KV cache of one prompt over, on idle actors; medians."""

    name: str
    bytes: int
    prefill_s: float
    """from submitting the prompt to its first token"""
    exposed_s: float
    """from the end of the last layer's prefill to the slot being ready; of a plain copy, what it takes"""

    @property
    def gb_per_s(self) -> float:
        """All bytes over the exposed time: how quick a transfer at the end would have to be to expose as little."""
        return self.bytes / self.exposed_s / 1e9


def transfers(graphs: Mapping[str, CompiledGraph], prompt: Sequence[int], rounds: int) -> list[Transfer]:
    """Each graph hands the same prompt over to slot 0, taking turns; last, a copy of as many bytes in this process.

    The graphs are those of `prefill_graph`. The copy is numpy's, of one thread, into memory that was written to before.
    """
    tokens = torch.tensor(prompt)
    prefills: dict[str, list[float]] = {name: [] for name in graphs}
    admissions: dict[str, list[Admitted]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            began = time.perf_counter()
            first_token, admitted = graph.execute(tokens=tokens, slot=0)
            first_token.get(timeout=STEP_TIMEOUT_S)
            prefills[name].append(time.perf_counter() - began)
            admissions[name].append(admitted.get(timeout=STEP_TIMEOUT_S))
    found = [
        Transfer(name, several[0].bytes, median(prefills[name]), median(of.exposed_s for of in several))
        for name, several in admissions.items()
    ]
    size = found[0].bytes
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    copies = []
    for _ in range(max(rounds, 5)):
        began = time.perf_counter()
        np.copyto(target, source)
        copies.append(time.perf_counter() - began)
    return [*found, Transfer("memcpy", size, 0.0, median(copies))]


@dataclass(frozen=True)
class StepTimes:
    """Decode steps of one kind: how many, and the median of their times, from submitting one to its tokens."""

    steps: int
    median_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "StepTimes":
        return cls(len(seconds), median(seconds) if seconds else 0.0)


@dataclass(frozen=True)
class Interference:
    """What admissions do to the decode steps of the same actor, under load."""

    copying_s: float
    """of one prompt: how long its copies held the decode actor, all together; median"""
    exposed_s: float
    """as of a `Transfer`; median. It includes waiting for the decode step that runs."""
    alone: StepTimes
    """steps while no prompt was on its way to the actor"""
    between: StepTimes
    """while one was, but none of its blocks was copied during the step"""
    during: StepTimes
    """with a block copied before the step, or in the middle of waiting for it"""


def interference(runs: Sequence[Run]) -> Interference:
    """Over all admissions and decode steps of these runs. Raises ValueError if nothing was admitted."""
    admitted = [of for run in runs for _, of in run.admitted.values()]
    if not admitted:
        raise ValueError("nothing was admitted in these runs; expected runs of disaggregated serving")
    times: dict[str, list[float]] = {"alone": [], "between": [], "during": []}
    for run in runs:
        copies = [(actor, *copy) for actor, of in run.admitted.values() for copy in of.copies]
        under_way = [
            (actor, run.requests[number].started_s, of.ready_s) for number, (actor, of) in run.admitted.items()
        ]
        for step in run.steps:
            kind = "during" if overlaps(copies, step) else "between" if overlaps(under_way, step) else "alone"
            times[kind].append(step.ended_s - step.began_s)
    return Interference(
        median(of.copying_s for of in admitted),
        median(of.exposed_s for of in admitted),
        **{kind: StepTimes.of(seconds) for kind, seconds in times.items()},
    )


def overlaps(spans: Sequence[tuple[int, float, float]], step: StepTime) -> bool:
    """Whether one of the (actor, began, ended) is of the step's actor and has a moment in common with it."""
    return any(actor == step.actor and began < step.ended_s and ended > step.began_s for actor, began, ended in spans)
