"""The error for the death of an actor, with what killed it if that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channels.failures import describe
from channels.serialize import unpack
from runtime.errors import ActorDiedError

if TYPE_CHECKING:
    from channels.base import Failure

__all__ = ["death_error"]

#: Of the text of a cause, in the message of the death; all of it is in `__cause__`.
CAUSE_CHARACTERS = 300


def death_error(label: str, pid: int, reason: str, cause: bytes = b"") -> ActorDiedError:
    """`cause`: a packed Failure, which is also told in short: logs often keep a message and nothing else.

    A new error each time, because each raise writes into it. May run user code (unpickling).
    """
    if not cause:
        return ActorDiedError(label, pid, reason)
    failure: Failure = unpack(cause)
    found = failure.unwrap()
    error = ActorDiedError(label, pid, f"{reason}: {_in_short(found)}")
    error.__cause__ = found
    return error


def _in_short(error: BaseException) -> str:
    text = describe(error)
    first = text.partition("\n")[0][:CAUSE_CHARACTERS]
    return first if first == text else f"{first} ..."
