"""Tensors on their own way: a channel whose messages leave their tensors to a communicator, or to another device.

    TensorWriter(ring writer, path, communicator)    splits a value into its tensors and all else, and sends both
    TensorReader(ring reader, path, communicator)    puts them together again, on the device that the reader wants

Both are the ends of an ordinary channel and look like them. The channel carries the head of each message, under its
execution number: what is no tensor, and of each tensor its shape and dtype. The tensors follow by the communicator, in
the order of the heads. So the two parts of a message cannot be paired wrongly: who has read the head of an execution
receives exactly the tensors that it names, and nobody else receives from that rank. With a TensorSpec the head says
only that all is well, or what went wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from channels.base import Reader, Writer
from channels.communicators.base import Communicator
from channels.transfer.path import TensorPath
from channels.transfer.reader import TensorReader
from channels.transfer.sharing import sharing
from channels.transfer.writer import GuardedWriter, TensorWriter

__all__ = [
    "GuardedWriter",
    "TensorPath",
    "TensorReader",
    "TensorWriter",
    "sharing",
    "tensor_ends",
]


def tensor_ends(
    paths: Mapping[str, TensorPath],
    readers: Mapping[str, Reader],
    writers: Mapping[str, Writer],
    communicators: Mapping[str, Communicator],
) -> tuple[dict[str, Reader], dict[str, Writer]]:
    """All ends of a party, of which those that have a path follow it."""
    found_readers, found_writers = dict(readers), dict(writers)
    for name, path in paths.items():
        by = None if path.communicator is None else communicators[path.communicator]
        if name in readers:
            found_readers[name] = TensorReader(readers[name], path, by)
        else:
            found_writers[name] = TensorWriter(writers[name], path, by)
    checks = [communicator.check for communicator in communicators.values() if communicator.asynchronous]
    if checks:
        found_writers = {name: GuardedWriter(writer, checks) for name, writer in found_writers.items()}
    return found_readers, found_writers
