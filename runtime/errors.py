"""What can go wrong with actors and calls, under `channels.errors.DagcError`.

DagcError
├── GraphError (also a ValueError)       a call or a graph was refused; nothing was started
│   ├── NoSuchMethodError                (also an AttributeError)
│   └── WrongArgumentsError              (also a TypeError)
├── EngineError                          the runtime cannot do what was asked: not started, started twice, shut down
├── ActorDiedError(actor, pid, reason)   the process or thread of an actor is gone
└── GetTimeoutError (also a TimeoutError) a result did not come in time; it may be got again
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from channels.errors import DagcError

__all__ = [
    "ActorDiedError",
    "EngineError",
    "GetTimeoutError",
    "GraphError",
    "NoSuchMethodError",
    "WrongArgumentsError",
    "add_note",
    "formatted",
    "not_started",
]


class GraphError(DagcError, ValueError):
    """A graph or a call was refused. The message says what was found, what was expected and what to write."""


class NoSuchMethodError(GraphError, AttributeError):
    """There is no such method. The message lists those that there are, or says what to write in its place."""


class WrongArgumentsError(GraphError, TypeError):
    """The arguments do not fit the method's signature, which the message shows."""


class EngineError(DagcError, RuntimeError):
    """The runtime is not in the state that the call needs: not started, started already, or shut down."""


class ActorDiedError(DagcError):
    """An actor is dead: what it was doing will never finish.

    actor: its label, `Class(name or id)`. pid: of its process, 0 if it never had one. reason: signal, exit code,
    or what else is known, in words.
    """

    def __init__(self, actor: str, pid: int, reason: str) -> None:
        super().__init__(f"actor {actor} (pid {pid}) died: {reason}")
        self.actor = actor
        self.pid = pid
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.actor, self.pid, self.reason)


class GetTimeoutError(DagcError, TimeoutError):
    """A result did not come in time. Nothing is lost: the same ref may be got again."""


def not_started(actors: Sequence[str], timeout: float | None) -> GetTimeoutError:
    """The error for actors, by their labels, of which it is not known where they are."""
    return GetTimeoutError(
        f"not started within {timeout} s: {', '.join(actors)}; a constructor that takes longer needs a longer timeout, "
        "one that waits for something never returns"
    )


def add_note(error: BaseException, note: str) -> None:
    """Add a line to what a traceback shows, once. Python 3.10 has no add_note, but pytest and others read __notes__.

    Into its `__dict__`: a class may refuse attributes, as a frozen dataclass does, or have something else of that name.
    """
    attributes: dict[str, Any] = BaseException.__dict__["__dict__"].__get__(error)
    notes = attributes.get("__notes__")
    if not isinstance(notes, list):
        notes = []
    if note not in notes:
        attributes["__notes__"] = [*notes, note]


def formatted(error: BaseException, trace: TracebackType | None) -> str:
    """The text of an exception and of this traceback, as Python prints it.

    Of one whose class does not let itself be looked at (`__getattr__` that raises a KeyError), the frames and the type.
    """
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception as problem:  # noqa: BLE001 - a class of the user's; whoever waits must still hear of it
        frames = "".join(traceback.format_tb(trace))
        name = type(error).__qualname__
        return f"Traceback (most recent call last):\n{frames}{name}: <not printable: {type(problem).__name__}>\n"
