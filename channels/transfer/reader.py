"""TensorReader: a reading end of a channel whose tensors travel on their own; Inbox: the order of what it receives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from channels.base import Failure, Reader
from channels.communicators.base import Communicator, Work
from channels.communicators.tensors import TensorSpec
from channels.devices import arriving
from channels.errors import ChannelBroken, ChannelClosed
from channels.transfer.buffers import ReceiveBuffers
from channels.transfer.message import Held, Message, Sent
from channels.transfer.path import TensorPath
from channels.transfer.sharing import is_shared
from channels.transfer.split import join

__all__ = ["Inbox", "TensorReader"]


class Inbox:
    """Receives of one communicator that were asked for early, by the rank that sends.

    A communicator matches sends and receives of two ranks by their order alone. A receive that is asked for early can
    begin only when the head of its message says what it will be; those that are asked for after it must not pass it.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self._waiting: dict[int, deque[tuple[TensorReader, int]]] = {}

    def post(self, reader: TensorReader, execution: int, peer: int) -> None:
        """Begin it now if that is possible, else before the next one of this rank, or with a later `post`."""
        waiting = self._waiting.setdefault(peer, deque())
        waiting.append((reader, execution))
        while waiting and waiting[0][0].can_begin():
            first, number = waiting.popleft()
            first.begin(number)

    def catch_up(self, reader: TensorReader, peer: int) -> None:
        """Begin, and wait for the heads of, all that was asked for before `reader` now begins, and that if it was."""
        waiting = self._waiting.get(peer)
        while waiting:
            first, number = waiting.popleft()
            first.begin(number)
            if first is reader:
                return


class TensorReader(Reader):
    """Takes the head of each message from `reader`, and then its tensors from the communicator of `inbox`, if any."""

    def __init__(self, reader: Reader, path: TensorPath, inbox: Inbox | None = None) -> None:
        self.spec = reader.spec
        self.index = reader.index
        self._reader = reader
        self._path = path
        self._inbox = inbox
        self._buffers: ReceiveBuffers | None = None
        #: What has begun and was not read yet: the head, unless the tensor came without waiting for it, and the rest.
        self._begun: tuple[Any, Work | None] | None = None

    # ---- as every reader ----

    def read(self, execution: int, timeout: float | None = None) -> Any:
        """As Reader.read. A message that cannot be put together here is a `Failure`."""
        if self._inbox is None:
            head = self._reader.read(execution, timeout)
            return self._guarded(lambda: self._value(head, [])) if type(head) is Message else head
        (peer,) = self._path.peers
        if self._begun is None:
            self._inbox.catch_up(self, peer)
        if self._begun is None:
            self.begin(execution, timeout)
        assert self._begun is not None
        head, work = self._begun
        if head is _NOT_YET:
            head = self._reader.read(execution, timeout)
        self._begun = None
        try:
            if work is not None and is_shared():
                work.synchronize()
            tensors = [] if work is None else work.wait()
        except (ChannelClosed, ChannelBroken):
            raise
        except Exception as error:
            raise self._broken(error) from error
        return head if type(head) is Failure else self._guarded(lambda: self._value(head, tensors))

    def ready(self) -> bool:
        return self._begun is not None or self._reader.ready()

    def arm(self) -> bool:
        return self._reader.arm()

    def close(self) -> None:
        self._reader.close()

    # ---- early receives ----

    def post(self, execution: int) -> None:
        """Begin to receive the message of this execution, which `read` will ask for, as soon as it may be."""
        if self._inbox is not None:
            (peer,) = self._path.peers
            self._inbox.post(self, execution, peer)

    def can_begin(self) -> bool:
        """Whether the receive need not wait for a head: that is there, or says nothing that must be known."""
        known = self._path.spec is not None and self._inbox is not None and self._inbox.communicator.asynchronous
        return known or self._reader.ready()

    def begin(self, execution: int, timeout: float | None = None) -> None:
        """Begin to receive; waits for the head if it must be known."""
        assert self._inbox is not None
        communicator = self._inbox.communicator
        early = self._path.spec is not None and communicator.asynchronous and not self._reader.ready()
        head = _NOT_YET if early else self._reader.read(execution, timeout)
        wanted = self._wanted(head)
        (peer,) = self._path.peers
        try:
            work = communicator.irecv(wanted, peer) if wanted else None
            if work is not None and not communicator.asynchronous:
                work = _Received(work.wait())
        except (ChannelClosed, ChannelBroken):
            raise
        except Exception as error:
            raise self._broken(error) from error
        self._begun = head, work

    # ---- inside ----

    def _wanted(self, head: Any) -> list[Any]:
        """What to receive: tensors to fill, or specs."""
        if self._path.spec is not None:
            return [self._buffer(self._path.spec)]
        if type(head) is not Message:
            return []
        return [TensorSpec(part.shape, part.dtype, "torch") for part in head.parts if type(part) is Sent]

    def _buffer(self, spec: TensorSpec) -> Any:
        assert self._inbox is not None
        if spec.library == "numpy":
            return spec.empty()
        if self._buffers is None:
            device = self._inbox.communicator.empty(TensorSpec((), spec.dtype, "torch")).device
            self._buffers = ReceiveBuffers(spec, device)
        return self._buffers.take()

    def _value(self, head: Any, tensors: Sequence[Any]) -> Any:
        if self._path.spec is not None and self._inbox is not None:
            (tensor,) = tensors
            plain = self._path.spec.library == "numpy" or self._path.device == "default"
            return tensor if plain else arriving(tensor, self._path.device, self.spec.name)
        if type(head) is not Message:
            return head
        left = iter(tensors)
        found = []
        for part in head.parts:
            tensor = arriving(part.tensor if type(part) is Held else next(left), part.where, self.spec.name)
            found.append(tensor.requires_grad_() if part.requires_grad else tensor)
        return join(head.rest, found)

    def _guarded(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - unpickling runs code of the user's classes; a GPU may be missing
            return Failure(error)

    def _broken(self, error: BaseException) -> ChannelBroken:
        assert self._inbox is not None
        reason = f"{self.spec.name}: its tensors could not be received after their head: {error!r}"
        self._inbox.communicator.abort(reason)
        return ChannelBroken(reason)


class _Received:
    """Tensors that are there."""

    def __init__(self, tensors: list[Any]) -> None:
        self._tensors = tensors

    def wait(self) -> list[Any]:
        return self._tensors

    def synchronize(self) -> None: ...


#: In place of a head that is on its way.
_NOT_YET = object()
