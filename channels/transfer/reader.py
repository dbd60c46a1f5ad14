"""TensorReader: a reading end of a channel whose tensors travel on their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from channels.alarm import Alarm
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

__all__ = ["TensorReader"]


class TensorReader(Reader):
    """Takes the head of each message from `reader`, and then its tensors from `communicator`, if there is one."""

    def __init__(self, reader: Reader, path: TensorPath, communicator: Communicator | None = None) -> None:
        self.spec = reader.spec
        self.index = reader.index
        self._reader = reader
        self._path = path
        self._communicator = communicator
        self._buffers: ReceiveBuffers | None = None
        #: The tensor that a spec promises, on its way before its head was read.
        self._posted: Work | None = None

    # ---- as every reader ----

    def read(self, execution: int, timeout: float | None = None) -> Any:
        """As Reader.read. A message that cannot be put together here is a `Failure`."""
        head = self._reader.read(execution, timeout)
        if self._communicator is None:
            return self._guarded(lambda: self._value(head, [])) if type(head) is Message else head
        try:
            posted, self._posted = self._posted, None
            wanted = self._wanted(head) if posted is None else []
            work = self._communicator.irecv(wanted, *self._path.peers) if wanted else posted
            if work is not None and is_shared():
                work.synchronize()
            tensors = [] if work is None else work.wait()
        except (ChannelClosed, ChannelBroken):
            raise
        except Exception as error:
            raise self._broken(error) from error
        return head if type(head) is Failure else self._guarded(lambda: self._value(head, tensors))

    def post(self, _execution: int) -> None:
        """Begin to receive the next tensor; the path has a spec, and the communicator works on its own."""
        assert self._communicator is not None
        assert self._path.spec is not None
        try:
            self._posted = self._communicator.irecv([self._buffer(self._path.spec)], *self._path.peers)
        except (ChannelClosed, ChannelBroken):
            raise
        except Exception as error:
            raise self._broken(error) from error

    def ready(self) -> bool:
        return self._reader.ready()

    def arm(self, alarm: Alarm | None = None, /) -> bool:
        return self._reader.arm(alarm)

    def close(self) -> None:
        self._reader.close()

    # ---- inside ----

    def _wanted(self, head: Any) -> list[Any]:
        """What to receive: tensors to fill, or specs."""
        if self._path.spec is not None:
            return [self._buffer(self._path.spec)]
        if type(head) is not Message:
            return []
        return [TensorSpec(part.shape, part.dtype, "torch") for part in head.parts if type(part) is Sent]

    def _buffer(self, spec: TensorSpec) -> Any:
        assert self._communicator is not None
        if spec.library == "numpy":
            return spec.empty()
        if self._buffers is None:
            device = self._communicator.empty(TensorSpec((), spec.dtype, "torch")).device
            self._buffers = ReceiveBuffers(spec, device)
        return self._buffers.take()

    def _value(self, head: Any, tensors: Sequence[Any]) -> Any:
        if self._path.spec is not None and self._communicator is not None:
            (tensor,) = tensors
            if self._path.spec.library == "torch" and self._path.device != "default":
                tensor = arriving(tensor, self._path.device, self.spec.name)
            return tensor.requires_grad_() if head is True else tensor
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
        assert self._communicator is not None
        reason = f"{self.spec.name}: its tensors could not be received after their head: {error!r}"
        self._communicator.abort(reason)
        return ChannelBroken(reason)
