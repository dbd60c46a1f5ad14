"""predict: how fast a plan would run, from what its calls cost: nothing is executed.

    print(predict(graph.plan, {"Stage_0.forward": 5e-3, "Stage_1.forward": 2e-3}, cores=8))
    print(predict(graph.plan, graph.trace().costs()))           # what was measured, replayed

    pipeline: 40.0 ms and 199.8 executions a second with 8 under way, 7.04 ms alone; on 8 cores

    actor       busy    idle
    Stage_0  100.0 %   0.0 %  <- bottleneck
    Stage_1   40.3 %  59.7 %

The replay is in dagc/prediction/replay.py. A pipeline of S equal stages that makes m executions and then stops is idle
for (S - 1) / (m + S - 1) of the time, as Huang et al. say of GPipe (2019): `predict(plan, costs, executions=m)`.

How well it agrees with what was then measured, with costs from the same trace, on 2 cores: within 1 % for stages that
sleep, and for stages that compute if there are as many cores; within 10 % in throughput for 3 or 4 stages of 1 to 20 ms
that share them. It is up to 36 % too fast for stages of 0.2 ms, or of a few ms with fewer under way than stages, that
share cores: the kernel leaves a core idle, or to a reader that polls, while two stages share the other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dagc.errors import GraphError
from dagc.graph import DRIVER
from dagc.passes.simulate import simulate
from dagc.plan import OpKind, Plan
from dagc.prediction.replay import replay
from dagc.prediction.steady import Steady
from dagc.tables import duration, table
from dagc.timing.costs import Costs, RunCost
from dagc.timing.figures import Figures, figures_of
from dagc.timing.trace import Trace

__all__ = ["Prediction", "predict"]

#: Something that is busy for this share of the time holds all others up.
_SATURATED = 0.97


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a plan would do with these costs. Prints as a table."""

    plan: Plan
    #: That the parties share.
    cores: int
    costs: Costs
    #: With `plan.max_inflight` executions under way: in the steady state, or of as many executions as were asked for.
    figures: Figures
    #: Seconds of one execution with nothing else under way.
    alone: float
    #: The replay, from an empty pipeline until it is empty again.
    trace: Trace

    def __str__(self) -> str:
        figures = self.figures
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        first = (
            f"{self.plan.name}: {duration(figures.latency)} and {figures.throughput:,.6g} executions a second "
            f"with {self.plan.max_inflight} under way, {duration(self.alone)} alone; on {cores}"
        )
        rows = [["actor", "busy", "idle"], *figures.rows()]
        busiest = min(figures.idle, key=lambda actor: figures.idle[actor], default=None)
        for row in rows[1:]:
            if row[0] == busiest:
                row.append("<- bottleneck")
        lines = [first, "", *table(rows)]
        remark = self._remark(1 - figures.idle[busiest] if busiest is not None else 0.0)
        return "\n".join([*lines, *(["", remark] if remark else [])])

    def _remark(self, busiest: float) -> str:
        """What holds it up, if it is no actor."""
        core, driver = self._demand()
        rate = self.figures.throughput
        if rate * core >= _SATURATED * self.cores:
            return f"The cores are all busy: {duration(core)} of a core in each execution, of {self.cores} there are."
        if rate * driver >= _SATURATED:
            return f"The driver is busy all the time: {duration(driver)} in each execution."
        if busiest < _SATURATED and self.figures.executions < len(self.trace.parties[DRIVER].executions):
            return f"Nobody is busy all the time: with more than {self.plan.max_inflight} under way it may be faster."
        return ""

    def _demand(self) -> tuple[float, float]:
        """Seconds of one execution: of a core, of all parties together; and of the driver."""
        core = driver = self.costs.between
        for party, ops in self.plan.schedule.items():
            own = 0.0
            for op in ops:
                if op.kind is OpKind.RUN:
                    own += sum(self.costs.runs[call].cpu for call in op.calls)
                elif op.kind is OpKind.JOIN:
                    own += self.costs.runs.get(op.target, RunCost(0.0)).cpu
                elif op.kind is OpKind.SEND:
                    own += self.costs.sends[op.target]
                elif op.kind is OpKind.RECV:
                    own += self.costs.recvs[op.target]
            core += own
            driver += own if party == DRIVER else 0.0
        return core, driver


def predict(
    plan: Plan,
    costs: Costs | float | RunCost | Mapping[str, float | RunCost],
    *,
    cores: int | None = None,
    executions: int | None = None,
) -> Prediction:
    """Replay the plan with these costs: `Costs`, or seconds on a core for each call, or one number for every call
    (`Costs.of` says what is added).

    `cores`: that its parties share; by default those that this process may use. `executions`: replay exactly so many,
    from an empty pipeline until it is empty again, and report all of that time. By default as many as it takes until
    everything repeats itself (dagc/prediction/steady.py), and report what repeats itself.

    Raises DeadlockError for a plan that cannot finish, GraphError for costs that are not those of the plan, and for
    what is no plan.
    """
    if not isinstance(plan, Plan):
        raise GraphError(
            f"predict({plan!r}, ...): expected a plan; write dagc.predict(dagc.plan(dag), costs), or "
            "graph.predict(costs) of a compiled graph"
        )
    simulate(plan.schedule, plan.channels, plan.groups, ahead=plan.max_inflight)
    if isinstance(costs, Costs):
        costs.verify(plan)
    else:
        costs = Costs.of(plan, costs)
    if cores is None:
        cores = len(os.sched_getaffinity(0))
    for name, number in (("cores", cores), ("executions", executions)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise GraphError(f"{name} is {number!r}; expected 1 or more")
    alone = replay(plan, costs, cores, 1, lambda progress: progress.begun == 1)
    if executions is not None:
        parties = replay(plan, costs, cores, plan.max_inflight, lambda progress: progress.begun == executions)
        figures = figures_of(plan, parties, whole=True)
    else:
        ops = sum(map(len, plan.schedule.values()))
        steady = Steady(plan.max_inflight, ops, shared=len(plan.schedule) > cores)
        parties = replay(plan, costs, cores, plan.max_inflight, steady)
        figures = figures_of(plan, parties, rows=steady.rows)
    return Prediction(plan, cores, costs, figures, figures_of(plan, alone, whole=True).latency, Trace(plan, parties))
