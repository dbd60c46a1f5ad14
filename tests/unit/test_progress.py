"""What a timeout says: who is at work, who leaves what is there, who waits; from counters alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from channels import ChannelStatistics
from dagc import InputNode
from dagc.halted import halt_of
from dagc.plan import Plan
from dagc.progress import explain_wait
from tests.fakes import actors, plan_of


@pytest.fixture
def plan() -> Plan:
    """driver -> Stage_0 -> Stage_1 -> driver."""
    first, second = actors(2)
    with InputNode() as x:
        dag = second.forward.bind(first.forward.bind(x))
    return plan_of(dag)


def counted(plan: Plan, *counts: tuple[int, int]) -> dict[str, ChannelStatistics]:
    """Of each channel how many messages were sent, and how many of them taken."""
    return {
        channel.name: ChannelStatistics(channel.name, sent, 0, sent - taken, 0, (0,), (taken,))
        for channel, (sent, taken) in zip(plan.channels, counts, strict=True)
    }


def told(plan: Plan, execution: int, *counts: tuple[int, int], halts: str = "") -> str:
    start = f"execution {execution} of graph test is under way; "
    text = explain_wait(plan, counted(plan, *counts), execution, lambda actor: halts if actor == "Stage_0" else "")
    assert text.startswith(start)
    return text.removeprefix(start)


def test_who_waits_and_who_is_at_work(plan: Plan) -> None:
    assert told(plan, 1, (1, 1), (0, 0), (0, 0)) == (
        "at work: Stage_0 in run Stage_0.forward; waiting: Stage_1 for channel Stage_0.forward from Stage_0"
    )
    assert told(plan, 1, (1, 1), (1, 1), (1, 0)) == "every actor is through"
    assert told(plan, 1, (0, 0), (0, 0), (0, 0)).startswith("waiting: Stage_0 for channel input from driver")


def test_who_does_not_take_what_is_there_is_not_said_to_wait(plan: Plan) -> None:
    assert told(plan, 2, (2, 1), (1, 1), (1, 1)) == (
        "Stage_0 has not taken channel input, which is there; waiting: Stage_1 for channel Stage_0.forward from Stage_0"
    )


def test_who_is_busy_with_an_earlier_execution_is_at_work_there(plan: Plan) -> None:
    assert told(plan, 5, (5, 3), (2, 2), (2, 2)) == (
        "at work: Stage_0 in run Stage_0.forward of execution 3; "
        "waiting: Stage_1 for channel Stage_0.forward from Stage_0 of execution 3"
    )
    assert "Stage_0 has not taken channel input of execution 3, which" in told(plan, 5, (5, 2), (2, 2), (2, 2))


def test_what_stopped_a_process_is_told_where_it_matters(plan: Plan) -> None:
    halts = "its process 7 is stopped"
    assert "which is there: its process 7 is stopped; waiting" in told(plan, 1, (1, 0), (0, 0), (0, 0), halts=halts)
    assert told(plan, 1, (1, 1), (0, 0), (0, 0), halts=halts).startswith(
        "at work: Stage_0 in run Stage_0.forward, but its process 7 is stopped; waiting"
    )
    # Nobody could have done anything: the driver is late.
    assert "stopped" not in told(plan, 1, (0, 0), (0, 0), (0, 0), halts=halts)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def test_a_process_is_stopped_until_it_is_continued(process: subprocess.Popen[bytes]) -> None:
    assert halt_of(process.pid) == ""
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert halt_of(process.pid) == f"its process {process.pid} is stopped (SIGCONT lets it go on)"
    os.kill(process.pid, signal.SIGCONT)
    os.waitid(os.P_PID, process.pid, os.WCONTINUED)
    assert halt_of(process.pid) == ""
    process.kill()
    process.wait()
    assert halt_of(process.pid) == ""
