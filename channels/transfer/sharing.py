"""Whether several loops of this process receive tensors that arrive on a device, in an order that nobody has proven.

A loop that is alone lets its device wait for what it receives, and goes on: the order of all its operations and those
of its peers was proven to end. Two graphs on the same actors have no common order. Were their calls launched before
their inputs have come, each could wait on one device behind the other one, and on another device the other way round.
So with several loops each waits on the host until its input is there, before it takes its turn; what is launched then
waits for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from channels.communicators.base import Communicator

__all__ = ["is_shared", "sharing"]

_lock = threading.Lock()
_loops = 0


@contextmanager
def sharing(communicators: Collection[Communicator]) -> Iterator[None]:
    """Inside, the caller is one of the loops, if one of its communicators works on its own."""
    global _loops
    mine = int(any(communicator.asynchronous for communicator in communicators))
    for communicator in communicators:
        communicator.waits_on_host = is_shared
    with _lock:
        _loops += mine
    try:
        yield
    finally:
        with _lock:
            _loops -= mine


def is_shared() -> bool:
    """Whether there is more than one."""
    return _loops > 1
