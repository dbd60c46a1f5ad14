"""TensorWriter: the writing end of a channel whose tensors travel on their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from channels.base import Failure, Writer
from channels.communicators.base import Communicator
from channels.communicators.tensors import DTYPES, TensorSpec
from channels.devices import check_history, destination, dtype_name, is_dense, to_host
from channels.errors import ChannelBroken, ChannelClosed, MessageTooLargeError, MismatchError
from channels.transfer.message import Held, Message, Sent
from channels.transfer.path import TensorPath
from channels.transfer.split import split

__all__ = ["GuardedWriter", "TensorWriter"]


class TensorWriter(Writer):
    """Sends the head of each message by `writer`, and then its tensors by `communicator`, if there is one.

    Sends of a communicator that works on its own read a copy: the method that made a tensor may change it as soon as it
    is called again, as one does that runs a CUDA graph, and a reader must not see that. A copy within a GPU takes a
    small part of the time of the send, and lets this party go on at once.
    """

    def __init__(self, writer: Writer, path: TensorPath, communicator: Communicator | None = None) -> None:
        self.spec = writer.spec
        self._writer = writer
        self._path = path
        self._communicator = communicator
        self._filler: Any = None

    def write(self, value: Any, execution: int, timeout: float | None = None) -> None:
        """As Writer.write. MismatchError, before anything is sent, for a value that is not what the spec promises."""
        failed = type(value) is Failure
        if self._path.spec is not None and not failed:
            value = _as_tensor(value)
            self._check(value, self._path.spec)
        if self._path.spec is not None and self._communicator is not None:
            self._write_promised(value, execution, timeout)
        elif failed or self._travels_as_it_is(value):
            self._writer.write(value, execution, timeout)
        else:
            rest, tensors = split(value)
            parts, sent = [], []
            for tensor in tensors:
                part, follows = self._part(tensor)
                parts.append(part)
                if follows is not None:
                    sent.append(follows)
            self._check_size(sum(tensor.nbytes for tensor in sent))
            self._writer.write(Message(rest, parts), execution, timeout)
            if sent:
                self._send(sent)

    def close(self) -> None:
        self._writer.close()

    # ---- inside ----

    def _travels_as_it_is(self, value: Any) -> bool:
        """A tensor on the host that stays there needs nothing that the ring does not do; nor does an array."""
        if self._communicator is not None:
            return False
        return isinstance(value, np.ndarray) or (is_dense(value) and not value.is_cuda and self._path.device != "cuda")

    def _part(self, tensor: Any) -> tuple[Sent | Held, Any]:
        """What the head says of a tensor, and what follows it; None: the tensor itself is in the head."""
        where = destination(self._path.device, tensor)
        grad = tensor.requires_grad
        tensor = tensor.detach()
        dtype = dtype_name(tensor.dtype)
        by = self._communicator
        if by is None or dtype not in DTYPES or (by.device_type == "cuda" and where == "cpu"):
            return Held(to_host(tensor), grad, where), None
        return Sent(dtype, tuple(tensor.shape), grad, where), self._placed(tensor, by)

    def _placed(self, tensor: Any, by: Communicator) -> Any:
        """Where the communicator takes it; a copy, if that reads it later."""
        placed = by.place(tensor)
        return placed.clone() if by.asynchronous and placed is tensor else placed

    def _write_promised(self, value: Any, execution: int, timeout: float | None) -> None:
        """The tensor always follows: its reader may be receiving it already. After a failure it is any tensor."""
        by = self._communicator
        assert by is not None
        word: Any = None
        if type(value) is Failure:
            word, tensor = value, self._filling()
        elif isinstance(value, np.ndarray):
            tensor = value
        else:
            word, tensor = True if value.requires_grad else None, self._placed(value.detach(), by)
        self._writer.write(word, execution, timeout)
        self._send([tensor])

    def _check_size(self, size: int) -> None:
        if size > self.spec.max_message_bytes:
            raise MessageTooLargeError(
                f"{self.spec.name}: its tensors take {size} bytes; max_message_bytes={self.spec.max_message_bytes}. "
                "Raise that option of compile, or send less"
            )

    def _check(self, value: Any, spec: TensorSpec) -> None:
        torch = sys.modules.get("torch")
        if isinstance(value, np.ndarray):
            order = "" if value.dtype.isnative else " of another byte order"
            found = f"a numpy array {value.dtype.name}[{','.join(map(str, value.shape))}]{order}"
            same = spec.library == "numpy" and (value.dtype.name, value.shape, order) == (spec.dtype, spec.shape, "")
        elif torch is not None and isinstance(value, torch.Tensor):
            check_history(value)
            dtype = dtype_name(value.dtype)
            dense = "" if is_dense(value) else f" of {value.layout} on {value.device}"
            found = f"a torch tensor {dtype}[{','.join(map(str, value.shape))}]{dense}"
            same = spec.library == "torch" and (dtype, tuple(value.shape), dense) == (spec.dtype, spec.shape, "")
        else:
            found, same = f"a {type(value).__name__}", False
        if not same:
            shape = f"{spec.dtype}[{','.join(map(str, spec.shape))}]"
            expected = f"a {'torch tensor' if spec.library == 'torch' else 'numpy array'} {shape}"
            raise MismatchError(
                f"{self.spec.name} is {found}; its with_tensor_transport(spec=...) promises {expected}. Leave the spec "
                "out if the shape changes from execution to execution"
            )

    def _filling(self) -> Any:
        if self._filler is None:
            assert self._path.spec is not None
            assert self._communicator is not None
            self._filler = self._communicator.empty(self._path.spec)
        return self._filler

    def _send(self, tensors: Sequence[Any]) -> None:
        communicator = self._communicator
        assert communicator is not None
        try:
            communicator.isend(tensors, self._path.peers)
        except (ChannelClosed, ChannelBroken):
            raise
        except Exception as error:
            # The head is out, and the readers wait for what it names.
            reason = f"{self.spec.name}: its tensors could not be sent after their head: {error!r}"
            communicator.abort(reason)
            raise ChannelBroken(reason) from error


def _as_tensor(value: Any) -> Any:
    """A parameter as the tensor that it is; everything else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.nn.Parameter):
        return value
    return value.detach().requires_grad_(value.requires_grad)


class GuardedWriter(Writer):
    """A writer of a party whose communicators work on their own.

    What such a communicator has received holds anything once its group is broken, and so does what was made of it. So
    before anything leaves this party, their state is looked at. A group is marked broken before what runs on the
    device is ended, so nothing wrong gets by.
    """

    def __init__(self, writer: Writer, checks: Sequence[Callable[[], None]]) -> None:
        self.spec = writer.spec
        self._writer = writer
        self._checks = checks

    def write(self, value: Any, execution: int, timeout: float | None = None) -> None:
        """As Writer.write. Raises ChannelBroken if one of the groups is broken."""
        for check in self._checks:
            check()
        self._writer.write(value, execution, timeout)

    def close(self) -> None:
        self._writer.close()
