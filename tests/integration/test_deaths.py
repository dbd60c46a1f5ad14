"""Whoever is killed, in whatever phase: every waiter gets an ActorDiedError that names it, and the rest goes on."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest

import dagc
from dagc import InputNode, MultiOutputNode
from tests.stopping import stopped

#: Far more than a notice of a death takes; a get that needs it has hung.
HANG = 30


class Stage:
    def __init__(self, fail: bool = False) -> None:
        if fail:
            raise RuntimeError("no weights")

    def forward(self, x: Any) -> Any:
        return x

    def sleep(self, x: Any) -> Any:
        threading.Event().wait()

    def die(self, x: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self, x: Any) -> Any:
        sys.exit(3)

    def exhaust(self, x: Any) -> Any:
        """From here on this process can open no file."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return x

    def pid(self) -> int:
        return os.getpid()


RemoteStage = dagc.remote(Stage)


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    dagc.init()
    yield
    dagc.shutdown()


def pids(stages: list[Any]) -> list[int]:
    return dagc.get([stage.pid.remote() for stage in stages])


def chain(stages: list[Any], method: str = "forward", at: int = -1) -> Any:
    with InputNode() as x:
        for index, stage in enumerate(stages):
            x = getattr(stage, method if index == at else "forward").bind(x)
    return x


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_killed_while_idle(victim: int) -> None:
    stages = [RemoteStage.remote() for _ in range(3)]
    ids = pids(stages)
    with dagc.compile(chain(stages), name="idle") as graph:
        assert graph.execute(1).get(timeout=HANG) == 1
        process = psutil.Process(ids[victim])
        process.kill()
        _, alive = psutil.wait_procs([process], timeout=HANG)
        assert alive == []
        with pytest.raises(dagc.ActorDiedError) as raised:
            graph.execute(2).get(timeout=HANG)
        assert raised.value.pid == ids[victim]
        assert f"it was Stage_{victim}" in raised.value.reason
        with pytest.raises(dagc.ActorDiedError):
            graph.execute(3)
    rest = [stage for index, stage in enumerate(stages) if index != victim]
    with dagc.compile(chain(rest)) as again:
        assert again.execute(7).get(timeout=HANG) == 7
    for stage in stages:
        dagc.kill(stage)


@pytest.mark.parametrize(("method", "reason"), [("die", "SIGKILL"), ("leave", "code 3")])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_died_in_its_method(victim: int, method: str, reason: str) -> None:
    stages = [RemoteStage.remote() for _ in range(3)]
    with dagc.compile(chain(stages, method, victim), name="dying") as graph, ThreadPoolExecutor(3) as pool:
        refs = [graph.execute(i) for i in range(3)]
        waiting = [pool.submit(ref.get, HANG) for ref in refs]
        for waiter in waiting:
            with pytest.raises(dagc.ActorDiedError, match=reason) as raised:
                waiter.result(HANG)
            assert f"run Stage_{victim}.{method}" in raised.value.reason
    for stage in stages:
        dagc.kill(stage)


def test_a_timeout_names_an_actor_that_is_stopped() -> None:
    stages = [RemoteStage.remote() for _ in range(2)]
    (first, _) = pids(stages)
    with dagc.compile(chain(stages)) as graph:
        assert graph.execute(1).get(timeout=HANG) == 1
        with stopped(first):
            ref = graph.execute(2)
            with pytest.raises(dagc.GetTimeoutError, match=rf"its process {first} is stopped \(SIGCONT"):
                ref.get(timeout=0.1)
        assert ref.get(timeout=HANG) == 2
    for stage in stages:
        dagc.kill(stage)


def test_an_actor_that_does_not_set_up_its_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph's timeout is of its executions: actors have their own time to set up in."""
    monkeypatch.setattr("dagc.install.READY_SECONDS", 0.5)
    stages = [RemoteStage.remote() for _ in range(2)]
    (first, _) = pids(stages)
    with (
        stopped(first),
        pytest.raises(dagc.GetTimeoutError, match=r"Stage_0 did not set up its part within 0\.5 s"),
    ):
        dagc.compile(chain(stages), timeout=0.01)
    with dagc.compile(chain(stages), timeout=HANG) as graph:
        assert graph.execute(1).get() == 1
    for stage in stages:
        dagc.kill(stage)


def test_an_actor_without_a_descriptor_left_still_delivers() -> None:
    """To an actor that waits for several channels, and to a coroutine: it cannot open the pipe that would wake them."""
    stages = [RemoteStage.remote() for _ in range(2)]
    with InputNode() as x:
        y = stages[0].forward.bind(stages[1].exhaust.bind(stages[0].forward.bind(x)))
    with dagc.compile(y, order="free", max_inflight=2) as graph:
        assert [ref.get(timeout=HANG) for ref in [graph.execute(1), graph.execute(2)]] == [1, 2]

    async def main() -> None:
        with dagc.compile(chain(stages[1:])) as graph:
            for i in range(3):
                assert await asyncio.wait_for(graph.execute(i), HANG) == i

    asyncio.run(main())
    for stage in stages:
        dagc.kill(stage)


def test_killed_while_others_wait_in_every_way() -> None:
    stages = [RemoteStage.remote() for _ in range(2)]
    (first, _) = pids(stages)
    with (
        dagc.compile(chain(stages, "sleep", 0), max_inflight=2) as graph,
        ThreadPoolExecutor(4) as pool,
    ):
        refs = [graph.execute(i) for i in range(2)]
        waiting = [pool.submit(refs[0].get, HANG), pool.submit(refs[1].get, HANG), pool.submit(graph.execute, 3)]
        os.kill(first, signal.SIGKILL)
        for waiter in waiting:
            with pytest.raises(dagc.ActorDiedError, match="SIGKILL"):
                waiter.result(HANG)
    for stage in stages:
        dagc.kill(stage)


def test_a_death_ends_only_the_graphs_of_the_dead() -> None:
    a, b, c = stages = [RemoteStage.remote() for _ in range(3)]
    with dagc.compile(chain([a, b])) as one, dagc.compile(chain([b, c])) as other:
        assert dagc.get([one.execute(1), other.execute(2)]) == [1, 2]
        dagc.kill(a)
        with pytest.raises(dagc.ActorDiedError):
            one.execute(1).get(timeout=HANG)
        assert [other.execute(i).get(timeout=HANG) for i in range(100)] == list(range(100))
    for stage in stages:
        dagc.kill(stage)


def test_large_values_in_flight_of_the_dead_are_failures_not_garbage() -> None:
    stages = [RemoteStage.remote() for _ in range(3)]
    with dagc.compile(chain(stages)) as graph:
        arrays = [np.full(200_000, i) for i in range(8)]
        refs = [graph.execute(array) for array in arrays]
        dagc.kill(stages[1])
        for array, ref in zip(arrays, refs, strict=True):
            try:
                found = ref.get(timeout=HANG)
            except dagc.ActorDiedError:
                continue
            assert np.array_equal(found, array)
    for stage in stages:
        dagc.kill(stage)


def test_dead_at_compile() -> None:
    stages = [RemoteStage.remote() for _ in range(2)]
    dag = chain(stages)
    dagc.kill(stages[1])
    with pytest.raises(dagc.ActorDiedError):
        dagc.compile(dag)
    with dagc.compile(chain(stages[:1])) as graph:
        assert graph.execute(1).get(timeout=HANG) == 1
    dagc.kill(stages[0])


def test_a_constructor_that_raised_is_the_cause() -> None:
    broken = RemoteStage.remote(fail=True)
    with pytest.raises(dagc.ActorDiedError) as raised:
        dagc.compile(chain([broken]))
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.parametrize("case", range(12))
def test_killed_at_random_instants(case: int) -> None:
    """Seeded: kills land in compile, in execute, in the middle of large messages, in teardown."""
    seed = os.environ.get("DAGC_TEST_SEED", "20")
    rng = random.Random(f"{seed}, {case}")
    stages = [RemoteStage.remote() for _ in range(3)]
    victim = rng.choice(pids(stages))
    timer = threading.Timer(rng.uniform(0, 0.03), os.kill, (victim, signal.SIGKILL))
    with InputNode() as x:
        left = stages[1].forward.bind(stages[0].forward.bind(x))
        dag = MultiOutputNode([stages[2].forward.bind(left), stages[2].forward.bind(x), left])
    timer.start()
    try:
        with dagc.compile(dag, max_inflight=rng.choice([1, 2, 8])) as graph:
            for i in range(100_000):
                value = np.full(rng.choice([1, 100, 50_000]), i)
                for found in dagc.get(graph.execute(value), timeout=HANG):
                    assert np.array_equal(found, value), f"seed {seed}"
    except dagc.ActorDiedError as death:
        assert death.pid == victim, f"seed {seed}: {death}"  # noqa: PT017 - which one is the point
    else:
        raise AssertionError(f"seed {seed}: the graph outlived its actor")
    timer.join()
    for stage in stages:
        dagc.kill(stage)


def test_killing_the_driver_leaves_no_worker() -> None:
    script = textwrap.dedent(
        """
        import os, sys, dagc

        @dagc.remote
        class Stage:
            def forward(self, x):
                return x
            def pid(self):
                return os.getpid()

        if __name__ == "__main__":
            stages = [Stage.remote() for _ in range(3)]
            with dagc.InputNode() as x:
                for stage in stages:
                    x = stage.forward.bind(x)
            graph = dagc.compile(x)
            print(*dagc.get([stage.pid.remote() for stage in stages]), flush=True)
            while True:
                graph.execute(1).get()
        """
    )
    # The next session on the machine sweeps what a killed driver leaves in the temporary folder; here it has its own.
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        environment = {**os.environ, "TMPDIR": folder, "XDG_RUNTIME_DIR": folder}
        driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        assert driver.stdout is not None
        with driver.stdout as out:
            workers = [psutil.Process(int(pid)) for pid in out.readline().split()]
            assert len(workers) == 3
            driver.kill()
            driver.wait(HANG)
        _, alive = psutil.wait_procs(workers, timeout=HANG)
        assert alive == []
