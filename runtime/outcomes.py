"""How a step ended, packed: its values, or the Failure that stands for an exception on its way to the caller."""

from __future__ import annotations

from typing import Any

from channels.base import Failure
from channels.serialize import pack, unpack
from runtime.errors import add_note, formatted

__all__ = ["add_note", "open_value", "pack_failure", "receive", "receive_failure"]


def pack_failure(error: BaseException, skip: int = 1) -> bytes:
    """`error` with its traceback as bytes, without the traceback's outermost `skip` frames, which are dagc's own.

    What cannot be pickled of it is left out; it arrives as a SerializationError if its class cannot be, see
    channels.failures.
    """
    if isinstance(error, StopIteration):  # may not be set on an asyncio future, nor leave a generator (PEP 479)
        replaced = RuntimeError(f"the method raised StopIteration({error.value!r})")
        replaced.__cause__ = error
        error = replaced
    trace = error.__traceback__
    for _ in range(skip):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    return pack(Failure(error, formatted(error, trace)))


def open_value(data: bytes) -> Any:
    """Unpack a value that came from elsewhere. Raises SerializationError if that cannot be done here."""
    value = unpack(data)
    if isinstance(value, Failure):
        raise value.unwrap()
    return value


def receive(data: bytes) -> tuple[Any, BaseException | None]:
    """(the value, None), or (None, the reason why it cannot be unpacked here)."""
    value = unpack(data)
    return (None, value.unwrap()) if isinstance(value, Failure) else (value, None)


def receive_failure(data: bytes, note: str) -> BaseException:
    """The exception in a packed Failure, with the remote traceback as its cause, and the note."""
    error: BaseException = unpack(data).unwrap()
    add_note(error, note)
    return error
