"""The transport between processes of one machine: a ring in shared memory (csrc/ring.h).

The creator's arena holds the ring, whoever writes; a writer's own arena holds the large buffers of its messages. So the
process that compiles a graph can make, break and observe every ring of it, also when a writer is dead.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

try:
    from channels import _ring
except ImportError as error:
    raise ImportError(
        f"the C extension of dagc does not load: {error}; build it for this Python: pip install --force-reinstall "
        "dagc, or in a checkout: python setup.py build_ext --inplace"
    ) from error
from channels.base import Channel, ChannelStatistics, Reader, Writer
from channels.serialize import decode, encode
from channels.spec import ChannelSpec

__all__ = ["ShmChannel", "empty", "memory", "open_reader", "open_writer", "trim"]

Writer.register(_ring.RingWriter)
Reader.register(_ring.RingReader)
_ring.setup(encode, decode)

#: The longest that a wait yields the processor before it sleeps. Measured: 50 to 200 us bring a chain of four actors on
#: two cores from 85 us to 20 us; more brings nothing.
YIELD_US = 200.0
#: Under a processor quota, yielding spends what the steps need.
YIELD_US_UNDER_QUOTA = 20.0


class ShmChannel(Channel):
    """The creator's handle of a ring. Memory is there when it returns: a lack of it is an ArenaFullError here."""

    def __init__(self, spec: ChannelSpec) -> None:
        slot_bytes = -(-(_ring.MESSAGE_HEADER + spec.buffer_bytes) // 64) * 64
        slots = 1 << (spec.slots - 1).bit_length()
        self._ring: _ring.Ring | None = _ring.Ring(slots, max(slot_bytes, 128), spec.readers)
        self.spec = spec.at(self._ring.address)
        self._last = self.statistics()

    def break_(self, reason: str) -> None:
        ring = self._ring  # looked at once: another thread may destroy it
        if ring is not None:
            ring.break_(reason.encode(errors="replace").decode() or "it was broken")

    def statistics(self) -> ChannelStatistics:
        ring = self._ring
        if ring is None:
            return self._last
        messages, size, writer_waits, readers = ring.counts()
        waiting = max((messages - taken for taken, _, closed in readers if not closed), default=0)
        return ChannelStatistics(
            name=self.spec.name,
            messages=messages,
            bytes=size,
            waiting=waiting,
            writer_waits=writer_waits,
            reader_waits=tuple(waits for _, waits, _ in readers),
            read=tuple(taken for taken, _, _ in readers),
        )

    def destroy(self) -> None:
        ring = self._ring
        if ring is not None:
            self._last = self.statistics()
            ring.break_("the channel was destroyed by its creator")
            self._ring = None


def open_writer(spec: ChannelSpec) -> Writer:
    return _ring.RingWriter(spec, spec.name, spec.address, spec.max_message_bytes, _yield_us(spec))


def open_reader(spec: ChannelSpec, index: int) -> Reader:
    return _ring.RingReader(spec, spec.name, spec.address, index, _yield_us(spec))


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    """An uninitialised writable array in shared memory, C order. Filled and sent, it travels without a copy.

    It is handed over by sending the whole of it: it becomes read-only for the sender, too. (A slice taken before
    stays writable; do not write to it: the receiver would see it.) A part that is sent is copied.
    Raises ArenaFullError.
    """
    kind = np.dtype(dtype)
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    size = math.prod(dims)
    if min(dims, default=0) < 0:
        raise ValueError(f"shape {shape} has a negative dimension")
    if kind.hasobject:
        raise TypeError(f"dtype {kind} holds Python objects, which cannot lie in shared memory")
    block = _ring.allocate(max(size * kind.itemsize, 1))
    array: npt.NDArray[Any] = np.ndarray(dims, kind, buffer=cast("Any", block))
    return array


def memory() -> dict[str, int]:
    """What this process has in shared memory: bytes and blocks in use, bytes and blocks free, processes that map it."""
    return dict(zip(("live_bytes", "free_bytes", "live_blocks", "free_blocks", "peers"), _ring.counts(), strict=True))


def trim() -> None:
    """Forget processes that are gone, and give the memory of this process's free blocks back to the kernel."""
    _ring.trim()


def _yield_us(spec: ChannelSpec) -> float:
    if spec.yield_us is not None:
        return spec.yield_us
    return YIELD_US_UNDER_QUOTA if cpu_quota() else YIELD_US


def cpu_quota() -> bool:
    """True if this process's control group may not use all processors all the time."""
    quota = _first_line("/sys/fs/cgroup/cpu.max") or _first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    if not quota or quota[0] in ("max", "-1"):
        return False
    period = quota[1] if len(quota) > 1 else (_first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us") or ["100000"])[0]
    return int(quota[0]) < int(period) * len(os.sched_getaffinity(0))


def _first_line(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").split()
    except OSError:
        return []
