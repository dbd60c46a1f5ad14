"""Where everybody is, read from the counters of the channels: nothing is recorded on the way for it.

Of each channel it is known how many messages were published and how many each reader took. An actor's ops come in a
fixed order, so the first one that its channels do not show as done is where it is.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    found: dict[str, int] = {}
    for party, ops in plan.schedule.items():
        if party == DRIVER:
            continue
        reached = 0
        for index, op in enumerate(ops):
            if op.kind in (OpKind.RUN, OpKind.JOIN, OpKind.POST):
                continue
            counted = statistics[op.target]
            if op.kind is OpKind.SEND:
                done = counted.messages >= execution
            else:
                done = counted.read[plan.by_name[op.target].readers.index(party)] >= execution
            if not done:
                break
            reached = index + 1
        found[party] = reached
    return found


def _meets(plan: Plan, op: Op) -> bool:
    return op.kind in (OpKind.SEND, OpKind.RECV) and plan.by_name[op.target].slots == 0


def explain_wait(plan: Plan, statistics: Mapping[str, ChannelStatistics], execution: int) -> str:
    """What an execution waits for, in a sentence: first who is busy, then who waits for whom."""
    busy, waiting = [], []
    for party, index in positions(plan, statistics, execution).items():
        ops = plan.schedule[party]
        if index == len(ops):
            continue
        op = ops[index]
        if op.kind is OpKind.RECV:
            waiting.append(f"{party} for channel {op.target} from {plan.by_name[op.target].writer}")
        elif op.kind is OpKind.RUN:
            # Of a rendezvous right before it, the tensors may not have come yet, or not have gone.
            meeting = ops[index - 1] if index else op
            with_tensors = meeting.kind is not OpKind.RUN and _meets(plan, meeting)
            busy.append(f"{party} in {op}{f', or still in {meeting}' if with_tensors else ''}")
        elif op.kind is OpKind.JOIN:
            waiting.append(f"{party} for the others of {op.target}, unless it is about to {op}")
        elif op.kind is OpKind.POST:
            busy.append(f"{party} before {op}")
        else:
            waiting.append(f"{party} for a free slot of channel {op.target}")
    parts = [f"at work: {', '.join(busy)}"] if busy else []
    parts += [f"waiting: {', '.join(waiting)}"] if waiting else []
    return f"execution {execution} of graph {plan.name} is under way; {'; '.join(parts) or 'every actor is through'}"
