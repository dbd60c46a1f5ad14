"""What a check of `channels.testing` gets, and what it needs to look at ends that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import channels
from channels.base import Channel, Reader, Writer
from channels.errors import ChannelTimeout
from channels.spec import ChannelSpec

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


class Call(threading.Thread):
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
def raises(kind: type[BaseException], text: str = "") -> Iterator[None]:
    raised = None
    try:
        yield
    except kind as error:
        raised = error
    assert raised is not None, f"expected {kind.__name__}, nothing was raised"
    assert text in str(raised), f"expected {text!r} in {raised!r}"


def until_it_waits(channel: Channel, call: Call, counter: Callable[[Channel], int], before: int) -> None:
    """Return once the call is really waiting, as the channel's own counter says."""
    done = threading.Event()
    for _ in range(int(WATCHDOG / 0.001)):
        if counter(channel) > before:
            return
        assert call.is_alive(), "expected the call to wait; it returned"
        done.wait(0.001)
    raise AssertionError("the channel's statistics never said that the call waits")


def reader_waits(channel: Channel) -> int:
    return sum(channel.statistics().reader_waits)


def writer_waits(channel: Channel) -> int:
    return channel.statistics().writer_waits


def fill(writer: Writer) -> int:
    """Write until every slot is taken; how many messages that were."""
    count = 0
    while True:
        try:
            writer.write(count, count, 0)
        except ChannelTimeout:
            return count
        count += 1


def array_of(size: int = 1 << 16, start: int = 0) -> Any:
    return np.arange(start, start + size, dtype=np.int64)
