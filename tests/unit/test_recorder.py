"""What a recorder keeps, and what of it is told."""

from __future__ import annotations

from typing import Any

import pytest

from channels import ChannelSpec, ChannelTimeout, create_channel, open_reader, open_writer
from dagc.timing.recorder import KEPT, KEPT_TIMES, DriverRecorder, Recorder


def test_rows_are_begins_and_ends_of_every_op() -> None:
    recorder = Recorder([(3, [1])])
    recorder.record(0, (1, 10, 20, 50, 60, 7))
    recorder.record(0, (2, 60, 61, 62, 63, 1))
    executions, begins, ends, cpu = recorder.rows()
    assert executions.tolist() == [1, 2]
    assert begins.tolist() == [[10, 20, 50], [60, 61, 62]]
    assert ends.tolist() == [[20, 50, 60], [61, 62, 63]]
    assert cpu.tolist() == [[0, 7, 0], [0, 1, 0]]


def test_segments_are_joined_by_execution() -> None:
    """The second segment of execution 2 has not run yet; the first one of execution 0 is forgotten."""
    recorder = Recorder([(1, [0]), (2, [1])])
    for row in ((1, 10, 11, 1), (2, 12, 13, 1)):
        recorder.record(0, row)
    for row in ((0, 1, 2, 3, 9), (1, 20, 22, 25, 2)):
        recorder.record(1, row)
    executions, begins, ends, cpu = recorder.rows()
    assert executions.tolist() == [1]
    assert (begins.tolist(), ends.tolist(), cpu.tolist()) == ([[10, 20, 22]], [[11, 22, 25]], [[1, 0, 2]])


def test_an_execution_whose_results_are_there_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder([(1, []), (1, [])])
    recorder.record(0, (1, 10, 11))
    recorder.record(0, (2, 20, 21))
    recorder.record(1, (1, 12, 13))
    recorder.settle(1)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            recorder.record(1, (2, 22, 23))

    monkeypatch.setattr("dagc.timing.recorder.time.sleep", sleep)
    recorder.settle(2)
    assert recorder.rows()[0].tolist() == [1, 2]
    assert len(looks) == 3
    monkeypatch.setattr("dagc.timing.recorder.SETTLE_SECONDS", 0.0)
    recorder.settle(3)  # of a loop that has failed


def test_before_the_first_execution_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    monkeypatch.setattr("dagc.timing.recorder.time.sleep", sleep)
    Recorder([(1, []), (1, [])]).settle(0)


def test_nothing_recorded_is_no_rows() -> None:
    executions, begins, ends, cpu = Recorder([(2, [1])]).rows()
    assert (executions.shape, begins.shape, ends.shape, cpu.shape) == ((0,), (0, 2), (0, 2), (0, 2))


def test_only_the_last_executions_are_kept() -> None:
    recorder = Recorder([(1, [])])
    for number in range(KEPT + 5):
        recorder.record(0, (number, number, number + 1))
    executions = recorder.rows()[0]
    assert (len(executions), executions[0]) == (KEPT, 5)


def test_of_very_long_executions_fewer_are_kept() -> None:
    recorder = Recorder([(10_000, range(10_000))])
    for number in range(200):
        recorder.record(0, (number, *range(20_001)))
    assert len(recorder.rows()[0]) == KEPT_TIMES // 20_002


@pytest.fixture
def driver() -> Any:
    spec = ChannelSpec(name="c", transport="local", readers=1, slots=4)
    channel = create_channel(spec)
    recorder = DriverRecorder("graph", ["in"], ["c"])
    yield recorder, recorder.writer("in", open_writer(channel.spec)), recorder.reader("c", open_reader(channel.spec, 0))
    channel.destroy()


def test_the_driver_is_timed_at_its_ends(driver: Any) -> None:
    recorder, writer, reader = driver
    writer.write("a", 1)
    writer.write("b", 2)
    assert reader.ready()
    assert reader.read(1) == "a"
    executions, begins, ends, _ = recorder.rows()
    assert executions.tolist() == [1]
    assert begins[0, 0] <= ends[0, 0] <= begins[0, 1] <= ends[0, 1]


def test_a_wait_of_many_looks_begins_with_the_first(driver: Any) -> None:
    recorder, writer, reader = driver
    for _ in range(3):
        with pytest.raises(ChannelTimeout):
            reader.read(1, 0.0)
    first = reader._begun
    writer.write("a", 1)
    reader.read(1)
    assert first[0] == 1
    assert recorder.rows()[1][0, 1] == first[1] < recorder.rows()[1][0, 0]
