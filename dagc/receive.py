"""Receiver: takes what one output channel delivers and resolves the refs that wait for it.

Threads. A reading end belongs to one thread at a time, and several threads may want different results of one channel.
Whoever comes first reads, for all (the leader); the others sleep until something was delivered or the leader
has left, and look again: one of them leads then.

asyncio. No thread: a coroutine takes what is there, polls for the time that a wake-up would cost, and then arms the
channel: whoever delivers next writes a byte into this process's wake pipe, which the event loop watches.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

from channels import ChannelBroken, ChannelClosed, ChannelTimeout, Failure, Reader, wake
from channels.bell import Bell, ring_all
from dagc.errors import GetTimeoutError, GraphError, ResultLostError
from dagc.inflight import Window
from dagc.refs import OWN_TIMEOUT
from dagc.wake import waker

__all__ = ["Receiver"]

#: How long a coroutine polls before it arms the channel and sleeps: what a sleep and a wake-up cost.
POLL_SECONDS = 100e-6
#: A sleep is cut: whoever delivers may have no descriptor left to wake us with, die before it does, or be interrupted.
SLEEP_SECONDS = 0.1
#: How long one look of the coroutine that is next in line may hold the event loop: two switches to a worker and back.
LOOK_SECONDS = 20e-6


class Receiver:
    """The reading end of output channel number `channel` of the window.

    `explain_timeout(execution)` says in words what the execution waits for; `fault(error)` is what it means for the
    graph that the channel was closed or broken; `taken()` is how many messages the reading end has taken; `guard`, if
    there is one, refuses to wait for what this thread holds up itself (dagc/self_wait.py).
    """

    def __init__(
        self,
        reader: Reader,
        window: Window,
        channel: int,
        timeout: float | None,
        explain_timeout: Callable[[int], str],
        fault: Callable[[BaseException], BaseException],
        taken: Callable[[], int],
        guard: Callable[[int, str], None] | None,
    ) -> None:
        self.name = reader.spec.name
        self._reader = reader
        self._read = reader.read
        self._window = window
        self._channel = channel
        self.timeout = timeout
        self._explain_timeout = explain_timeout
        self._fault = fault
        self._taken = taken
        self._guard = guard
        self._lead = threading.RLock()
        self._leading: Callable[[], bool] = self._lead._is_owned  # type: ignore[attr-defined] # as threading.Condition
        self._bells: set[Bell] = set()  # of the threads that follow
        self._unarmed = False  # a coroutine sleeps without having armed the channel, because somebody else led

    # ---- threads ----

    def wait(self, execution: int, timeout: float | None, said: float | None) -> None:
        """Return once the channel has delivered the execution, or never will: then its refs have failed.

        Raises GetTimeoutError if that is not in time, and says that it was `said` seconds, of which `timeout` may be
        the rest. OWN_TIMEOUT: the graph's own.
        """
        if timeout is OWN_TIMEOUT:
            timeout = said = self.timeout
        window, channel = self._window, self._channel
        if self._guard is not None and window.delivered[channel] < execution:
            self._guard(execution, self.name)
        if self._leading() and self._leads_in(sys._getframe(1)):
            raise GraphError(
                f"{self.name}: a signal handler, or a __del__, asks for a result in the middle of this thread's own "
                "wait for one; let it set a flag, or start a thread"
            )
        # The usual case first, without the bookkeeping of the general one: nobody leads, and the next one is ours.
        if window.delivered[channel] + 1 == execution:
            try:
                if self._lead.acquire(False):
                    if self._take(execution, timeout):
                        return
                    raise self._late(execution, said)
            finally:
                self._stop_leading()
        self._wait(execution, timeout, said)

    @property
    def leads_here(self) -> bool:
        """Whether this very thread is in the middle of what it took the lead for: what asks has interrupted it."""
        return self._leading() and self._leads_in(sys._getframe(1))

    def _leads_in(self, frame: FrameType | None) -> bool:
        """Nothing is remembered, the stack is looked at: an interrupt may come before it would be forgotten."""
        while frame is not None:
            if frame.f_code in _LEADERS and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False

    def _wait(self, execution: int, timeout: float | None, said: float | None) -> None:
        delivered = self._window.delivered
        deadline = None if timeout is None else time.monotonic() + timeout
        while delivered[self._channel] < execution:
            try:
                if self._lead.acquire(False):
                    while (next_one := delivered[self._channel] + 1) <= execution:
                        remaining = timeout if deadline is None else max(0.0, deadline - time.monotonic())
                        if not self._take(next_one, remaining):
                            raise self._late(execution, said)
                    return
            finally:
                self._stop_leading()
            self._follow(execution, deadline, said)

    def _follow(self, execution: int, deadline: float | None, said: float | None) -> None:
        if deadline is not None and time.monotonic() > deadline:  # also if there is nobody to follow
            raise self._late(execution, said)
        remaining = SLEEP_SECONDS if deadline is None else min(SLEEP_SECONDS, deadline - time.monotonic())
        bell = Bell()
        try:
            self._bells.add(bell)
            # After that: who delivers, or leaves the lead, looks at the bells afterwards.
            if self._window.delivered[self._channel] < execution and remaining > 0 and not self._lead.acquire(False):
                bell.sleep(remaining)
        finally:
            self._bells.discard(bell)
            self._stop_leading()

    def _take(self, execution: int, timeout: float | None) -> bool:
        """Read the next delivery, `execution`, for the leader. False: it did not come in time."""
        if self._window.delivered[self._channel] >= execution:  # meanwhile, before this thread led
            return True
        try:
            self._window.deliver(self._channel, self._read(execution, timeout))
        except ChannelTimeout:
            return False
        except (ChannelClosed, ChannelBroken) as error:
            found = error
            self._window.fail(self._channel, lambda: Failure(self._fault(found)))
        except BaseException:
            # Ctrl-C, or whatever else a signal handler raises. Of the channel it would be a ChannelBroken.
            self._repair()
            raise
        self._notify()
        return True

    def _repair(self) -> None:
        """An interrupt may come between taking a message and resolving its ref: that is lost, and the ref says so."""
        taken = self._taken()
        error = ResultLostError(f"{self.name} of execution {taken} was lost to an interrupt that came as it arrived")
        self._window.lose(self._channel, taken, Failure(error))

    def _stop_leading(self) -> None:
        """Release the lead if this thread has it. It asks, and does not remember: an interrupt may come between taking
        the lead and remembering it, and a lead that is never released would be waited for for ever."""
        led = False
        # More than once if an interrupt kept this from releasing it the last time.
        while self._leading():
            led = True
            self._lead.release()
        if led:
            self._notify()

    def _notify(self) -> None:
        """Something was delivered, or the lead is free. Whoever could not lead said so before it looked again, so that
        is seen here, or it sees that the lead is free."""
        if self._bells:
            ring_all(self._bells)
        if self._unarmed:
            self._unarmed = False
            wake()

    def _late(self, execution: int, said: float | None) -> GetTimeoutError:
        return GetTimeoutError(f"no {self.name} within {said} s; {self._explain_timeout(execution)}")

    # ---- asyncio ----

    def wait_async(self, execution: int, since: float) -> Generator[Any, None, None]:
        return self.delivered_async(execution, since).__await__()

    async def delivered_async(self, execution: int, since: float) -> None:
        """As `wait`, for a coroutine, with the graph's own timeout, which began at `since`, of time.monotonic."""
        delivered = self._window.delivered
        start = time.monotonic()
        if self._guard is not None and delivered[self._channel] < execution:
            self._guard(execution, self.name)
        while delivered[self._channel] < execution and not self._take_ready(execution):
            now = time.monotonic()
            if self.timeout is not None and now > since + self.timeout:
                raise self._late(execution, self.timeout)
            if now < start + POLL_SECONDS:
                await asyncio.sleep(0)
            else:
                await self._sleep(execution, None if self.timeout is None else since + self.timeout - now)

    def _take_ready(self, execution: int) -> bool:
        """Take what is there, as far as `execution`; True if that is delivered now."""
        delivered = self._window.delivered
        try:
            if self._lead.acquire(False):
                while (next_one := delivered[self._channel] + 1) <= execution:
                    if not self._take(next_one, LOOK_SECONDS if next_one == execution else 0.0):
                        break
        finally:
            self._stop_leading()
        return delivered[self._channel] >= execution

    async def _sleep(self, execution: int, timeout: float | None) -> None:
        """Until something is delivered, a leader leaves, or the time is up; or for no reason."""
        timeout = SLEEP_SECONDS if timeout is None else min(timeout, SLEEP_SECONDS)
        alarm = waker()
        ticket = alarm.ticket()
        try:
            if not self._lead.acquire(False):
                # Told first, and then looked again: a leader looks at this after it has released the lead (_notify).
                self._unarmed = True
                if not self._lead.acquire(False):
                    await alarm.wait(ticket, timeout)
                    return
            # With the lead nobody else delivers: what is not there now will find the channel armed.
            if self._window.delivered[self._channel] >= execution or not self._reader.arm():
                return
        finally:
            self._stop_leading()
        await alarm.wait(ticket, timeout)


#: What takes the lead, and gives it back before it returns.
_LEADERS = frozenset(
    function.__code__
    for function in (Receiver.wait, Receiver._wait, Receiver._follow, Receiver._take_ready, Receiver._sleep)
)
