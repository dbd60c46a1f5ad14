"""Where everybody is, read from the counters of the channels: nothing is recorded on the way for it.

Of each channel it is known how many messages were published and how many each reader took. An actor's ops come in a
fixed order, so the first one that its channels do not show as done is where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from channels import ChannelStatistics
from dagc.graph import DRIVER
from dagc.plan import Op, OpKind, Plan

__all__ = ["explain_wait", "positions"]


def positions(plan: Plan, statistics: Mapping[str, ChannelStatistics], execution: int) -> dict[str, int]:
    """Actor -> the index of the op that it has reached in this execution; as many as it has ops when it is through.

    A run, a join or a post with nothing visible after it counts as reached once everything before it is done. So does a
    send or a receive of a rendezvous, of whose message only the head is counted: the op after it may still be out of
    reach.
    """
    return {party: _position(_counts(plan, statistics, party), execution) for party in plan.schedule if party != DRIVER}


def _counts(plan: Plan, statistics: Mapping[str, ChannelStatistics], party: str) -> dict[int, int]:
    """Index of an op -> of how many executions its channel shows it as done."""
    found: dict[int, int] = {}
    for index, op in enumerate(plan.schedule[party]):
        if op.kind is OpKind.SEND:
            found[index] = statistics[op.target].messages
        elif op.kind is OpKind.RECV:
            found[index] = statistics[op.target].read[plan.by_name[op.target].readers.index(party)]
    return found


def _position(counts: Mapping[int, int], execution: int) -> int:
    reached = 0
    for index, count in counts.items():
        if count < execution:
            break
        reached = index + 1
    return reached


def _meets(plan: Plan, op: Op) -> bool:
    return op.kind in (OpKind.SEND, OpKind.RECV) and plan.by_name[op.target].slots == 0


def explain_wait(
    plan: Plan,
    statistics: Mapping[str, ChannelStatistics],
    execution: int,
    halted: Callable[[str], str] = lambda _actor: "",
) -> str:
    """What an execution waits for, in a sentence: first who is busy, then who leaves what is there, then who waits.

    Of an actor that is not through with an earlier execution it is told where it is in that one. `halted(actor)`: what
    keeps its process from running, in words; nobody is asked who waits for another.
    """
    busy, late, waiting = [], [], []
    for party in plan.schedule:
        if party == DRIVER:
            continue
        counts = _counts(plan, statistics, party)
        oldest = min(1 + min(counts.values(), default=execution), execution)
        index = _position(counts, oldest)
        ops = plan.schedule[party]
        if index == len(ops):
            continue
        op = ops[index]
        of = f" of execution {oldest}" if oldest < execution else ""
        if op.kind is OpKind.RECV and statistics[op.target].messages < oldest:
            waiting.append(f"{party} for channel {op.target} from {plan.by_name[op.target].writer}{of}")
            continue
        halt = halted(party)
        but = f", but {halt}" if halt else ""
        if op.kind is OpKind.RECV:
            there = "the head of which is there" if _meets(plan, op) else "which is there"
            late.append(f"{party} has not taken channel {op.target}{of}, {there}{f': {halt}' if halt else ''}")
        elif op.kind is OpKind.RUN:
            # Of a rendezvous right before it, the tensors may not have come yet, or not have gone.
            meeting = ops[index - 1] if index else op
            with_tensors = meeting.kind is not OpKind.RUN and _meets(plan, meeting)
            busy.append(f"{party} in {op}{of}{f', or still in {meeting}' if with_tensors else ''}{but}")
        elif op.kind is OpKind.JOIN:
            waiting.append(f"{party} for the others of {op.target}{of}, unless it is about to {op}{but}")
        elif op.kind is OpKind.POST:
            busy.append(f"{party} before {op}{of}{but}")
        elif halt:
            late.append(f"{party} has not sent channel {op.target}{of}: {halt}")
        else:
            waiting.append(f"{party} for a free slot of channel {op.target}{of}")
    parts = [f"at work: {', '.join(busy)}"] if busy else []
    parts += late
    parts += [f"waiting: {', '.join(waiting)}"] if waiting else []
    return f"execution {execution} of graph {plan.name} is under way; {'; '.join(parts) or 'every actor is through'}"
