"""PartyTrace: when one party did each of its ops, as arrays.

A row an execution, a column an op. Nanoseconds of CLOCK_MONOTONIC (`time.perf_counter_ns`), one clock for all processes
of a machine, so stamps of different parties can be compared.

In arrays and not as a list of spans, because a party stamps millions of ops: two stores an op when it records, and
medians over executions are one call of numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagc.plan import Op, OpKind

__all__ = ["PartyTrace", "unfused"]


def unfused(ops: Iterable[Op]) -> tuple[Op, ...]:
    """The ops as a trace has them: a fused RUN of several calls stands there as one RUN op a call."""
    return tuple(
        each for op in ops for each in ((Op(op.kind, call) for call in op.calls) if op.kind is OpKind.RUN else (op,))
    )


@dataclass(frozen=True, eq=False)
class PartyTrace:
    """What one party stamped. Raises ValueError if the arrays do not fit together."""

    party: str
    pid: int
    #: Of one execution, in the order of the plan, `unfused`.
    ops: tuple[Op, ...]
    #: (rows,) int64: the numbers of the executions, ascending.
    executions: NDArray[np.int64]
    #: (rows, len(ops)) int64, ns. A RECV's span holds the waiting for the message and taking it, a SEND's the waiting
    #: for a free slot and writing, a RUN's the method and waiting for its turn on the actor.
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    #: (rows, len(ops)) int64: ns of CPU time of the party's thread during a RUN; 0 for other ops.
    cpu: NDArray[np.int64]

    def __post_init__(self) -> None:
        expected = (len(self.executions), len(self.ops))
        for name in ("executions", "begins", "ends", "cpu"):
            array = getattr(self, name)
            shape = expected[:1] if name == "executions" else expected
            if array.shape != shape or array.dtype != np.int64:
                raise ValueError(
                    f"trace of {self.party}: {name} is {array.dtype} {array.shape}; expected int64 {shape}, "
                    "a row an execution and a column an op"
                )
        if np.any(np.diff(self.executions) <= 0):
            raise ValueError(f"trace of {self.party}: the executions are not ascending")
