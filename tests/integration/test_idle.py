"""An idle graph uses no processor time."""

from __future__ import annotations

import threading
from typing import Any

import psutil
import pytest

import dagc
from dagc import InputNode

IDLE_SECONDS = 5.0


class Stage:
    def forward(self, x: Any) -> Any:
        return x

    def pid(self) -> int:
        return psutil.Process().pid


RemoteStage = dagc.remote(Stage)


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@pytest.mark.slow
def test_an_idle_graph_uses_no_processor_time() -> None:
    dagc.init()
    try:
        stages = [RemoteStage.remote() for _ in range(3)]
        with InputNode() as x:
            dag = x
            for stage in stages:
                dag = stage.forward.bind(dag)
        with dagc.compile(dag) as graph:
            for i in range(1_000):
                assert graph.execute(i).get() == i
            everybody = [psutil.Process(), *map(psutil.Process, dagc.get([stage.pid.remote() for stage in stages]))]
            before = [processor_seconds(process) for process in everybody]
            threading.Event().wait(IDLE_SECONDS)  # nothing happens: that is what is measured
            used = [after - then for after, then in zip(map(processor_seconds, everybody), before, strict=True)]
            # The clock ticks in hundredths of a second; a thread that polled at all would use far more.
            assert all(seconds <= 0.01 * IDLE_SECONDS for seconds in used), used
    finally:
        dagc.shutdown()
