from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from dagc.errors import ResultLostError
from dagc.inflight import Window
from dagc.refs import PENDING, ResultRef


class Nobody:
    """A receiver that waits for nothing."""

    name = "Stage_0.forward"

    def wait(self, execution: int, timeout: float | None, said: float | None) -> None: ...

    def wait_async(self, execution: int, since: float) -> Generator[Any, None, None]:
        yield from ()


def begin(window: Window) -> list[ResultRef]:
    refs = [ResultRef(Nobody(), window.begun + 1) for _ in window.delivered]
    window.begin(refs)
    return refs


def test_a_delivery_belongs_to_the_oldest_execution_of_its_channel() -> None:
    window = Window(2, 4)
    first, second = begin(window), begin(window)
    window.deliver(1, "a")
    window.deliver(1, "b")
    window.deliver(0, "c")
    assert [ref.value for ref in first] == ["c", "a"]
    assert [ref.value for ref in second] == [PENDING, "b"]


def test_an_execution_is_under_way_until_every_channel_delivered_it() -> None:
    window = Window(2, 2)
    assert (window.under_way, window.full) == (0, False)
    begin(window)
    begin(window)
    assert (window.under_way, window.full, window.needed) == (2, True, 1)
    window.deliver(0, 1)
    window.deliver(0, 2)
    assert (window.finished, window.full, window.needed) == (0, True, 1)
    window.deliver(1, 1)
    assert (window.finished, window.under_way, window.full) == (1, 1, False)


def test_cancel_takes_the_last_begin_back() -> None:
    window = Window(2, 2)
    (kept, _), _ = begin(window), begin(window)
    window.cancel(2)
    assert window.begun == 1
    window.deliver(0, "x")
    assert kept.get() == "x"


def test_fail_resolves_everything_that_is_wanted_of_a_channel() -> None:
    window = Window(1, 4)
    refs = [begin(window)[0] for _ in range(3)]
    window.deliver(0, "there")
    window.fail(0, lambda: "failed")
    assert [ref.value for ref in refs] == ["there", "failed", "failed"]
    assert window.finished == 3
    window.fail(0, lambda: "again")


def test_an_interrupted_delivery_is_lost_and_the_next_one_is_not() -> None:
    window = Window(1, 4)
    lost, after = begin(window)[0], begin(window)[0]
    window.lose(0, 1, "lost")
    window.deliver(0, "there")
    assert (lost.value, after.value) == ("lost", "there")


def test_an_interrupt_within_deliver_is_repaired_whatever_it_had_done() -> None:
    window = Window(1, 4)
    taken, after = begin(window)[0], begin(window)[0]
    window.delivered[0] += 1  # it had counted, and not yet resolved
    window.lose(0, 1, "lost")
    assert (taken.value, window.finished) == ("lost", 1)
    window.deliver(0, "there")
    assert after.value == "there"


def test_a_ref_that_was_never_resolved_says_so() -> None:
    with pytest.raises(ResultLostError, match=r"Stage_0\.forward, execution 1"):
        ResultRef(Nobody(), 1).get()


def test_a_window_without_outputs_to_wait_for_is_never_full() -> None:
    window = Window(0, 1)
    for _ in range(5):
        window.begin([])
    assert (window.under_way, window.full) == (0, False)


def test_what_a_place_needs_has_been_begun_whatever_is_delivered_meanwhile() -> None:
    window = Window(1, 1)
    begin(window)
    assert window.full
    window.deliver(0, "by another thread, after the look")
    assert window.needed <= window.begun
    assert window.delivered[0] >= window.needed
