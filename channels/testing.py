"""The conformance suite of channels: each rule of `channels.base`, and each rule about values, as a function.

    check_channel(lambda spec: MyChannel(spec), open_writer, open_reader)

runs them all; `CHECKS` has them one by one, for a test runner. A check gets a `Subject` and raises AssertionError. The
ends live in threads of this process. Whatever has to wait is given WATCHDOG seconds; no speed is asserted.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from select import select
from typing import Any

import numpy as np

import channels
from channels import shm
from channels.base import Channel, Failure, Reader, Writer
from channels.errors import (
    ChannelBroken,
    ChannelClosed,
    ChannelTimeout,
    MessageTooLargeError,
    SerializationError,
)
from channels.spec import ChannelSpec

__all__ = ["CHECKS", "WATCHDOG", "Subject", "check_channel"]

#: Seconds after which a wait that should have ended counts as a hang.
WATCHDOG = 30.0


@dataclass
class Subject:
    """How to make what is checked. `transport` is the specs' own; a third party's `make` may ignore it."""

    make: Callable[[ChannelSpec], Channel]
    open_writer: Callable[[ChannelSpec], Writer] = channels.open_writer
    open_reader: Callable[[ChannelSpec, int], Reader] = channels.open_reader
    transport: str = "custom"
    _made: list[Channel] = field(default_factory=list, repr=False)

    def channel(self, readers: int = 1, **options: Any) -> tuple[Channel, Writer, list[Reader]]:
        """A new channel of four slots with its ends open."""
        spec = ChannelSpec("checked", self.transport, readers=readers, **{"slots": 4, **options})
        channel = self.make(spec)
        self._made.append(channel)
        ends = [self.open_reader(channel.spec, i) for i in range(readers)]
        return channel, self.open_writer(channel.spec), ends

    def pair(self, **options: Any) -> tuple[Writer, Reader]:
        _, writer, (reader,) = self.channel(**options)
        return writer, reader

    def clean(self) -> None:
        while self._made:
            self._made.pop().destroy()


def check_channel(
    make: Callable[[ChannelSpec], Channel],
    open_writer: Callable[[ChannelSpec], Writer] = channels.open_writer,
    open_reader: Callable[[ChannelSpec, int], Reader] = channels.open_reader,
    transport: str = "custom",
) -> None:
    """Check every rule on the channels that `make` makes. Raises AssertionError at the first that does not hold."""
    subject = Subject(make, open_writer, open_reader, transport)
    for check in CHECKS:
        try:
            check(subject)
        finally:
            subject.clean()


# ---- helpers ----


class _Call(threading.Thread):
    """A call in a thread of its own; its outcome is had with `result`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._function, self._args = function, args
        self._value: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._function(*self._args)
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            self._error = error

    def result(self) -> Any:
        self.join(WATCHDOG)
        assert not self.is_alive(), f"{self._function} hangs"
        if self._error is not None:
            raise self._error
        return self._value


@contextmanager
def _raises(kind: type[BaseException], text: str = "") -> Iterator[None]:
    raised = None
    try:
        yield
    except kind as error:
        raised = error
    assert raised is not None, f"expected {kind.__name__}, nothing was raised"
    assert text in str(raised), f"expected {text!r} in {raised!r}"


def _waits(channel: Channel, call: _Call, counter: Callable[[Channel], int], before: int) -> None:
    """Return once the call is really waiting, as the channel's own counter says."""
    done = threading.Event()
    for _ in range(int(WATCHDOG / 0.001)):
        if counter(channel) > before:
            return
        assert call.is_alive(), "expected the call to wait; it returned"
        done.wait(0.001)
    raise AssertionError("the channel's statistics never said that the call waits")


def _reader_waits(channel: Channel) -> int:
    return sum(channel.statistics().reader_waits)


def _writer_waits(channel: Channel) -> int:
    return channel.statistics().writer_waits


def _fill(writer: Writer) -> int:
    """Write until every slot is taken; how many messages that were."""
    count = 0
    while True:
        try:
            writer.write(count, count, 0)
        except ChannelTimeout:
            return count
        count += 1


def _array(size: int = 1 << 16, start: int = 0) -> Any:
    return np.arange(start, start + size, dtype=np.int64)


# ---- the rules of channels.base ----


def every_reader_gets_every_message_in_order_exactly_once(subject: Subject) -> None:
    _, writer, readers = subject.channel(readers=3)
    total = 200
    calls = [_Call(lambda r: [r.read(i, WATCHDOG) for i in range(total)], reader) for reader in readers]
    for i in range(total):
        writer.write(i if i % 3 else [i, "x" * i], i, WATCHDOG)
    expected = [i if i % 3 else [i, "x" * i] for i in range(total)]
    for call in calls:
        assert call.result() == expected
    for reader in readers:
        with _raises(ChannelTimeout):
            reader.read(total, 0)


def a_message_of_another_execution_is_refused(subject: Subject) -> None:
    writer, reader = subject.pair()
    writer.write("seven", 7)
    with _raises(ChannelBroken, "7"):
        reader.read(8, WATCHDOG)
    large = 2**63
    writer, reader = subject.pair()
    writer.write("large", large)
    assert reader.read(large, WATCHDOG) == "large"


def what_the_writer_changes_after_the_write_is_not_seen(subject: Subject) -> None:
    writer, reader = subject.pair()
    small, large, inner, octets = np.zeros(8), np.zeros(1 << 16), np.zeros(1 << 14), bytearray(b"abc")
    values: tuple[Any, ...] = (small, large, [inner, octets])
    for i, value in enumerate(values):
        writer.write(value, i)
    small[:] = large[:] = inner[:] = 1
    octets[:] = b"xyz"
    assert not reader.read(0, WATCHDOG).any()
    assert not reader.read(1, WATCHDOG).any()
    got = reader.read(2, WATCHDOG)
    assert not got[0].any()
    assert got[1] == b"abc"


def kept_values_never_change_and_never_block(subject: Subject) -> None:
    writer, reader = subject.pair()
    kept = []
    for i in range(100):
        writer.write({"small": _array(16, i), "large": _array(1 << 13, i)}, i, WATCHDOG)
        kept.append(reader.read(i, WATCHDOG))
    for i, value in enumerate(kept):
        assert np.array_equal(value["small"], _array(16, i))
        assert np.array_equal(value["large"], _array(1 << 13, i))


def forwarded_values_never_change(subject: Subject) -> None:
    first, second = subject.pair(), subject.pair()
    out = []
    for i in range(50):
        first[0].write(_array(start=i), i, WATCHDOG)
        value = first[1].read(i, WATCHDOG)
        second[0].write(value, i, WATCHDOG)
        del value
        out.append(second[1].read(i, WATCHDOG))
    for i, value in enumerate(out):
        assert np.array_equal(value, _array(start=i))


def arrays_come_out_read_only(subject: Subject) -> None:
    for readers in (1, 2):
        _, writer, ends = subject.channel(readers=readers)
        for i, size in enumerate((0, 3, 1 << 10, 1 << 17)):
            writer.write([np.zeros(size), np.zeros(size, "M8[s]")], i)
            for reader in ends:
                for array in reader.read(i, WATCHDOG):
                    assert not array.flags.writeable, array.dtype
                    if array.size:
                        with _raises(ValueError):
                            array[0] = array[-1]


def write_returns_while_a_slot_is_free_and_waits_when_none_is(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    count = _fill(writer)
    assert count >= channel.spec.slots
    before = _writer_waits(channel)
    call = _Call(writer.write, "late", count, WATCHDOG)
    _waits(channel, call, _writer_waits, before)
    assert reader.read(0, WATCHDOG) == 0
    call.result()
    assert [reader.read(i, WATCHDOG) for i in range(1, count + 1)] == [*range(1, count), "late"]


def the_slowest_reader_holds_the_writer_back_until_it_closes(subject: Subject) -> None:
    channel, writer, (quick, slow) = subject.channel(readers=2)
    count = _fill(writer)
    assert [quick.read(i, 0) for i in range(count)] == list(range(count))
    before = _writer_waits(channel)
    call = _Call(writer.write, "late", count, WATCHDOG)
    _waits(channel, call, _writer_waits, before)
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
    values = [1, _array(1 << 15), "last"]
    for i, value in enumerate(values):
        writer.write(value, i)
    writer.close()
    assert reader.read(0, WATCHDOG) == 1
    assert np.array_equal(reader.read(1, WATCHDOG), values[1])
    assert reader.ready()
    assert reader.read(2, WATCHDOG) == "last"
    assert reader.ready()
    for _ in range(2):
        with _raises(ChannelClosed):
            reader.read(3, WATCHDOG)
    with _raises(ChannelClosed):
        writer.write(0, 3)


def without_readers_a_write_raises_channel_closed(subject: Subject) -> None:
    _, writer, readers = subject.channel(readers=2)
    readers[0].close()
    writer.write(0, 0)
    readers[1].close()
    with _raises(ChannelClosed):
        writer.write(1, 1, WATCHDOG)
    with _raises(ChannelClosed):
        readers[0].read(0, 0)
    assert readers[0].ready()


def a_broken_channel_raises_at_every_end_with_the_reason(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    writer.write(0, 0)
    channel.break_("the actor died")
    channel.break_("a second reason is not heard")
    for _ in range(2):
        with _raises(ChannelBroken, "the actor died"):
            writer.write(1, 1, WATCHDOG)
        with _raises(ChannelBroken, "the actor died"):
            reader.read(0, WATCHDOG)
    assert reader.ready()


def close_wakes_the_waiting_reader(subject: Subject) -> None:
    channel, writer, readers = subject.channel(readers=2)
    calls = []
    for reader in readers:
        before = _reader_waits(channel)
        calls.append(_Call(reader.read, 0, None))
        _waits(channel, calls[-1], _reader_waits, before)
    writer.close()
    for call in calls:
        with _raises(ChannelClosed):
            call.result()


def close_of_the_last_reader_wakes_the_waiting_writer(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    count = _fill(writer)
    before = _writer_waits(channel)
    call = _Call(writer.write, 0, count, None)
    _waits(channel, call, _writer_waits, before)
    reader.close()
    with _raises(ChannelClosed):
        call.result()


def break_wakes_every_waiter(subject: Subject) -> None:
    channel, writer, readers = subject.channel(readers=2)
    calls = []
    for reader in readers:
        before = _reader_waits(channel)
        calls.append(_Call(reader.read, 0, None))
        _waits(channel, calls[-1], _reader_waits, before)
    channel.break_("over")
    full, stuck, _ = subject.channel()
    count = _fill(stuck)
    before = _writer_waits(full)
    calls.append(_Call(stuck.write, 0, count, None))
    _waits(full, calls[-1], _writer_waits, before)
    full.break_("over")
    for call in calls:
        with _raises(ChannelBroken, "over"):
            call.result()
    with _raises(ChannelBroken, "over"):
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
        with _raises(ChannelTimeout):
            reader.read(0, timeout)
        with _raises(TimeoutError):
            reader.read(0, timeout=timeout)
    count = _fill(writer)
    with _raises(ChannelTimeout):
        writer.write("x", count, timeout=0.001)
    assert [reader.read(i, 0) for i in range(count)] == list(range(count))
    writer.write("x", count, 0)
    assert reader.read(count, 0) == "x"


def a_timeout_must_not_be_negative(subject: Subject) -> None:
    _, reader = subject.pair()
    for timeout in (-1, float("nan")):
        with _raises(ValueError):
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
        with _raises(SerializationError):
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
        call = _Call(event, channel, writer)
        assert select([channels.wake_fd()], [], [], WATCHDOG)[0], "armed, and not woken"
        call.result()
        assert reader.ready()
        assert not reader.arm(), "armed although it was ready"


def an_end_is_opened_once(subject: Subject) -> None:
    channel, _, _ = subject.channel()
    with _raises(ChannelBroken, "opened before"):
        subject.open_writer(channel.spec)
    with _raises(ChannelBroken, "opened before"):
        subject.open_reader(channel.spec, 0)
    with _raises(ChannelBroken):
        subject.open_reader(channel.spec, 1)


def after_destroy_ends_stay_safe_and_new_ones_are_refused(subject: Subject) -> None:
    channel, writer, (reader,) = subject.channel()
    writer.write(_array(), 0)
    value = reader.read(0, WATCHDOG)
    writer.write(1, 1)
    channel.destroy()
    with _raises(ChannelBroken):
        writer.write(2, 2)
    with _raises(ChannelBroken):
        reader.read(1)
    assert np.array_equal(value, _array())


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


# ---- the five rules about values (DESIGN, section 4) ----


def values_come_out_as_they_went_in(subject: Subject) -> None:
    writer, reader = subject.pair()
    values: list[Any] = [None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, 10**40, 0.0, -0.0, 1e308, float("inf")]
    values += ["", "ascii", "é", "\ud7ff", "中" * 2000, "a" * 10_000, b"", b"\0\1", b"x" * 100_000, 1 + 2j, (), [], {}]
    values += [(1, [2, {"k": {3}}]), range(3), Ellipsis, int, len, frozenset({1}), "\0", bytearray(b"ab")]
    for i, value in enumerate(values):
        writer.write(value, i)
        found = reader.read(i, WATCHDOG)
        assert type(found) is type(value)
        assert found == value
        assert repr(found) == repr(value)


def dropped_values_give_their_memory_back(subject: Subject) -> None:
    """Rule 2: keeping costs memory, which comes back. Counted by the objects that die, not by what the kernel says."""
    writer, reader = subject.pair()
    kept = []
    for i in range(200):
        writer.write(_array(1 << 12, i), i, WATCHDOG)
        kept.append(reader.read(i, WATCHDOG))
    assert all(np.array_equal(value, _array(1 << 12, i)) for i, value in enumerate(kept))
    live = shm.memory()["live_blocks"]
    kept.clear()
    gc.collect()
    assert shm.memory()["live_blocks"] <= live


def a_message_of_any_size_passes_up_to_max_message_bytes(subject: Subject) -> None:
    writer, reader = subject.pair(max_message_bytes=1 << 22, buffer_bytes=64)
    for i, size in enumerate((0, 1, 63, 64, 65, 4095, 4096, 4097, 1 << 15, 1 << 20, (1 << 22) - 4096)):
        writer.write(b"x" * size, i, WATCHDOG)
        assert reader.read(i, WATCHDOG) == b"x" * size
        writer.write([np.full(size, 7, np.uint8), size], i, WATCHDOG)
        array, found = reader.read(i, WATCHDOG)
        assert (array.shape, found, bool((array == 7).all())) == ((size,), size, True)
    for value in (b"x" * ((1 << 22) + 1), [np.zeros(1 << 22)], "y" * (1 << 23)):
        with _raises(MessageTooLargeError, "max_message_bytes"):
            writer.write(value, 0)
        with _raises(ValueError):
            writer.write(value, 0)
    writer.write("next", 0)
    assert reader.read(0, WATCHDOG) == "next"


def a_message_is_serialized_once_for_all_readers(subject: Subject) -> None:
    _, writer, readers = subject.channel(readers=4)
    before = _Counted.reduced
    writer.write(_Counted(), 0)
    for reader in readers:
        assert type(reader.read(0, WATCHDOG)) is _Counted
    assert _Counted.reduced == before + 1


class _Counted:
    reduced = 0

    def __reduce__(self) -> tuple[Any, ...]:
        _Counted.reduced += 1
        return _Counted, ()


class _Undecodable:
    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


class _Unencodable:
    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("not this one")


def _refuse() -> None:
    raise RuntimeError("not here")


def _drain_wake_pipe() -> None:
    fd = channels.wake_fd()
    while select([fd], [], [], 0)[0]:
        os.read(fd, 4096)


#: Every check, in the order in which `check_channel` runs them.
CHECKS: tuple[Callable[[Subject], None], ...] = (
    every_reader_gets_every_message_in_order_exactly_once,
    a_message_of_another_execution_is_refused,
    what_the_writer_changes_after_the_write_is_not_seen,
    kept_values_never_change_and_never_block,
    forwarded_values_never_change,
    arrays_come_out_read_only,
    write_returns_while_a_slot_is_free_and_waits_when_none_is,
    the_slowest_reader_holds_the_writer_back_until_it_closes,
    a_failure_is_a_flag_and_an_exception_is_a_value,
    after_a_close_readers_get_what_was_published_then_the_end,
    without_readers_a_write_raises_channel_closed,
    a_broken_channel_raises_at_every_end_with_the_reason,
    close_wakes_the_waiting_reader,
    close_of_the_last_reader_wakes_the_waiting_writer,
    break_wakes_every_waiter,
    closing_and_breaking_twice_is_allowed,
    a_timeout_changes_nothing,
    a_timeout_must_not_be_negative,
    what_cannot_be_decoded_is_a_failure_of_its_execution,
    what_cannot_be_encoded_is_refused_and_changes_nothing,
    ready_says_whether_a_read_would_wait,
    an_armed_reader_is_woken_by_a_message_a_close_and_a_break,
    an_end_is_opened_once,
    after_destroy_ends_stay_safe_and_new_ones_are_refused,
    statistics_count_what_happened,
    values_come_out_as_they_went_in,
    dropped_values_give_their_memory_back,
    a_message_of_any_size_passes_up_to_max_message_bytes,
    a_message_is_serialized_once_for_all_readers,
)
