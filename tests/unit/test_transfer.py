"""Values without their tensors, memory that comes back, and the order of what a communicator receives."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels import (
    ChannelBroken,
    ChannelSpec,
    ChannelTimeout,
    Failure,
    SerializationError,
    create_channel,
    open_reader,
    open_writer,
)
from channels.communicators import ShmTransport, TensorSpec
from channels.errors import MismatchError
from channels.transfer import GuardedWriter, TensorPath, TensorReader, TensorWriter
from channels.transfer.buffers import ReceiveBuffers
from channels.transfer.split import join, split
from tests.equality import same

torch = pytest.importorskip("torch")

WATCHDOG = 30.0
SPEC = TensorSpec((2, 3), "float32", "torch")

shapes = st.lists(st.integers(0, 3), max_size=3)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
tensors = st.builds(lambda shape, dtype: torch.ones(shape).to(dtype), shapes, dtypes)
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.builds(np.arange, st.integers(0, 4)) | tensors,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
@settings(derandomize=True, max_examples=150, deadline=None)
def test_what_is_split_is_joined_again(value: Any) -> None:
    rest, found = split(value)
    assert same(join(rest, found), value)
    assert all(isinstance(tensor, torch.Tensor) for tensor in found)


def test_a_tensor_that_stands_twice_is_one() -> None:
    tensor = torch.ones(3)
    rest, found = split([tensor, {"again": tensor}, tensor[:2]])
    assert [t.numel() for t in found] == [3, 2]
    first, second, _ = join(rest, found)
    assert first is second["again"]


def test_a_bare_tensor_needs_no_rest() -> None:
    assert split(torch.ones(2))[0] is None


def test_what_parameters_and_sparse_tensors_are_made_of_is_split_off() -> None:
    rest, found = split([torch.nn.Parameter(torch.ones(2)), torch.eye(2).to_sparse()])
    assert {tuple(tensor.shape) for tensor in found} == {(2,), (2, 2)}
    parameter, sparse = join(rest, found)
    assert isinstance(parameter, torch.nn.Parameter)
    assert torch.equal(sparse.to_dense(), torch.eye(2))


def test_gradient_histories_are_refused() -> None:
    with pytest.raises(SerializationError, match="gradient history"):
        split([torch.ones(2, requires_grad=True) * 2])


# ---- buffers ----


def test_buffers_are_used_again_when_nobody_holds_them() -> None:
    buffers = ReceiveBuffers(SPEC, "cpu")
    first, second = buffers.take(), buffers.take()
    assert first.data_ptr() != second.data_ptr()
    place = first.data_ptr()
    part = first[0]  # a view of it is enough to hold it
    del first
    third = buffers.take()
    assert third.data_ptr() not in (place, second.data_ptr())
    assert len(buffers) == 3
    array = part.numpy()
    del part
    assert buffers.take().data_ptr() != place
    del array
    assert buffers.take().data_ptr() == place
    assert len(buffers) == 4


# ---- ends ----


class Ends:
    """Channels from one party to another in this process, with a communicator between them."""

    def __init__(self, *specs: TensorSpec | None) -> None:
        self.channels = [create_channel(ChannelSpec(f"c{i}", "local", slots=4)) for i in range(len(specs))]
        self.group = ShmTransport().create(2, "moves")
        with ThreadPoolExecutor(2) as threads:
            joined = threads.map(lambda rank: ShmTransport().join(self.group.id, rank, 2, WATCHDOG), range(2))
        self.source, self.target = joined
        self.writers, self.readers = [], []
        for channel, spec in zip(self.channels, specs, strict=True):
            there, here = (TensorPath("moves", (peer,), spec=spec) for peer in (1, 0))
            self.writers.append(TensorWriter(open_writer(channel.spec), there, self.source))
            self.readers.append(TensorReader(open_reader(channel.spec), here, self.target))

    def writing(self, *messages: tuple[int, Any]) -> Future[None]:
        """Write (channel, value) one after the other, in a thread, all of execution 1, 2, ... of their channel."""
        counts = [0] * len(self.writers)

        def write() -> None:
            for channel, value in messages:
                counts[channel] += 1
                self.writers[channel].write(value, counts[channel])

        return self.threads.submit(write)

    def __enter__(self) -> Any:
        self.threads = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.group.abort("the test is over")
        self.threads.shutdown()
        for end in (*self.writers, *self.readers):
            end.close()
        self.source.destroy()
        self.target.destroy()
        self.group.destroy()
        for channel in self.channels:
            channel.destroy()


def full(value: float) -> torch.Tensor:
    return torch.full((2, 3), float(value))


def test_a_head_is_read_again_after_a_timeout() -> None:
    with Ends(None) as ends:
        with pytest.raises(ChannelTimeout):
            ends.readers[0].read(1, 0.01)
        written = ends.writing((0, [full(1), "text"]))
        found = ends.readers[0].read(1, WATCHDOG)
        assert (found[0][0, 0], found[1]) == (1, "text")
        written.result(WATCHDOG)


def test_a_failure_fills_the_place_of_a_tensor_that_is_promised() -> None:
    with Ends(SPEC) as ends:
        written = ends.writing((0, Failure(KeyError("k"))), (0, full(1)))
        found = ends.readers[0].read(1, WATCHDOG)
        assert type(found) is Failure
        assert isinstance(found.error, KeyError)
        assert ends.readers[0].read(2, WATCHDOG)[0, 0] == 1
        written.result(WATCHDOG)


def test_a_broken_promise_is_told_before_anything_is_sent() -> None:
    with Ends(SPEC) as ends:
        with pytest.raises(MismatchError, match=r"c0 is a torch tensor int64\[2,3\].*promises a torch tensor float32"):
            ends.writers[0].write(torch.ones(2, 3, dtype=torch.int64), 1)
        assert not ends.readers[0].ready()


def test_a_group_that_breaks_after_the_head_breaks_the_channel() -> None:
    with Ends(None) as ends:
        written = ends.writing((0, full(1)))
        while not ends.readers[0].ready():  # the head is there, and the tensor waits
            pass
        ends.group.abort("the cable was cut")
        with pytest.raises(ChannelBroken, match="the cable was cut"):
            ends.readers[0].read(1, WATCHDOG)
        with pytest.raises(ChannelBroken, match="the cable was cut"):
            written.result(WATCHDOG)


def test_nothing_leaves_a_party_whose_group_is_broken() -> None:
    channel = create_channel(ChannelSpec("out", "local"))
    reader = open_reader(channel.spec)
    broken: list[str] = []

    def check() -> None:
        if broken:
            raise ChannelBroken(broken[0])

    writer = GuardedWriter(open_writer(channel.spec), [check])
    writer.write(1, 1)
    broken.append("rank 1 is dead")
    with pytest.raises(ChannelBroken, match="rank 1 is dead"):
        writer.write(2, 2)
    assert reader.read(1) == 1
    assert not reader.ready()
    writer.close()
    reader.close()
    channel.destroy()
