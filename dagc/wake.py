"""Waker: how an event loop learns that an armed channel has something.

A process has one wake pipe; whoever delivers to an armed channel writes a byte into it. Every event loop that waits for
channels watches the pipe; the byte says only "look again", so a wake-up too many does no harm.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from channels import wake_fd

__all__ = ["Waker", "waker"]

_wakers: dict[asyncio.AbstractEventLoop, Waker] = {}


class Waker:
    """Of one event loop. Take a ticket, arm what you wait for, then wait with the ticket: no wake-up is lost."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wakes = 0
        self._sleepers: set[asyncio.Future[None]] = set()
        self._fd = wake_fd()
        loop.add_reader(self._fd, self._on_byte)

    def ticket(self) -> int:
        return self._wakes

    async def wait(self, ticket: int, timeout: float | None = None) -> None:
        """Return at the first wake-up since the ticket was taken, or after `timeout` seconds."""
        if self._wakes != ticket:
            return
        sleeper = self._loop.create_future()
        self._sleepers.add(sleeper)
        try:
            await asyncio.wait((sleeper,), timeout=timeout)
        finally:
            self._sleepers.discard(sleeper)

    def _on_byte(self) -> None:
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return  # another event loop of this process took the byte, and has told this one
        for loop, other in list(_wakers.items()):
            if loop is self._loop:
                self._wake()
            else:
                with suppress(RuntimeError):  # it was closed meanwhile: nobody waits there
                    loop.call_soon_threadsafe(other._wake)

    def _wake(self) -> None:
        self._wakes += 1
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)


def waker() -> Waker:
    """The waker of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _wakers.get(loop)
    if found is None:
        for closed in [known for known in list(_wakers) if known.is_closed()]:
            _wakers.pop(closed, None)
        found = _wakers[loop] = Waker(loop)
    return found
