"""split and join: a value without its tensors, and back. At any depth of any structure that can be pickled."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

from channels.devices import check_history, is_dense
from channels.serialize import dump

__all__ = ["Rest", "join", "split"]


class Rest(NamedTuple):
    """What is left of a value without its tensors: a pickle, in which they have numbers."""

    head: bytes
    buffers: Sequence[Any]


def split(value: Any) -> tuple[Rest | None, list[Any]]:
    """The value without its tensors, and these, each once. No rest: the value is a tensor and nothing else.

    Raises SerializationError if the rest cannot be pickled, or a tensor has a gradient history.
    """
    tensors: list[Any] = []
    if is_dense(value):
        rest = None
        tensors.append(value)
    else:
        numbers: dict[int, int] = {}

        def number(obj: Any) -> int | None:
            if not is_dense(obj):
                return None
            if id(obj) not in numbers:
                numbers[id(obj)] = len(tensors)
                tensors.append(obj)
            return numbers[id(obj)]

        rest = Rest(*dump(value, number))
    for tensor in tensors:
        check_history(tensor)
    return rest, tensors


def join(rest: Rest | None, tensors: Sequence[Any]) -> Any:
    """The value again. Raises what unpickling raises."""
    if rest is None:
        return tensors[0]
    unpickler = _Unpickler(io.BytesIO(rest.head), buffers=rest.buffers)
    unpickler.tensors = tensors
    return unpickler.load()


class _Unpickler(pickle.Unpickler):
    tensors: Sequence[Any]

    def persistent_load(self, pid: int) -> Any:
        return self.tensors[pid]
