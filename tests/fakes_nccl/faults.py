"""What goes wrong, and what was done wrong, in this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

__all__ = ["calls", "faults", "inject", "reset", "violations"]


@dataclass
class Faults:
    """Each may be set at any time."""

    #: What ncclCommGetAsyncError gives: an ncclResult_t.
    async_error: int = 0
    #: A peer whose process has ended is an async error (as over a network); else nobody notices (as over NVLink).
    notices_deaths: bool = False
    #: ncclCommAbort and ncclCommDestroy do not come back until this is set.
    may_end: threading.Event = field(default_factory=threading.Event)
    #: ncclCommInitRank waits for this.
    may_init: threading.Event = field(default_factory=threading.Event)
    #: The first operation of this name raises this ncclResult_t.
    refuses: dict[str, int] = field(default_factory=dict)
    #: Kernels wait for this before they begin.
    may_run: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        for event in (self.may_end, self.may_init, self.may_run):
            event.set()


faults = Faults()
#: What nobody would notice, but is wrong.
violations: list[str] = []
#: The calls of NCCL in their order: (name, count, number of the stream on its device); ("group", its operations, 0).
calls: list[tuple[Any, ...]] = []


def inject(**changes: Any) -> None:
    """Set faults of this process. An event is given as a bool."""
    for name, value in changes.items():
        current = getattr(faults, name)
        if isinstance(current, threading.Event):
            current.set() if value else current.clear()
        else:
            setattr(faults, name, value)


def reset() -> None:
    faults.__init__()  # type: ignore[misc]
    violations.clear()
    calls.clear()
