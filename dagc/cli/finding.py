"""What `dagc doctor` finds: one line a check, and a check that fails is a finding too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["Check", "Finding", "Status", "absent", "examine", "ok", "problem"]


class Status(Enum):
    """Its value is what stands in front of the line."""

    OK = "ok"
    #: Not there, and dagc runs without it.
    ABSENT = "--"
    #: It keeps dagc from running, or from running well.
    PROBLEM = "!!"


@dataclass(frozen=True)
class Finding:
    """The answer of one check."""

    name: str
    status: Status
    #: What there is, with its numbers.
    found: str
    #: What to do: how to get what is absent, how to mend a problem. Empty where there is nothing to do.
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.found}; {self.advice}" if self.advice else self.found


#: It looks at this machine; what it reads it takes as parameters with defaults, so that a test can show it another one.
Check = Callable[[], Finding]


def ok(name: str, found: str, advice: str = "") -> Finding:
    return Finding(name, Status.OK, found, advice)


def absent(name: str, found: str, advice: str) -> Finding:
    return Finding(name, Status.ABSENT, found, advice)


def problem(name: str, found: str, advice: str) -> Finding:
    return Finding(name, Status.PROBLEM, found, advice)


def examine(name: str, check: Check) -> Finding:
    """What the check finds. One that raises is a problem of that name, so that the others are still made."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever a strange machine does to a check is what is to be told
        return problem(
            name,
            f"the check failed: {type(error).__name__}: {error}",
            "if no other line says why, report it with this one",
        )
