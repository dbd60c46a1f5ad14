"""Costs: what each call, send and recv takes, for `predict`. Measured by `Trace.costs`, or made up by `Costs.of`.

measured = graph.trace().costs()
faster = dataclasses.replace(measured, runs={**measured.runs, "Stage_1.forward": RunCost(cpu=2e-3)})
guess = Costs.of(graph.plan, {"Stage_0.forward": 5e-3, "Stage_1.forward": 2e-3})
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real

from dagc.errors import GraphError
from dagc.plan import OpKind, Plan
from dagc.tables import duration, table

__all__ = ["RECV", "SEND", "WAKE", "Costs", "RunCost", "calls_of"]

#: Seconds, for costs that are made up: measured with an array of 4 KB between two processes of one machine (an Intel
#: Xeon of 2023, 2 virtual cores). To send it takes 2.2 us, or 4 us while its reader waits for it; to take it 1.8 us;
#: a reader that sleeps goes on 4 us after the send, or 24 us if its core went to sleep, too. Numbers cost a tenth.
SEND, RECV, WAKE = 3e-6, 2e-6, 10e-6

#: Names that an error lists.
_SHOWN = 8


@dataclass(frozen=True)
class RunCost:
    """Of a call, in seconds. Raises GraphError for what is no time.

    What a method does on other threads than its own is in `off`: a library with a thread pool seems to sleep while the
    pool works. On the machine where it was measured that predicts well; fewer cores would slow it down, and a
    prediction for fewer cores does not know that.
    """

    #: On a core, by the thread that makes the call.
    cpu: float
    #: Off it: asleep, or waiting for a GPU or for other threads.
    off: float = 0.0

    def __post_init__(self) -> None:
        _check("the cpu of a RunCost", self.cpu)
        _check("the off of a RunCost", self.off)

    @property
    def total(self) -> float:
        return self.cpu + self.off


@dataclass(frozen=True)
class Costs:
    """Seconds. Raises GraphError for what is no time."""

    #: By call. Also by collective: from when its last member has joined until a member goes on.
    runs: Mapping[str, RunCost]
    #: By channel: what a send costs its writer, once there is a free slot.
    sends: Mapping[str, float]
    #: By channel: what taking a message that is there costs a reader.
    recvs: Mapping[str, float]
    #: From a send to the reader going on that slept; or from a recv to a writer that waited for the slot.
    wake: float
    #: The driver's own code, per execution.
    between: float

    def __post_init__(self) -> None:
        for what, values in (("send", self.sends), ("recv", self.recvs)):
            for channel, seconds in values.items():
                _check(f"the {what} of {channel}", seconds)
        _check("wake", self.wake)
        _check("between", self.between)

    @staticmethod
    def of(
        plan: Plan,
        runs: float | RunCost | Mapping[str, float | RunCost],
        *,
        send: float = SEND,
        recv: float = RECV,
        wake: float = WAKE,
        between: float = 0.0,
    ) -> Costs:
        """Costs for a question of the kind what if: seconds on a core, or a RunCost, for each call of the plan; or one
        of them for every call.

        Collectives may be among `runs`, and take no time if they are not. `send` and `recv` are for every channel.
        Raises GraphError for a call without a cost, for a name that is no call of the plan, and for what is no time.
        """
        calls = calls_of(plan)
        if isinstance(runs, (Real, RunCost)):
            runs = dict.fromkeys(calls, runs)
        if not isinstance(runs, Mapping):
            raise GraphError(
                f"costs are {runs!r}; expected seconds of every call, as 0.01, or of each, as "
                f"{{{calls[0] if calls else 'call'!r}: 0.01, ...}}, or Costs, as graph.trace().costs()"
            )
        for name, cost in runs.items():
            if not isinstance(cost, RunCost):
                _check(f"the cost of {name}", cost)
        costs = Costs(
            runs={name: cost if isinstance(cost, RunCost) else RunCost(float(cost)) for name, cost in runs.items()},
            sends={channel.name: send for channel in plan.channels},
            recvs={channel.name: recv for channel in plan.channels},
            wake=wake,
            between=between,
        )
        groups = [group.name for group in plan.groups]
        known = [*calls, *groups]
        for name in runs:
            if name not in known:
                near = get_close_matches(name, known, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else f"its calls are {_listed(calls)}"
                raise GraphError(f"plan {plan.name} has no call {name!r}; {hint}")
        costs.verify(plan)
        return costs

    def verify(self, plan: Plan) -> None:
        """Raise GraphError, naming them, unless every call and every channel of the plan has a cost."""
        calls, channels = calls_of(plan), [channel.name for channel in plan.channels]
        for what, needed, found in (
            ("of call", calls, self.runs),
            ("to send", channels, self.sends),
            ("to receive", channels, self.recvs),
        ):
            missing = [name for name in needed if name not in found]
            if missing:
                raise GraphError(
                    f"no cost {what} {_listed(missing)}; expected one for each of the {len(needed)} of plan {plan.name}"
                )

    def __str__(self) -> str:
        rows = [["call", "on a core", "off it"]]
        rows += [[name, duration(cost.cpu), duration(cost.off)] for name, cost in self.runs.items()]
        channels = dict.fromkeys((*self.sends, *self.recvs))
        rows += [["channel", "send", "recv"]]
        rows += [[name, _shown(self.sends.get(name)), _shown(self.recvs.get(name))] for name in channels]
        lines = table(rows)
        lines.insert(1 + len(self.runs), "")
        lines += ["", f"a reader that slept goes on after {duration(self.wake)}"]
        lines += [f"the driver's own code takes {duration(self.between)} an execution"]
        return "\n".join(lines)


def calls_of(plan: Plan) -> tuple[str, ...]:
    """The calls that the parties of a plan make, in the order of the plan."""
    return tuple(call for ops in plan.schedule.values() for op in ops if op.kind is OpKind.RUN for call in op.calls)


def _check(what: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, Real) or not 0 <= float(seconds) < math.inf:
        raise GraphError(f"{what} is {seconds!r}; expected seconds, 0 or more")


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
