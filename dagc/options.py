"""The options of `dagc.compile`, checked."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from channels.spec import DEFAULT_BUFFER_BYTES, DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_SLOTS
from dagc.errors import GraphError

__all__ = ["CompileOptions"]

_numbers = itertools.count()


def _next_name() -> str:
    return f"dag-{next(_numbers)}"


@dataclass(frozen=True)
class CompileOptions:
    """How a graph is compiled. Raises GraphError for a value that cannot be meant."""

    #: Of the graph, in plan, trace and errors; not checked to be unique. Without one: dag-0, dag-1, ...
    name: str = field(default_factory=_next_name)
    #: Executions under way at the same time; `execute` waits while there are as many.
    max_inflight: int = DEFAULT_SLOTS
    #: Bytes that a slot of a channel holds inline; larger messages travel in blocks beside the slots.
    buffer_bytes: int = DEFAULT_BUFFER_BYTES
    #: A larger message fails its execution with MessageTooLargeError.
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    #: Seconds, of `execute`, `get` and every op unless given there; None waits for ever.
    timeout: float | None = None
    #: Microseconds that a wait may yield the CPU before it sleeps; "auto" is what was measured to be best.
    spin: float | str = "auto"
    #: "bind": every actor makes its calls in the order of bind, one execution after the other. "free": only data and
    #: `after` order them; the compiler chooses, and an actor that waits may begin the next execution.
    order: str = "bind"
    #: True: every op is timed, for `trace`, `predict` and `report`. "nvtx": also marked as a range for NVIDIA's tools.
    trace: bool | str = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or any(c.isspace() for c in self.name):
            raise _refused("name", self.name, "a word without white space")
        for option, low, high in (
            ("max_inflight", 1, 2**20),
            ("buffer_bytes", 64, 2**26),
            ("max_message_bytes", 1, 2**62),
        ):
            value = getattr(self, option)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise _refused(option, value, f"a whole number from {low} to {high}")
        if self.timeout is not None and not (_is_number(self.timeout) and 0 < self.timeout < math.inf):
            raise _refused("timeout", self.timeout, "a number of seconds above 0, or None to wait for ever")
        if self.order not in ("bind", "free"):
            raise _refused("order", self.order, "'bind' or 'free'")
        if not isinstance(self.trace, bool) and self.trace != "nvtx":
            raise _refused("trace", self.trace, "True, False, or 'nvtx'")
        if self.spin != "auto" and (
            isinstance(self.spin, str) or not (_is_number(self.spin) and 0 <= self.spin < math.inf)
        ):
            raise _refused("spin", self.spin, "'auto', or a number of microseconds of at least 0")

    @staticmethod
    def from_keywords(keywords: Mapping[str, Any]) -> CompileOptions:
        """The options that `compile(dag, **keywords)` means; a name of None is none.

        Raises GraphError for an unknown keyword too, with the known ones.
        """
        known = [f.name for f in fields(CompileOptions)]
        for keyword in keywords:
            if keyword not in known:
                close = difflib.get_close_matches(keyword, known, n=1)
                meant = f"; did you mean {close[0]}?" if close else "."
                raise GraphError(f"compile has no option {keyword!r}{meant} Its options are: {', '.join(known)}")
        return CompileOptions(**{k: v for k, v in keywords.items() if not (k == "name" and v is None)})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refused(option: str, found: object, expected: str) -> GraphError:
    return GraphError(f"compile option {option}={found!r}; expected {expected}")
