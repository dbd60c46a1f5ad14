"""The loop of a free actor, with segments that say what they do and channels that are ready when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from channels import ChannelClosed
from dagc.ahead import run_ahead


class Actor:
    """Three segments; each takes a message from a list, and waits for ever (fails the test) if there is none."""

    def __init__(self, *messages: list[int], closed: bool = True) -> None:
        self.messages = messages
        self.closed = closed
        self.done: list[tuple[int, int]] = []

    def segment(self, index: int) -> Callable[..., Any]:
        def run(held: Any) -> Any:
            n, *values = (held,) if index == 0 else held.popleft()
            if not self.messages[index]:
                if index == 0 and self.closed:
                    raise ChannelClosed("the input ended")
                raise AssertionError(f"segment {index} waits for ever")
            assert self.messages[index].pop(0) == n, "every channel carries the executions in order"
            assert values == [*range(index)], "what the segments before have left"
            self.done.append((index, n))
            return n, *range(index + 1)

        return run

    def ready(self, index: int) -> Callable[[], bool]:
        return lambda: bool(self.messages[index]) or (index == 0 and self.closed)

    def run(self, executions: range) -> list[tuple[int, int]]:
        count = len(self.messages)
        run_ahead([self.segment(i) for i in range(count)], [self.ready(i) for i in range(count)], executions)
        return self.done


def test_with_everything_there_one_execution_is_finished_after_the_other() -> None:
    done = Actor([1, 2], [1, 2], [1, 2], closed=False).run(range(1, 3))
    assert done == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]


def test_while_the_oldest_waits_the_next_ones_begin() -> None:
    late: list[int] = []
    actor = Actor([1, 2, 3], [1, 2, 3], late, closed=False)
    segments = [actor.segment(i) for i in range(3)]
    second = segments[1]

    def answered_at_last(held: Any) -> Any:
        if held[0][0] == 3:
            late.extend([1, 2, 3])
        return second(held)

    segments[1] = answered_at_last
    run_ahead(segments, [actor.ready(i) for i in range(3)], range(1, 4))
    assert actor.done == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 1), (2, 2), (2, 3)]


def test_if_all_would_wait_it_waits_with_the_oldest() -> None:
    """And not with the input, which may never come: whoever waits for a result sends no more."""
    actor = Actor([1], [1], [1], closed=False)
    silent = [actor.ready(0), lambda: False, lambda: False]
    with pytest.raises(AssertionError, match="segment 0 waits for ever"):
        run_ahead([actor.segment(i) for i in range(3)], silent, range(1, 3))
    assert actor.done == [(0, 1), (1, 1), (2, 1)]


def test_a_closed_input_ends_the_loop_when_what_was_begun_is_finished() -> None:
    actor = Actor([1, 2], [1, 2], [1, 2])
    silent = [actor.ready(0), lambda: False, lambda: False]
    with pytest.raises(ChannelClosed, match="the input ended"):
        run_ahead([actor.segment(i) for i in range(3)], silent, range(1, 9))
    assert sorted(actor.done) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
