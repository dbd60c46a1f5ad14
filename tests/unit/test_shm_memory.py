"""Memory of the shared-memory channels: what is copied, what is not, what is kept, and that it comes back."""

from __future__ import annotations

import gc
import os
import random
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels import (
    ChannelBroken,
    ChannelClosed,
    ChannelSpec,
    MessageTooLargeError,
    Reader,
    Writer,
    _ring,
    create_channel,
    empty,
    open_reader,
    open_writer,
)
from channels import wake_fd as make_wake_pipe
from channels.shm import memory, trim

ROOT = Path(__file__).parent.parent.parent
LARGE = 1 << 16

make_wake_pipe()


class Ring:
    """A channel with its ends, all in this process."""

    def __init__(self, readers: int = 1, **options: Any) -> None:
        self.channel = create_channel(ChannelSpec("x", "shm", readers=readers, **options))
        self.writer: Writer = open_writer(self.channel.spec)
        self.readers: list[Reader] = [open_reader(self.channel.spec, i) for i in range(readers)]
        self.number = 0

    def send(self, value: Any) -> Any:
        """What the readers get; of one reader, not in a list."""
        self.number += 1
        self.writer.write(value, self.number, 10)
        values = [reader.read(self.number, 10) for reader in self.readers]
        return values if len(values) > 1 else values[0]


@pytest.fixture(autouse=True)
def _nothing_stays_in_use() -> Iterator[None]:
    gc.collect()
    before = memory()["live_blocks"]
    yield
    gc.collect()
    assert memory()["live_blocks"] <= before


def address(array: Any) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


# ---- no copy ----


def test_what_is_read_is_a_view_of_shared_memory() -> None:
    found = Ring().send(np.arange(LARGE))
    assert _ring.is_shared(found)
    assert not found.flags.writeable


def test_what_came_in_goes_out_by_reference() -> None:
    first, second, third = Ring(), Ring(), Ring(readers=2)
    came = first.send(np.arange(LARGE))
    on = second.send(came)
    assert address(on) == address(came)
    for found in third.send({"deep": [on]}):
        assert address(found["deep"][0]) == address(came)
    part = second.send(on[100:50_000])
    assert address(part) == address(came) + 100 * 8


def test_readers_share_one_copy() -> None:
    one, other = Ring(readers=2).send(np.arange(LARGE))
    assert address(one) == address(other)


def test_a_received_array_cannot_be_made_writable() -> None:
    for readers in (1, 2):
        found = Ring(readers).send(np.arange(LARGE))
        array = found if readers == 1 else found[0]
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_a_small_piece_of_a_large_array_is_copied() -> None:
    """By reference it would keep all of it."""
    came = Ring().send(np.arange(LARGE))
    assert not _ring.is_shared(Ring().send(came[:10]))


def test_empty_is_handed_over_without_a_copy() -> None:
    for wrap in (lambda a: a, lambda a: [a, 1], lambda a: a.reshape(-1)):
        made = empty((256, 256), "float32")
        assert made.shape == (256, 256)
        assert made.flags.writeable
        made[:] = 7
        found = Ring().send(wrap(made))
        array = found[0] if isinstance(found, list) else found
        assert address(array) == address(made)
        assert (array == 7).all()
        with pytest.raises(ValueError, match="read-only"):
            made[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            made.flags.writeable = True


def test_a_part_of_empty_is_copied_and_the_rest_stays_writable() -> None:
    made = empty(LARGE)
    made[:] = 1
    found = Ring().send(made[: LARGE // 2])
    made[:] = 2
    assert (found == 1).all()


def test_a_read_only_view_of_writable_memory_is_copied() -> None:
    """Rule 1: who gets a reference must never see a change, and the owner of the memory may still write to it."""
    made = empty(LARGE)
    made[:] = 1
    view = made[1:]
    view.flags.writeable = False
    found = Ring().send(view)
    made[:] = 2
    assert (found == 1).all()
    own = np.ones(LARGE)
    frozen = own[:]
    frozen.flags.writeable = False
    found = Ring().send(frozen)
    own[:] = 2
    assert (found == 1).all()


@pytest.mark.parametrize("shape", [(), 0, (0, 3), 5, (2, 3)])
def test_empty_of_any_shape(shape: Any) -> None:
    made = empty(shape, "i2")
    assert made.shape == np.zeros(shape, "i2").shape
    made[...] = 3
    assert Ring().send(made).tolist() == np.full(shape, 3, "i2").tolist()


def test_empty_refuses_what_cannot_be() -> None:
    with pytest.raises(TypeError, match="Python objects"):
        empty(3, object)
    with pytest.raises(ValueError, match="negative"):
        empty((-1, 2))
    with pytest.raises(MemoryError):
        empty(2**45, "u1")


# ---- torch ----


def test_tensors_are_the_readers_own() -> None:
    torch = pytest.importorskip("torch")
    sent = torch.ones(LARGE)
    alone = Ring().send(sent)
    assert _ring.is_shared(alone.numpy()), "a single reader gets a view"
    shared = Ring(readers=2).send(sent)
    alone.zero_()
    shared[0].zero_()
    assert sent.sum() == LARGE
    assert shared[1].sum() == LARGE


def test_a_received_tensor_that_is_sent_on_is_copied() -> None:
    torch = pytest.importorskip("torch")
    came = Ring().send(torch.ones(LARGE))
    on = Ring().send(came)
    as_array = came.numpy()
    as_array.flags.writeable = False
    on_as_array = Ring().send(as_array)
    came.zero_()
    assert on.sum() == LARGE
    assert on_as_array.sum() == LARGE


# ---- what is kept, and what comes back ----


def test_hundreds_of_kept_values_never_block_and_come_back() -> None:
    ring = Ring(slots=2)
    before = memory()
    kept = [ring.send([i, np.full(9000, i), b"x"]) for i in range(400)]
    assert memory()["live_blocks"] >= before["live_blocks"] + 400
    for i, (number, array, _) in enumerate(kept):
        assert number == i
        assert (array == i).all()
    del number, array
    kept.clear()
    assert memory()["live_bytes"] <= before["live_bytes"] + 100_000
    trim()
    assert memory()["free_bytes"] == 0


def test_memory_is_flat_over_many_mixed_messages() -> None:
    ring, seeded = Ring(buffer_bytes=256), random.Random(1)
    sizes = [seeded.choice((8, 200, 3000, 40_000, 300_000)) + seeded.randrange(8) for _ in range(500)]
    octets = np.random.default_rng(1).integers(0, 256, 310_000, dtype=np.uint8)
    window: list[Any] = []

    def turn(rounds: int) -> int:
        for _ in range(rounds):
            for size in sizes:
                found = ring.send(octets[:size])
                window.append(found)
                if len(window) > 5:
                    assert window.pop(0)[0] == octets[0]
        counts = memory()
        return counts["live_bytes"] + counts["free_bytes"]

    warm = turn(4)
    assert turn(36) <= warm + 2_000_000  # 20,000 in all


def test_a_message_of_64_mb_passes_and_its_memory_comes_back() -> None:
    ring = Ring()
    value = np.arange(8 << 20)
    trim()
    before = memory()
    found = ring.send(value)
    assert np.array_equal(found, value)
    assert memory()["live_bytes"] >= before["live_bytes"] + value.nbytes
    del found
    trim()  # the writer is open, has not written since, and must let go all the same
    after = memory()
    assert after["live_bytes"] == before["live_bytes"]
    assert after["free_bytes"] == 0


def test_unread_messages_keep_their_data_when_the_writer_is_dropped() -> None:
    for close in (True, False):
        ring = Ring()
        ring.writer.write(np.arange(LARGE), 1)
        if close:
            ring.writer.close()
        ring.writer = None  # type: ignore[assignment]
        gc.collect()
        assert np.array_equal(ring.readers[0].read(1, 10), np.arange(LARGE))


def test_what_nobody_reads_comes_back_with_the_channel() -> None:
    before = memory()["live_bytes"]
    ring = Ring()
    for i in range(4):
        ring.writer.write(np.arange(LARGE), i)
    ring.channel.destroy()
    del ring
    gc.collect()
    assert memory()["live_bytes"] == before


def test_max_message_bytes_bounds_what_is_sent_also_by_reference() -> None:
    came = Ring().send(np.arange(LARGE))
    ring = Ring(max_message_bytes=LARGE)
    for value in (came, [came], b"x" * (LARGE + 1), "x" * (LARGE + 1)):
        with pytest.raises(MessageTooLargeError, match=str(LARGE)):
            ring.writer.write(value, 1)
    assert ring.send("next") == "next"


def test_one_serialization_for_many_readers() -> None:
    ring = Ring(readers=5)
    before = Counted.reduced
    assert len(ring.send([Counted(), np.arange(LARGE)])) == 5
    assert Counted.reduced == before + 1


class Counted:
    reduced = 0

    def __reduce__(self) -> Any:
        Counted.reduced += 1
        return Counted, ()


def test_an_end_that_is_in_use_refuses_another_call() -> None:
    ring = Ring()

    class Meddles:
        def __reduce__(self) -> Any:
            with pytest.raises(RuntimeError, match="one thread at a time"):
                ring.writer.write("inner", 1)
            return int, ()

    assert ring.send(Meddles()) == 0


def test_a_writer_closed_while_it_pickles_sends_nothing() -> None:
    ring = Ring()

    class Closes:
        def __reduce__(self) -> Any:
            ring.writer.close()
            return int, ()

    with pytest.raises(ChannelClosed):
        ring.writer.write([Closes(), np.ones(LARGE)], 1)
    with pytest.raises(ChannelClosed):
        ring.readers[0].read(1, 0)


def test_a_reason_is_any_text() -> None:
    for reason, shown in (("a\ud800b", "a?b"), ("", "it was broken"), ("é" * 200, "é" * 100)):
        ring = Ring()
        ring.channel.break_(reason)
        with pytest.raises(ChannelBroken, match=re.escape(shown)):
            ring.readers[0].read(0)


def test_arguments_may_be_named() -> None:
    ring = Ring()
    ring.writer.write(value=1, execution=5, timeout=1)
    assert ring.readers[0].read(execution=5, timeout=None) == 1
    for wrong in ({}, {"execution": 1, "nothing": 2}):
        with pytest.raises(TypeError):
            ring.readers[0].read(**wrong)
    with pytest.raises(TypeError):
        ring.writer.write(1, 2, 3, 4)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ring.writer.write(1, 2, execution=2)  # type: ignore[misc]


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs the address space")
def test_a_small_address_space_is_an_arena_full_error_and_no_crash() -> None:
    program = """
import resource
import numpy as np
from channels import ArenaFullError, ChannelSpec, create_channel, empty, open_reader, open_writer
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (900 << 20), used + (900 << 20)))
channel = create_channel(ChannelSpec("x", "shm"))
writer, reader = open_writer(channel.spec), open_reader(channel.spec, 0)
kept = []
try:
    for i in range(100):
        kept.append(empty(16 << 20, "u1"))
except ArenaFullError as error:
    assert isinstance(error, MemoryError) and kept, error
else:
    raise SystemExit("expected an ArenaFullError")
try:
    writer.write(np.zeros(16 << 20, "u1"), 0)
except ArenaFullError:
    pass
else:
    raise SystemExit("expected an ArenaFullError")
writer.write("small", 0)
assert reader.read(0) == "small"
kept.clear()
for i in range(20):
    writer.write(np.full(16 << 20, i, "u1"), i)
    assert reader.read(i)[-1] == i
print("ok")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr


def test_resident_memory_comes_back_to_the_machine() -> None:
    ring = Ring()
    page = resource.getpagesize()

    def shared_pages() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[2]) * page

    trim()
    before = shared_pages()
    found = ring.send(np.ones(4 << 20))
    assert shared_pages() >= before + (24 << 20)  # of 32; the kernel may take back pages of libraries meanwhile
    del found
    trim()
    assert shared_pages() < before + (16 << 20)


@pytest.mark.parametrize("before", [1, 8, 20, 100])
@pytest.mark.parametrize("unread", [0, 1, 5])
def test_what_a_message_in_flight_holds_stays_whatever_was_sent_before_it(before: int, unread: int) -> None:
    channel = create_channel(ChannelSpec("held", "shm", slots=8))
    writer, reader = open_writer(channel.spec), open_reader(channel.spec)
    for i in range(before):
        writer.write(i, i)
        assert reader.read(i) == i
    for i in range(unread):
        writer.write(i, before + i)
    large = np.arange(20_000)
    writer.write(large, before + unread)
    writer.write("after", before + unread + 1)
    for i in range(unread):
        assert reader.read(before + i) == i
    others = [empty(20_000, np.int64) for _ in range(4)]  # would take its memory, were it free
    for other in others:
        other[:] = -1
    assert np.array_equal(reader.read(before + unread), large)
    assert reader.read(before + unread + 1) == "after"
    writer.close()
    channel.destroy()
