"""The checks of the rules about values (rules 3 and 4 of `channels.base`, and DESIGN). `channels.testing` runs them."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from channels import shm
from channels.errors import MessageTooLargeError
from channels.testing_subject import WATCHDOG, Subject, array_of, raises


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
        writer.write({"small": array_of(16, i), "large": array_of(1 << 13, i)}, i, WATCHDOG)
        kept.append(reader.read(i, WATCHDOG))
    for i, value in enumerate(kept):
        assert np.array_equal(value["small"], array_of(16, i))
        assert np.array_equal(value["large"], array_of(1 << 13, i))


def forwarded_values_never_change(subject: Subject) -> None:
    first, second = subject.pair(), subject.pair()
    out = []
    for i in range(50):
        first[0].write(array_of(start=i), i, WATCHDOG)
        value = first[1].read(i, WATCHDOG)
        second[0].write(value, i, WATCHDOG)
        del value
        out.append(second[1].read(i, WATCHDOG))
    for i, value in enumerate(out):
        assert np.array_equal(value, array_of(start=i))


def arrays_come_out_read_only(subject: Subject) -> None:
    for readers in (1, 2):
        _, writer, ends = subject.channel(readers=readers)
        for i, size in enumerate((0, 3, 1 << 10, 1 << 17)):
            writer.write([np.zeros(size), np.zeros(size, "M8[s]")], i)
            for reader in ends:
                for array in reader.read(i, WATCHDOG):
                    assert not array.flags.writeable, array.dtype
                    if array.size:
                        with raises(ValueError):
                            array[0] = array[-1]


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
        writer.write(array_of(1 << 12, i), i, WATCHDOG)
        kept.append(reader.read(i, WATCHDOG))
    assert all(np.array_equal(value, array_of(1 << 12, i)) for i, value in enumerate(kept))
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
        with raises(MessageTooLargeError, "max_message_bytes"):
            writer.write(value, 0)
        with raises(ValueError):
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
