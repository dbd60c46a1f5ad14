"""Who copies weights from host memory into buffers on the device, and how long what computes waits for them.

- `HostCopies`: a thread, from memory into memory. The source is the checkpoint file, mapped. That is the case of a
  machine whose fast memory is small, and it makes the whole of this run without a GPU: the mapping stands for host
  memory, the buffers stand for device memory.
- `CudaCopies`: the copy engine of a GPU, from pinned memory, on a stream of its own; events keep order.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

#: The weights of one layer, by name; those of all layers have the same names and shapes.
LayerWeights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Copied:
    """What the copies of some time came to."""

    copies: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    """that the copies took"""
    exposed: float = 0.0
    """seconds that a layer waited for its weights"""

    def __add__(self, other: "Copied") -> "Copied":
        return Copied(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Copied") -> "Copied":
        return Copied(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class Copies(ABC):
    """Copies of layers into buffers, at most one under way for each buffer.

    One thread calls `begin` and `wait`, and in this order for each copy; a buffer is free from when what was computed
    with it has been called until `begin`.
    """

    @abstractmethod
    def begin(self, source: int, buffer: int) -> None:
        """Copy layer number `source` once everything that was called so far has read the buffer."""

    @abstractmethod
    def wait(self, buffer: int) -> None:
        """What is called from now on finds the buffer filled. Raises what the copy raised."""

    @abstractmethod
    def copied(self) -> Copied:
        """All copies that were waited for, so far."""


class HostCopies(Copies):
    """By a thread, from memory into memory; without `overlap` by the thread that waits."""

    def __init__(self, sources: Sequence[LayerWeights], buffers: Sequence[LayerWeights], *, overlap: bool) -> None:
        # NumPy copies on one thread and without the GIL. PyTorch would copy on as many threads as compute, and take
        # their cores.
        self._sources = [{name: tensor.numpy() for name, tensor in source.items()} for source in sources]
        self._buffers = [{name: tensor.numpy() for name, tensor in buffer.items()} for buffer in buffers]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="copy") if overlap else None
        self._under_way: dict[int, Future[tuple[int, float]]] = {}
        self._asked: dict[int, int] = {}
        self._copied = Copied()

    def begin(self, source: int, buffer: int) -> None:
        if self._thread is None:
            self._asked[buffer] = source
        else:
            self._under_way[buffer] = self._thread.submit(self._copy, source, buffer)

    def wait(self, buffer: int) -> None:
        started = time.perf_counter()
        if self._thread is None:
            size, seconds = self._copy(self._asked.pop(buffer), buffer)
        else:
            size, seconds = self._under_way.pop(buffer).result()
        exposed = time.perf_counter() - started
        self._copied += Copied(1, size, seconds, exposed)

    def copied(self) -> Copied:
        return self._copied

    def _copy(self, source: int, buffer: int) -> tuple[int, float]:
        started = time.perf_counter()
        size = 0
        for name, target in self._buffers[buffer].items():
            np.copyto(target, self._sources[source][name])
            size += target.nbytes
        return size, time.perf_counter() - started


class CudaCopies(Copies):
    """By the copy engine of a GPU, from pinned memory; without `overlap` on the stream that computes.

    Two events order the streams: a copy waits for the computing that was called before `begin`, and the computing that
    is called after `wait` waits for the copy. The host waits for neither. The buffers are allocated once and for good,
    so the caching allocator need not know that two streams use them.
    """

    def __init__(
        self, sources: Sequence[LayerWeights], buffers: Sequence[LayerWeights], device: torch.device, *, overlap: bool
    ) -> None:
        self._sources = [{name: tensor.pin_memory() for name, tensor in source.items()} for source in sources]
        self._buffers = buffers
        self._device = device
        self._stream = _stream(device) if overlap else None
        #: By buffer: before and after its copy.
        self._under_way: dict[int, tuple[torch.cuda.Event, torch.cuda.Event, int]] = {}
        #: Of every copy: its own two events, those before and after the wait for it, and its size.
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event, torch.cuda.Event, torch.cuda.Event, int]] = []
        self._copied = Copied()

    def begin(self, source: int, buffer: int) -> None:
        computing = torch.cuda.current_stream(self._device)
        stream = self._stream or computing
        if stream is not computing:
            read = _event()
            read.record(computing)
            stream.wait_event(read)
        before, after = _event(timed=True), _event(timed=True)
        size = 0
        with torch.cuda.stream(stream):
            before.record(stream)
            for name, target in self._buffers[buffer].items():
                target.copy_(self._sources[source][name], non_blocking=True)
                size += target.nbytes
            after.record(stream)
        self._under_way[buffer] = before, after, size

    def wait(self, buffer: int) -> None:
        before, after, size = self._under_way.pop(buffer)
        computing = torch.cuda.current_stream(self._device)
        waits, goes_on = _event(timed=True), _event(timed=True)
        waits.record(computing)
        computing.wait_event(after)
        goes_on.record(computing)
        self._events.append((before, after, waits, goes_on, size))

    def copied(self) -> Copied:
        """Waits for the last of them, and for no copy that is still under way for a later layer."""
        if self._events:
            self._events[-1][3].synchronize()
        for before, after, waits, goes_on, size in self._events:
            took = before.elapsed_time(after) * 1e-3
            # On one stream the copy itself is in the way, whenever it was called.
            exposed = waits.elapsed_time(goes_on) * 1e-3 if self._stream is not None else took
            self._copied += Copied(1, size, took, exposed)
        self._events.clear()
        return self._copied


def _stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def _event(*, timed: bool = False) -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]
    return event


def copy_speed(sources: Sequence[LayerWeights]) -> float:
    """Bytes a second of `HostCopies` from memory that is no file, with nothing else at work: what it can be at best."""
    clones = [{name: tensor.clone() for name, tensor in source.items()} for source in sources]
    buffer = {name: torch.empty_like(tensor) for name, tensor in clones[0].items()}
    copies = HostCopies(clones, [buffer], overlap=False)
    for _ in range(2):  # the first time maps the buffer's pages
        before = copies.copied()
        for number in range(len(clones)):
            copies.begin(number, 0)
            copies.wait(0)
        after = copies.copied() - before
    return after.nbytes / after.seconds
