"""run_ahead: the loop of an actor that need not end one execution before it begins the next.

A program is cut into segments where it may have to wait (dagc/emit.py). The rule: run the segment nearest to the end of
the program that need not wait; so what was begun is finished first, and the next execution begins in the waits. Every
segment takes executions in their order, so that each channel carries them in order, as its readers expect.

If every segment would have to wait, it waits with the oldest execution. That keeps the proof of passes/schedule.py:
whatever an actor did of later executions, its oldest one goes on exactly as if it were alone; and nothing polls. It
needs segments that wait only at their beginning, which is where `ready` looks: so plans with a rendezvous or a
collective in them keep the order of bind from one execution to the next (dagc/planner.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from channels import ChannelClosed

__all__ = ["run_ahead"]


def run_ahead(
    segments: Sequence[Callable[..., Any]], ready: Sequence[Callable[[], bool]], executions: Iterable[int]
) -> None:
    """Run until the executions end, or a channel does. `segments[0](number)` returns what the next one takes, and
    `segments[i](deque)` takes what is at its left end and returns what segment i+1 takes; `ready[i]()` says that
    segment i would not wait.

    An orderly end of the input ends the loop when what was begun has been finished: then ChannelClosed is raised.
    """
    #: Per segment: what the one before left for it, the oldest execution first. The first takes numbers.
    held: list[deque[Any]] = [deque() for _ in segments]
    numbers = iter(executions)
    later = range(len(segments) - 1, 0, -1)
    number: int | None = next(numbers, None)
    closed: ChannelClosed | None = None

    def step(index: int) -> None:
        values = segments[index](held[index])
        if index + 1 < len(segments):
            held[index + 1].append(values)

    while True:
        begun = [index for index in later if held[index]]
        if number is None and not begun:
            break
        index = next((index for index in begun if ready[index]()), None)
        if index is None and number is not None and (not begun or ready[0]()):
            try:
                held[1].append(segments[0](number))
            except ChannelClosed as error:
                closed, number = error, None
            else:
                number = next(numbers, None)
        else:
            step(begun[0] if index is None else index)
    if closed is not None:
        raise closed
