"""joiner: an actor's part in a collective, as a function of its value.

Whatever happened to its value, an actor joins: the others wait for it. With a Failure, or with something that is no
tensor, it declines instead, and says why, which fails the collective on every rank and leaves the group as it was. So
an exception on one rank is that very exception on all of them, of this execution, whichever rank's value is asked for;
and the next execution is as good as any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channels import ChannelBroken, ChannelClosed, Failure
from channels.communicators import Communicator
from channels.devices import check_history
from channels.errors import MismatchError
from channels.failures import describe
from channels.serialize import pack, unpack
from dagc.program import Join
from runtime.errors import add_note

__all__ = ["joiner"]

#: Characters of an exception in the reason of an abort, which has to fit into a message.
_REASON = 1000


def joiner(
    step: Join, communicator: Communicator, report: Callable[[BaseException, int], Failure]
) -> Callable[[Any, int], Any]:
    """The function of (value, execution) that takes part and returns what the collective leaves here, or a Failure.

    `report` makes the Failure of an exception. Raises ChannelClosed or ChannelBroken if the group has ended.
    """
    collective = _collective(step, communicator)

    def join(value: Any, execution: int) -> Any:
        if type(value) is Failure:
            return decline(value, execution)
        try:
            if getattr(value, "requires_grad", False):
                check_history(value)  # as on an edge: it would be lost without a word
            return collective(value)
        except (ChannelClosed, ChannelBroken):
            raise
        except MismatchError as error:
            if not error.cause:
                return report(error, execution)
            return noted(unpack(error.cause), error, execution)
        except Exception as error:  # noqa: BLE001 - no tensor, or one that the transport cannot take
            return decline(report(error, execution), execution)

    def decline(failure: Failure, execution: int) -> Failure:
        if not communicator.checks_requests:
            # To decline there is to abort, and this rank knows a better reason.
            communicator.abort(
                f"rank {communicator.rank} had nothing for {step.group}, execution {execution}, and "
                f"{communicator.transport} has no way to tell the others: {describe(failure.error)[:_REASON]}"
            )
            return failure
        try:
            communicator.decline(cause=pack(failure))
        except MismatchError as error:
            return noted(failure, error, execution)  # its own, also if a lower rank declined, too
        return failure  # all declined: nothing was kept from running here

    def noted(failure: Failure, error: MismatchError, execution: int) -> Failure:
        declined = ", ".join(map(str, error.declined))
        ranks = f"rank{'s' if len(error.declined) > 1 else ''} {declined}"
        add_note(failure.error, f"kept {step.group} from running on any rank, execution {execution}: {ranks} declined")
        return failure

    return join


def _collective(step: Join, communicator: Communicator) -> Callable[[Any], Any]:
    if step.kind == "allreduce":
        return lambda value: communicator.allreduce(value, step.op)
    if step.kind == "reducescatter":
        return lambda value: communicator.reducescatter(value, step.op)
    if step.kind == "allgather":
        return communicator.allgather
    # What is broadcast goes into a new tensor: the one that is there may be somebody's, and may not be written to.
    root = communicator.rank == step.root
    return lambda value: communicator.broadcast(value if root else communicator.accepts(value), step.root)
