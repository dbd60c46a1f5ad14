"""What would 64 stages of 8 ranks do? Planned and predicted on this machine, without a single one of them.

`dagc.init(engine="plan")` gives actors that are never started. The plan is the one that would run; `predict` replays
it with costs that you state, or that the trace of a smaller run has measured.

Expected output:
513 parties, 513 channels
 1 in flight: 258 ms alone,    3.9 executions a second, stages idle 98%
 8 in flight: 258 ms alone,   31.0 executions a second, stages idle 88%
64 in flight: 258 ms alone,  248.2 executions a second, stages idle 0%
"""

from typing import Any

import dagc

STAGES, RANKS = 64, 8
STEP_SECONDS = 0.004


@dagc.remote(num_gpus=1)
class Rank:
    def forward(self, parts: Any) -> Any: ...


def pipeline() -> Any:
    """Every rank of a stage takes what all ranks of the stage before gave."""
    with dagc.InputNode() as x:
        parts: Any = x
        for _ in range(STAGES):
            parts = [Rank.remote().forward.bind(parts) for _ in range(RANKS)]
    return dagc.MultiOutputNode(parts)


def main() -> None:
    dagc.init(engine="plan")
    dag = pipeline()
    plan = dagc.plan(dag)
    print(f"{len(plan.schedule)} parties, {len(plan.channels)} channels")
    calls = [call for ops in plan.schedule.values() for op in ops for call in op.calls]
    costs = dict.fromkeys(calls, STEP_SECONDS)
    for max_inflight in (1, 8, 64):
        found = dagc.predict(dagc.plan(dag, max_inflight=max_inflight), costs, cores=STAGES * RANKS)
        idle = sum(found.figures.idle.values()) / len(found.figures.idle)
        print(
            f"{max_inflight:2} in flight: {found.alone * 1e3:.0f} ms alone, {found.figures.throughput:6.1f} "
            f"executions a second, stages idle {idle:.0%}"
        )
    dagc.shutdown()


if __name__ == "__main__":
    main()
