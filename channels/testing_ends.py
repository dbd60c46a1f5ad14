"""The checks of the rules of `channels.base`: order, waiting, ends and errors. `channels.testing` runs them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import closing
from select import select
from typing import Any

import numpy as np

import channels
from channels.alarm import SLEEP_SECONDS
from channels.base import Channel, Failure, Writer
from channels.errors import ChannelBroken, ChannelClosed, ChannelTimeout, SerializationError
from channels.testing_subject import (
    WATCHDOG,
    Call,
    Subject,
    array_of,
    fill,
    raises,
    reader_waits,
    until_it_waits,
    writer_waits,
)


def every_reader_gets_every_message_in_order_exactly_once(subject: Subject) -> None:
    _, writer, readers = subject.channel(readers=3)
    total = 200
    calls = [Call(lambda r: [r.read(i, WATCHDOG) for i in range(total)], reader) for reader in readers]
    for i in range(total):
        writer.write(i if i % 3 else [i, "x" * i], i, WATCHDOG)
    expected = [i if i % 3 else [i, "x" * i] for i in range(total)]
    for call in calls:
        assert call.result() == expected
    for reader in readers:
        with raises(ChannelTimeout):
            reader.read(total, 0)


def a_message_of_another_execution_is_refused(subject: Subject) -> None:
    writer, reader = subject.pair()
    writer.write("seven", 7)
    with raises(ChannelBroken, "7"):
        reader.read(8, WATCHDOG)
    large = 2**63
    writer, reader = subject.pair()
    writer.write("large", large)
    assert reader.read(large, WATCHDOG) == "large"


def write_returns_while_a_slot_is_free_and_waits_when_none_is(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    count = fill(writer)
    assert count >= channel.spec.slots
    before = writer_waits(channel)
    call = Call(writer.write, "late", count, WATCHDOG)
    until_it_waits(channel, call, writer_waits, before)
    assert reader.read(0, WATCHDOG) == 0
    call.result()
    assert [reader.read(i, WATCHDOG) for i in range(1, count + 1)] == [*range(1, count), "late"]


def the_slowest_reader_holds_the_writer_back_until_it_closes(subject: Subject) -> None:
    channel, writer, (quick, slow) = subject.channel(readers=2)
    count = fill(writer)
    assert [quick.read(i, 0) for i in range(count)] == list(range(count))
    before = writer_waits(channel)
    call = Call(writer.write, "late", count, WATCHDOG)
    until_it_waits(channel, call, writer_waits, before)
    slow.close()
    call.result()
    assert quick.read(count, WATCHDOG) == "late"


def a_failure_is_a_flag_and_an_exception_is_a_value(subject: Subject) -> None:
    writer, reader = subject.pair()
    writer.write(Failure(KeyError("k"), "Traceback: somewhere"), 0)
    writer.write(KeyError("k"), 1)
    failure, value = reader.read(0, WATCHDOG), reader.read(1, WATCHDOG)
    assert isinstance(failure, Failure)
    assert type(failure.error) is KeyError
    assert failure.error.args == ("k",)
    assert "somewhere" in str(failure.unwrap().__cause__)
    assert type(value) is KeyError
    assert value.args == ("k",)


def after_a_close_readers_get_what_was_published_then_the_end(subject: Subject) -> None:
    writer, reader = subject.pair()
    values = [1, array_of(1 << 15), "last"]
    for i, value in enumerate(values):
        writer.write(value, i)
    writer.close()
    assert reader.read(0, WATCHDOG) == 1
    assert np.array_equal(reader.read(1, WATCHDOG), values[1])
    assert reader.ready()
    assert reader.read(2, WATCHDOG) == "last"
    assert reader.ready()
    for _ in range(2):
        with raises(ChannelClosed):
            reader.read(3, WATCHDOG)
    with raises(ChannelClosed):
        writer.write(0, 3)


def without_readers_a_write_raises_channel_closed(subject: Subject) -> None:
    _, writer, readers = subject.channel(readers=2)
    readers[0].close()
    writer.write(0, 0)
    readers[1].close()
    with raises(ChannelClosed):
        writer.write(1, 1, WATCHDOG)
    with raises(ChannelClosed):
        readers[0].read(0, 0)
    assert readers[0].ready()


def a_broken_channel_raises_at_every_end_with_the_reason(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    writer.write(0, 0)
    channel.break_("the actor died")
    channel.break_("a second reason is not heard")
    for _ in range(2):
        with raises(ChannelBroken, "the actor died"):
            writer.write(1, 1, WATCHDOG)
        with raises(ChannelBroken, "the actor died"):
            reader.read(0, WATCHDOG)
    assert reader.ready()


def close_wakes_the_waiting_reader(subject: Subject) -> None:
    channel, writer, readers = subject.channel(readers=2)
    calls = []
    for reader in readers:
        before = reader_waits(channel)
        calls.append(Call(reader.read, 0, None))
        until_it_waits(channel, calls[-1], reader_waits, before)
    writer.close()
    for call in calls:
        with raises(ChannelClosed):
            call.result()


def close_of_the_last_reader_wakes_the_waiting_writer(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    count = fill(writer)
    before = writer_waits(channel)
    call = Call(writer.write, 0, count, None)
    until_it_waits(channel, call, writer_waits, before)
    reader.close()
    with raises(ChannelClosed):
        call.result()


def break_wakes_every_waiter(subject: Subject) -> None:
    channel, writer, readers = subject.channel(readers=2)
    calls = []
    for reader in readers:
        before = reader_waits(channel)
        calls.append(Call(reader.read, 0, None))
        until_it_waits(channel, calls[-1], reader_waits, before)
    channel.break_("over")
    full, stuck, _ = subject.channel()
    count = fill(stuck)
    before = writer_waits(full)
    calls.append(Call(stuck.write, 0, count, None))
    until_it_waits(full, calls[-1], writer_waits, before)
    full.break_("over")
    for call in calls:
        with raises(ChannelBroken, "over"):
            call.result()
    with raises(ChannelBroken, "over"):
        writer.write(0, 0)


def closing_and_breaking_twice_is_allowed(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    for _ in range(2):
        writer.close()
        reader.close()
        channel.break_("again")
        channel.destroy()
    assert channel.statistics().name == channel.spec.name


def a_timeout_changes_nothing(subject: Subject) -> None:
    writer, reader = subject.pair()
    for timeout in (0, 0.001):
        with raises(ChannelTimeout):
            reader.read(0, timeout)
        with raises(TimeoutError):
            reader.read(0, timeout=timeout)
    count = fill(writer)
    with raises(ChannelTimeout):
        writer.write("x", count, timeout=0.001)
    assert [reader.read(i, 0) for i in range(count)] == list(range(count))
    writer.write("x", count, 0)
    assert reader.read(count, 0) == "x"


def a_timeout_must_not_be_negative(subject: Subject) -> None:
    _, reader = subject.pair()
    for timeout in (-1, float("nan")):
        with raises(ValueError):
            reader.read(0, timeout)


def what_cannot_be_decoded_is_a_failure_of_its_execution(subject: Subject) -> None:
    writer, reader = subject.pair()
    writer.write(_Undecodable(), 0)
    writer.write("next", 1)
    failure = reader.read(0, WATCHDOG)
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, SerializationError)
    assert "not here" in str(failure.error)
    assert reader.read(1, WATCHDOG) == "next"


def what_cannot_be_encoded_is_refused_and_changes_nothing(subject: Subject) -> None:
    writer, reader = subject.pair()
    for value in (threading.Lock(), [1, threading.Lock()], _Unencodable()):
        with raises(SerializationError):
            writer.write(value, 0)
    writer.write("next", 0)
    assert reader.read(0, WATCHDOG) == "next"


def ready_says_whether_a_read_would_wait(subject: Subject) -> None:
    writer, reader = subject.pair()
    assert not reader.ready()
    writer.write(None, 0)
    assert reader.ready()
    assert reader.read(0, 0) is None
    assert not reader.ready()


def an_armed_reader_is_woken_by_a_message_a_close_and_a_break(subject: Subject) -> None:
    events: tuple[Callable[[Channel, Writer], object], ...] = (
        lambda _, writer: writer.write(0, 0),
        lambda _, writer: writer.close(),
        lambda channel, _: channel.break_("over"),
    )
    for event in events:
        channel, writer, (reader,) = subject.channel()
        _drain_wake_pipe()
        assert reader.arm()
        assert not select([channels.wake_fd()], [], [], 0)[0], "woken before anything happened"
        call = Call(event, channel, writer)
        assert select([channels.wake_fd()], [], [], WATCHDOG)[0], "armed, and not woken"
        call.result()
        assert reader.ready()
        assert not reader.arm(), "armed although it was ready"


def several_readers_are_waited_for_with_one_alarm(subject: Subject) -> None:
    """And the process's own pipe hears nothing of it; nor the alarm, once the reader is armed without it."""
    (first, one), (second, other) = subject.pair(), subject.pair()
    _drain_wake_pipe()
    with closing(channels.Alarm()) as alarm:
        for n, (writer, reader) in enumerate([(first, one), (second, other), (first, one)]):
            assert one.arm(alarm)
            assert other.arm(alarm)
            waiting = Call(_until_set, alarm)
            assert not reader.ready()
            writer.write("here", n)
            waiting.result()
            assert reader.ready()
            assert not reader.arm(alarm), "armed although it was ready"
            assert reader.read(n, 0) == "here"
        assert not select([channels.wake_fd()], [], [], 0)[0], "the process's own pipe was not asked for"
        assert one.arm(alarm)
        assert one.arm()
        first.write("here", 3)
        assert select([channels.wake_fd()], [], [], WATCHDOG)[0], "armed, and not woken"
        assert not alarm.wait()
        assert other.arm(alarm)
    with raises(ValueError, "closed"):
        one.arm(alarm)
    second.write("here", 3)  # the alarm is gone: nobody is woken, and nothing else happens
    assert [one.read(3, 0), other.read(3, 0)] == ["here", "here"]


def an_end_is_opened_once(subject: Subject) -> None:
    channel, _, _ = subject.channel()
    with raises(ChannelBroken, "opened before"):
        subject.open_writer(channel.spec)
    with raises(ChannelBroken, "opened before"):
        subject.open_reader(channel.spec, 0)
    with raises(ChannelBroken):
        subject.open_reader(channel.spec, 1)


def after_destroy_ends_stay_safe_and_new_ones_are_refused(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    writer.write(array_of(), 0)
    value = reader.read(0, WATCHDOG)
    writer.write(1, 1)
    channel.destroy()
    with raises(ChannelBroken):
        writer.write(2, 2)
    with raises(ChannelBroken):
        reader.read(1)
    assert np.array_equal(value, array_of())


def statistics_count_what_happened(subject: Subject) -> None:
    channel, writer, readers = subject.channel(readers=2)
    for i in range(3):
        writer.write(b"x" * 100, i)
    readers[0].read(0)
    readers[0].read(1)
    readers[1].read(0)
    found = channel.statistics()
    assert (found.messages, found.read, found.waiting, found.writer_waits) == (3, (2, 1), 2, 0)
    assert found.bytes >= 300
    assert found.name == channel.spec.name


class _Undecodable:
    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


class _Unencodable:
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("not this one")


def _refuse() -> None:
    raise RuntimeError("not here")


def _until_set(alarm: channels.Alarm) -> None:
    for _ in range(int(WATCHDOG / SLEEP_SECONDS)):
        if alarm.wait():
            return
    raise AssertionError("armed with the alarm, and not woken")


def _drain_wake_pipe() -> None:
    fd = channels.wake_fd()
    while select([fd], [], [], 0)[0]:
        os.read(fd, 4096)
