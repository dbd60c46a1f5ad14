"""Recorder: the stamps of one party's ops, taken while it runs, kept for the last executions, asked for at any time.

An actor's loop writes a row an execution, or with several segments one each (dagc/emit.py); the driver writes one for
each send and receive. What a row costs is one append to a deque of bounded length; all else is done when somebody asks.
Times are time.perf_counter_ns, which on Linux is CLOCK_MONOTONIC: one clock for all processes of a machine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from channels import Alarm, ChannelSpec, ChannelTimeout, Reader, Writer

__all__ = ["KEPT", "DriverRecorder", "Recorder", "Rows"]

#: Executions that are kept: at a millisecond each, the last four seconds. And times, if an execution has very many.
KEPT = 4096
KEPT_TIMES = 2_000_000
SETTLE_SECONDS = 2.0

Ints = npt.NDArray[np.int64]
#: executions (rows,), begins, ends and CPU times (rows, ops); nanoseconds.
Rows = tuple[Ints, Ints, Ints, Ints]


class Recorder:
    """Of one actor. `segments`: how many ops each segment has, and which of these are calls."""

    def __init__(self, segments: Sequence[tuple[int, Sequence[int]]]) -> None:
        self._segments = segments
        kept = _kept(sum(2 + ops + len(calls) for ops, calls in segments))
        self._rows: list[deque[tuple[int, ...]]] = [deque(maxlen=kept) for _ in segments]

    def record(self, segment: int, row: tuple[int, ...]) -> None:
        """A row: the execution, a time before each op and one after the last, then the CPU time of each call."""
        self._rows[segment].append(row)

    def settle(self, execution: int) -> None:
        """Wait until that execution, whose results are there, has been recorded: a loop does so after it has sent.

        Or until SETTLE_SECONDS are over: a loop that has failed records nothing more.
        """
        end = time.monotonic() + SETTLE_SECONDS
        while any((rows[-1][0] if rows else 0) < execution for rows in self._rows) and time.monotonic() < end:
            time.sleep(0.001)

    def rows(self) -> Rows:
        """The executions of which every op has been recorded."""
        tables = [
            _table(_copy(rows), 2 + ops + len(calls))
            for rows, (ops, calls) in zip(self._rows, self._segments, strict=True)
        ]
        common = tables[0][:, 0]
        for table in tables[1:]:
            common = np.intersect1d(common, table[:, 0])
        begins, ends, cpu = [], [], []
        for table, (ops, calls) in zip(tables, self._segments, strict=True):
            whole = table[np.isin(table[:, 0], common)]
            begins.append(whole[:, 1 : 1 + ops])
            ends.append(whole[:, 2 : 2 + ops])
            spent = np.zeros((len(whole), ops), np.int64)
            spent[:, list(calls)] = whole[:, 2 + ops :]
            cpu.append(spent)
        return common, np.concatenate(begins, 1), np.concatenate(ends, 1), np.concatenate(cpu, 1)


class DriverRecorder:
    """Of the driver: wraps its ends. Its ops are its sends, then its receives, in the order of the plan."""

    def __init__(self, graph: str, sends: Sequence[str], recvs: Sequence[str]) -> None:
        #: What the recorders of the actors are found by.
        self.graph = graph
        kept = _kept(3 * (len(sends) + len(recvs)))
        self._sends: dict[str, deque[tuple[int, int, int]]] = {name: deque(maxlen=kept) for name in sends}
        self._recvs: dict[str, deque[tuple[int, int, int]]] = {name: deque(maxlen=kept) for name in recvs}

    def writer(self, name: str, writer: Writer) -> Writer:
        return _RecordedWriter(writer, self._sends[name])

    def reader(self, name: str, reader: Reader) -> Reader:
        return _RecordedReader(reader, self._recvs[name])

    def rows(self) -> Rows:
        """The executions whose every input was sent and whose every result has been received."""
        tables = [_table(_copy(rows), 3) for rows in (*self._sends.values(), *self._recvs.values())]
        common = tables[0][:, 0] if tables else np.zeros(0, np.int64)
        for table in tables[1:]:
            common = np.intersect1d(common, table[:, 0])
        whole = [table[np.isin(table[:, 0], common)] for table in tables]
        begins = np.stack([table[:, 1] for table in whole], 1)
        ends = np.stack([table[:, 2] for table in whole], 1)
        return common, begins, ends, np.zeros_like(begins)


class _RecordedWriter(Writer):
    def __init__(self, writer: Writer, rows: deque[tuple[int, int, int]]) -> None:
        self.spec: ChannelSpec = writer.spec
        self._writer = writer
        self._rows = rows

    def write(self, value: Any, execution: int, timeout: float | None = None) -> None:
        begin = time.perf_counter_ns()
        self._writer.write(value, execution, timeout)
        self._rows.append((execution, begin, time.perf_counter_ns()))

    def close(self) -> None:
        self._writer.close()


class _RecordedReader(Reader):
    def __init__(self, reader: Reader, rows: deque[tuple[int, int, int]]) -> None:
        self.spec: ChannelSpec = reader.spec
        self.index = reader.index
        self._reader = reader
        self._rows = rows
        self._begun: tuple[int, int] = 0, 0

    def read(self, execution: int, timeout: float | None = None) -> Any:
        begin = time.perf_counter_ns()
        # A coroutine looks many times before it finds something: it waits since the first look.
        if self._begun[0] == execution:
            begin = self._begun[1]
        try:
            value = self._reader.read(execution, timeout)
        except ChannelTimeout:
            self._begun = execution, begin
            raise
        self._rows.append((execution, begin, time.perf_counter_ns()))
        return value

    def ready(self) -> bool:
        return self._reader.ready()

    def arm(self, alarm: Alarm | None = None, /) -> bool:
        return self._reader.arm(alarm)

    def close(self) -> None:
        self._reader.close()


def _kept(times: int) -> int:
    """How many executions are kept, of so many times each."""
    return max(16, min(KEPT, KEPT_TIMES // times))


def _copy(rows: deque[tuple[int, ...]] | deque[tuple[int, int, int]]) -> list[tuple[int, ...]]:
    """The rows at one moment, while another thread goes on to append."""
    while True:
        try:
            return list(rows)
        except RuntimeError:  # it grew in the middle
            continue


def _table(rows: list[tuple[int, ...]], columns: int) -> Ints:
    return np.array(rows, np.int64).reshape(len(rows), columns)
