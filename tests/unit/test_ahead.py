"""The loop of a free actor, with segments that say what they do and channels that are ready when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from channels import Alarm, Channel, ChannelClosed, ChannelSpec, create_channel, open_reader, open_writer
from channels.testing_subject import WATCHDOG, Call
from dagc.ahead import FirstReady, run_ahead


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

    def ready(self, index: int) -> bool:
        return bool(self.messages[index]) or (index == 0 and self.closed)

    def first_ready(self, indices: Sequence[int]) -> int:
        return next(index for index in indices if self.ready(index))

    def run(self, executions: range) -> list[tuple[int, int]]:
        run_ahead([self.segment(i) for i in range(len(self.messages))], self.first_ready, executions)
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
    run_ahead(segments, actor.first_ready, range(1, 4))
    assert actor.done == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 1), (2, 2), (2, 3)]


def test_where_there_is_no_choice_nothing_is_asked() -> None:
    """The segment waits by itself: at the first execution, and when no more begin."""
    actor, asked = Actor([1, 2], [1, 2], [1, 2], closed=False), list[list[int]]()

    def first_ready(indices: Sequence[int]) -> int:
        asked.append(list(indices))
        return indices[0]

    run_ahead([actor.segment(i) for i in range(3)], first_ready, range(1, 3))
    assert asked == [[1, 0], [2, 0]]
    assert actor.done == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]


def test_a_closed_input_ends_the_loop_when_what_was_begun_is_finished() -> None:
    actor = Actor([1, 2], [1, 2], [1, 2])
    with pytest.raises(ChannelClosed, match="the input ended"):
        run_ahead([actor.segment(i) for i in range(3)], lambda indices: 0 if 0 in indices else indices[0], range(1, 9))
    assert sorted(actor.done) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]


# ---- what is ready first ----


@pytest.fixture
def channels() -> Iterator[list[Channel]]:
    made = [create_channel(ChannelSpec(f"channel {i}", "shm", slots=4)) for i in range(4)]
    yield made
    for channel in made:
        channel.destroy()


def test_the_first_one_of_those_that_are_ready_is_taken(channels: list[Channel]) -> None:
    a, b, c, _ = (open_reader(channel.spec) for channel in channels)
    to_a, to_b, to_c, _ = (open_writer(channel.spec) for channel in channels)
    with closing(Alarm()) as alarm:
        first_ready = FirstReady([[a], [b], [c]], alarm)
        for writer in (to_a, to_b, to_c):
            writer.write("here", 1)
        assert first_ready([2, 1, 0]) == 2
        assert first_ready([1, 0]) == 1
        b.read(1)
        assert first_ready([1, 0]) == 0


class WatchedAlarm(Alarm):
    """Says when somebody goes to sleep, and sleeps until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self._sleeps = threading.Semaphore(0)

    def wait(self) -> bool:
        self._sleeps.release()
        while not super().wait():
            pass
        return True

    def until_it_sleeps(self) -> None:
        assert self._sleeps.acquire(timeout=WATCHDOG)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("ab", 0), ("ba", 0), ("cd", 1), ("dc", 1), ("acb", 0), ("cad", 1), ("bda", 0), ("bdc", 1)],
)
@pytest.mark.parametrize("event", ["message", "close", "break"])
def test_whichever_comes_first_ends_the_wait(channels: list[Channel], written: str, expected: int, event: str) -> None:
    """Of a segment with two channels both must have come, in whatever order; a channel that ended counts as well."""
    readers = [open_reader(channel.spec) for channel in channels]
    writers = [open_writer(channel.spec) for channel in channels]
    with closing(WatchedAlarm()) as alarm:
        waiting = Call(FirstReady([readers[:2], readers[2:]], alarm), [1, 0])
        alarm.until_it_sleeps()
        there: set[int] = set()
        *before, last = ("abcd".index(name) for name in written)
        for index in before:
            writers[index].write("here", 1)
            # Of each segment it was the first that lacks which was armed.
            if index % 2 == 0 or index - 1 in there:
                alarm.until_it_sleeps()
            there.add(index)
        assert waiting.is_alive()
        if event == "message":
            writers[last].write("here", 1)
        elif event == "close":
            writers[last].close()
        else:
            channels[last].break_("over")
        assert waiting.result() == expected
