"""The graphs of disaggregated prefill, and whether what they compute is right."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import dagc
from examples.llm.agreement import Agreement, SubmitLogits, teacher_forced
from examples.llm.load import Arrival, requests
from examples.llm.model import Batch
from examples.llm.sequences import Group, generate
from examples.llm.serving import Pairs, Steps
from examples.llm.shard import evenly
from examples.llm.stage import Stage

STEP_TIMEOUT_S = 60.0


def groups_of(layers: int, size: int) -> list[range]:
    """All layers in groups of `size`, the last one maybe smaller."""
    return [range(first, min(first + size, layers)) for first in range(0, layers, size)]


def prefill_graph(prefill: Any, decode: Any, groups: Sequence[range], *, logits: bool = False) -> Any:
    """One prompt, prefilled on one actor, its KV cache handed over to another, group of layers by group.

    Takes tokens=[n] int64 and slot=; gives [first token [1], Admitted], or with `logits` [first logits, Admitted]. The
    prefill actor sends the cache of a group before it computes the next one, so all transfers but the last run while
    it computes. Both outputs are got alone: the first token is there before the slot is ready.
    """
    with dagc.InputNode() as given:
        x: Any = prefill.embed.bind(given.tokens)
        admitted: Any = None
        for group in groups:
            x, block = prefill.prefill.bind(x, group.start, group.stop)
            admitted = decode.admit.bind(block.with_tensor_transport(), given.slot, admitted)
        first = prefill.first_logits.bind(x) if logits else prefill.first_token.bind(x)
        return dagc.MultiOutputNode([first.with_tensor_transport(device="cpu"), admitted])


def step_graph(actor: Any, *, logits: bool = False) -> Any:
    """One step of all sequences of one actor: takes tokens= and batch=, gives the next ids [S], or their logits."""
    with dagc.InputNode() as given:
        step = actor.logits if logits else actor.forward
        return step.bind(given.tokens, given.batch).with_tensor_transport(device="cpu")


@dataclass(frozen=True)
class Graphs:
    """All that are installed, on the same actors."""

    pairs: Pairs
    steps: Steps
    """of every actor: also those that prefill have one, for serving colocated"""
    pairs_logits: Pairs
    steps_logits: Steps
    """of the decode actors; these two give logits"""
    at_once: dagc.CompiledGraph
    """of the first pair, as in `pairs`, but the cache of all layers goes over at the end"""


def compile_all(
    stack: ExitStack, replicas: Sequence[Any], prefills: Sequence[int], decodes: Sequence[int], layers: int, size: int
) -> Graphs:
    """Compile the graphs; the stack tears them down.

    prefills, decodes: which of the replicas do what; layers: of the model; size: how many are handed over together.
    """

    def install(dag: Any, name: str, max_inflight: int) -> dagc.CompiledGraph:
        compiled = dagc.compile(dag, name=name, max_inflight=max_inflight, timeout=STEP_TIMEOUT_S)
        return stack.enter_context(compiled)

    def install_pairs(name: str, *, logits: bool) -> dict[tuple[int, int], dagc.CompiledGraph]:
        groups = groups_of(layers, size)
        # 2 in flight: one prompt that is prefilled, and one whose last layers are on their way.
        return {
            (p, d): install(prefill_graph(replicas[p], replicas[d], groups, logits=logits), f"{name}-{p}-{d}", 2)
            for p in prefills
            for d in decodes
        }

    first, *_ = ((replicas[p], replicas[d]) for p in prefills for d in decodes)
    return Graphs(
        pairs=install_pairs("prefill", logits=False),
        steps={number: install(step_graph(actor), f"step-{number}", 1) for number, actor in enumerate(replicas)},
        pairs_logits=install_pairs("prefill-logits", logits=True),
        steps_logits={d: install(step_graph(replicas[d], logits=True), f"step-logits-{d}", 1) for d in decodes},
        at_once=install(prefill_graph(*first, groups_of(layers, layers)), "at-once", 1),
    )


# -- whether it is right


def expected_outputs(
    load: Sequence[Arrival], whole: Stage, pairs: Pairs, steps: Steps, slots: int, agreement: Agreement
) -> list[list[int]]:
    """What the unsplit model answers, greedily. The disaggregated one gets the same tokens; its logits are compared.

    pairs and steps: graphs that give logits. Every pair has its turn if there are as many requests. `whole` needs as
    many slots as the actors.
    """
    fresh = requests(load, 0.0)
    routes = list(pairs)
    turns = evenly(len(fresh), max(-(-len(fresh) // slots), min(len(routes), len(fresh))))
    outputs: list[list[int]] = []
    for turn, which in enumerate(turns):
        group = Group([*fresh[which.start : which.stop]])
        for slot, request in enumerate(group.requests):
            request.slot = slot
        route = routes[turn % len(routes)]
        submit = teacher_forced(handed_over(pairs[route], steps[route[1]]), unsplit(whole), agreement)
        outputs += generate([group], submit).outputs
    return outputs


def handed_over(pair: dagc.CompiledGraph, step: dagc.CompiledGraph) -> SubmitLogits:
    """Steps for `generate`: prompts are prefilled by one actor, decoded by another."""

    def submit(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        if any(batch.starts):
            return partial(step.execute(tokens=tokens, batch=batch).get, timeout=STEP_TIMEOUT_S)
        prompts = torch.split(tokens, list(batch.lengths))
        refs = [pair.execute(tokens=prompt, slot=slot) for prompt, slot in zip(prompts, batch.slots, strict=True)]

        def wait() -> Tensor:
            logits = [first.get(timeout=STEP_TIMEOUT_S) for first, _ in refs]
            for _, admitted in refs:
                admitted.get(timeout=STEP_TIMEOUT_S)
            return torch.cat(logits)

        return wait

    return submit


def unsplit(model: Stage) -> SubmitLogits:
    """Steps through the whole model in this process; the work is done where its result is waited for."""

    def submit(tokens: Tensor, batch: Batch) -> Callable[[], Tensor]:
        return partial(model.logits, tokens, batch)

    return submit


def regret(whole: Stage, prompt: Sequence[int], output: Sequence[int]) -> list[float]:
    """By how much, at each token of an answer, the unsplit model would have liked its own choice better.

    In logits; 0 where it would choose the same token after the same tokens. Where two tokens are nearly as likely,
    another composition of batches rounds otherwise and may choose the other one; then this is nearly 0.
    """
    found, cached, new = [], 0, list(prompt)
    for token in output:
        logits = whole.logits(torch.tensor(new), Batch((0,), (cached,), (len(new),)))[0]
        found.append(float(logits.max() - logits[token]))
        cached, new = cached + len(new), [token]
    return found
