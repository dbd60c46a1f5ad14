"""joiner: an actor's part in a collective, as a function of its value.

Whatever happened to its value, an actor joins: the others wait for it. With a Failure, or with something that is no
tensor, it declines instead, which fails the collective on every rank and leaves the group as it was. So an exception on
one rank is an exception of this execution on all of them, and the next one is as good as any.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from channels import ChannelBroken, ChannelClosed, Failure
from channels.communicators import Communicator
from channels.errors import MismatchError
from dagc.program import Join

__all__ = ["joiner"]


def joiner(
    step: Join, communicator: Communicator, report: Callable[[BaseException, int], Failure]
) -> Callable[[Any, int], Any]:
    """The function of (value, execution) that takes part and returns what the collective leaves here, or a Failure.

    `report` makes the Failure of an exception. Raises ChannelClosed or ChannelBroken if the group has ended.
    """
    collective = _collective(step, communicator)

    def join(value: Any, execution: int) -> Any:
        if type(value) is Failure:
            _decline(communicator)
            return value
        try:
            return collective(value)
        except (ChannelClosed, ChannelBroken):
            raise
        except MismatchError as error:
            return report(error, execution)
        except Exception as error:  # noqa: BLE001 - no tensor, or one that the transport cannot take
            _decline(communicator)
            return report(error, execution)

    return join


def _decline(communicator: Communicator) -> None:
    with suppress(MismatchError):  # every rank raises it; this one knows the cause
        communicator.decline()


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
