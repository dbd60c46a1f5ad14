"""run_ahead: the loop of an actor that need not end one execution before it begins the next.

A program is cut into segments where it may have to wait (dagc/emit.py). The rule: run the segment nearest to the end of
the program that need not wait; so what was begun is finished first, and the next execution begins in the waits. Every
segment takes executions in their order, so that each channel carries them in order, as its readers expect.

If every segment would have to wait, it waits for whichever comes first. The oldest execution is always among them. That
keeps the proof of passes/schedule.py: whatever an actor did of later executions, its oldest one goes on exactly as if
it were alone. It needs segments that wait only at their beginning, which is where `FirstReady` looks: so plans with a
rendezvous or a collective in them keep the order of bind from one execution to the next (dagc/planner.py).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from channels import Alarm, ChannelClosed, Reader

__all__ = ["FirstReady", "run_ahead"]

#: How long it looks before it sleeps: what a sleep and a wake-up cost.
LOOK_SECONDS = 50e-6


def run_ahead(
    segments: Sequence[Callable[..., Any]], first_ready: Callable[[Sequence[int]], int], executions: Iterable[int]
) -> None:
    """Run until the executions end, or a channel does. `segments[0](number)` returns what the next one takes, and
    `segments[i](deque)` takes what is at its left end and returns what segment i+1 takes; `first_ready(indices)` waits
    until one of these segments need not wait, and is the first one of them then.

    An orderly end of the input ends the loop when what was begun has been finished: then ChannelClosed is raised.
    """
    #: Per segment: what the one before left for it, the oldest execution first. The first takes numbers.
    held: list[deque[Any]] = [deque() for _ in segments]
    numbers = iter(executions)
    later = range(len(segments) - 1, 0, -1)
    number: int | None = next(numbers, None)
    closed: ChannelClosed | None = None
    while True:
        possible = [index for index in later if held[index]]
        if number is not None:
            possible.append(0)
        if not possible:
            break
        # Where there is no choice the segment waits by itself, which costs less.
        index = possible[0] if len(possible) == 1 else first_ready(possible)
        if index == 0:
            try:
                values = segments[0](number)
            except ChannelClosed as error:
                closed, number = error, None
                continue
            number = next(numbers, None)
        else:
            values = segments[index](held[index])
        if index + 1 < len(segments):
            held[index + 1].append(values)
        values = None
    if closed is not None:
        raise closed


class FirstReady:
    """Which of several segments need not wait. `channels`: of each segment, what it receives before anything else.

    All of a segment's channels, not only the first: an actor that waited in the middle of a later execution would not
    go on with an older one, which is what the proof rests on.
    """

    def __init__(self, channels: Sequence[Sequence[Reader]], alarm: Alarm) -> None:
        self._channels = channels
        self._alarm = alarm

    def __call__(self, indices: Sequence[int]) -> int:
        """The first of the segments that need not wait, once there is one."""
        index = self._look(indices)
        if index is None:
            until = time.perf_counter() + LOOK_SECONDS
            while index is None and time.perf_counter() < until:
                os.sched_yield()
                index = self._look(indices)
        while index is None:
            if self._arm(indices):
                self._alarm.wait()
            index = self._look(indices)
        return index

    def _look(self, indices: Sequence[int]) -> int | None:
        for index in indices:
            for reader in self._channels[index]:
                if not reader.ready():
                    break
            else:
                return index
        return None

    def _arm(self, indices: Sequence[int]) -> bool:
        """Each segment by one channel that it lacks. False if one turned ready meanwhile: then look again."""
        for index in indices:
            lacking = next((reader for reader in self._channels[index] if not reader.ready()), None)
            if lacking is None or not lacking.arm(self._alarm):
                return False
        return True
