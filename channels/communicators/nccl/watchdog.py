"""Who looks after operations that run on a device: NCCL itself waits for ever.

A thread for each communicator. It sleeps while nothing is under way; else it looks every POLL_S at the events of what
was launched, at deadlines, and every ERRORS_S at NCCL's own state. It also ends the communicator:

    an operation is past its deadline   the group breaks; the coordinator finds out who has not come
    NCCL reports an error               the group breaks with it
    the group breaks, for any reason    abort, so that what runs on the device ends
    a rank has left, and an operation   abort, for this rank alone: it would wait for ever; ChannelClosed
      needs more of it than it did
    this rank has left                  once nothing runs any more and all have left: destroy; nobody is disturbed

NCCL knows nothing of the other ranks' aborts: a rank that is told nothing spins on. Within a machine all ranks must
abort (NVIDIA/nccl#863). Hence the coordinator tells everybody, and every watchdog aborts its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from channels.communicators.coordination.membership import Membership
from channels.communicators.nccl.cuda import describe
from channels.communicators.nccl.handle import Handle
from channels.communicators.requests import PAIRED, Kind, Request

__all__ = ["DESERTED", "ERRORS_S", "POLL_S", "Counts", "Flight", "Watchdog"]

#: Seconds between two looks at what is under way. A look costs a few microseconds an operation.
POLL_S = 0.01
#: Seconds between two questions to NCCL.
ERRORS_S = 0.1
#: The end of the reason with which a rank breaks the group because another one, which it needs, has left.
DESERTED = ", which has left"


@dataclass
class Counts:
    """How many operations a rank has begun: of all, and with each other rank, sends and receives."""

    collectives: int = 0
    sends: dict[int, int] = field(default_factory=dict)
    recvs: dict[int, int] = field(default_factory=dict)

    def begin(self, request: Request) -> int:
        """Count it; its number among its like."""
        if request.kind is Kind.SEND:
            self.sends[request.peer] = number = self.sends.get(request.peer, 0) + 1
        elif request.kind is Kind.RECV:
            self.recvs[request.peer] = number = self.recvs.get(request.peer, 0) + 1
        else:
            self.collectives = number = self.collectives + 1
        return number

    def as_message(self) -> dict[str, Any]:
        pairs = {str(rank): [self.sends.get(rank, 0), self.recvs.get(rank, 0)] for rank in {*self.sends, *self.recvs}}
        return {"collectives": self.collectives, "pairs": pairs}


@dataclass(eq=False)
class Flight:
    """An operation that is being launched, or was."""

    request: Request
    #: Its number among its like.
    number: int
    deadline: float | None
    timeout: float
    #: The event of its end. None: the call that launches it has not returned, maybe because it waits for another rank.
    done: Any = None

    def needs(self, left: Any, rank: int) -> bool:
        """Whether it needs more of a rank than that one did before it left. `left`: its counts, as a message."""
        if self.request.kind not in PAIRED:
            return self.number > int(left["collectives"])
        sends, recvs = left["pairs"].get(str(rank), (0, 0))
        return self.number > int(recvs if self.request.kind is Kind.SEND else sends)


class Watchdog:
    """Looks after one communicator. Any thread may call anything here."""

    def __init__(self, membership: Membership, handle: Handle, counts: Counts) -> None:
        self._membership = membership
        self._handle = handle
        self._counts = counts
        self._flights: deque[Flight] = deque()
        self._changed = threading.Condition()
        self._woken = False
        self._leaving = False
        self._finished = threading.Event()
        #: A rank that has left, for which an operation of this rank would wait for ever; and that operation.
        self.deserted: tuple[int, Request] | None = None
        self.last: Request | None = None
        membership.progress = self._progress
        membership.on_change = self.wake
        name = f"dagc-watchdog-{membership.rank}-{membership.group.name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self.wake()  # what has happened before it was there

    def watch(self, flights: list[Flight]) -> None:
        """Look after what is about to be launched."""
        with self._changed:
            asleep = not self._flights
            self._flights.extend(flights)
            self.last = flights[-1].request
            if asleep or any(flight.deadline is not None for flight in flights):
                self._woken = True
                self._changed.notify()

    def wake(self) -> None:
        """Something has changed: a verdict, a rank that left."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def landed(self) -> bool:
        """Whether nothing is under way. Raises RuntimeError if the device cannot say."""
        with self._changed:
            while self._flights and self._flights[0].done is not None and self._flights[0].done.query():
                self._flights.popleft()
            return not self._flights

    def forget(self, flights: list[Flight]) -> None:
        """Their launch has failed."""
        with self._changed:
            for flight in flights:
                if flight in self._flights:
                    self._flights.remove(flight)

    def leave(self) -> None:
        """This rank has left: end the communicator when that disturbs nobody."""
        self._leaving = True
        self.wake()

    def finished(self, timeout: float) -> bool:
        """Wait until the communicator has ended, or cannot be ended; whether so."""
        return self._finished.wait(timeout)

    # ---- the thread ----

    def _run(self) -> None:
        asked = 0.0
        while not self._ended():
            with self._changed:
                self._changed.wait_for(lambda: self._woken, self._patience())
                self._woken = False
            if self._ended():
                break
            try:
                if self.landed():
                    continue
                if time.monotonic() - asked > ERRORS_S:
                    asked = time.monotonic()
                    self._handle.check()
            except (RuntimeError, KeyError) as error:
                self._membership.break_(f"rank {self._membership.rank}: {describe(error)}")
                continue
            self._look_for_the_deserted()
            self._look_at_deadlines()
        self._finish()
        with self._changed:
            self._changed.wait_for(lambda: self._leaving)
        self._membership.close()

    def _ended(self) -> bool:
        """Whether the communicator is to be ended now."""
        if self._membership.verdict is not None or self.deserted is not None:
            return True
        return self._leaving and self._membership.over is not None and not self._flights

    def _patience(self) -> float | None:
        if not self._flights:
            return None
        deadlines = [flight.deadline for flight in self._flights if flight.deadline is not None]
        return max(0.0, min([POLL_S, *[deadline - time.monotonic() for deadline in deadlines]]))

    def _look_for_the_deserted(self) -> None:
        left = self._membership.left
        for flight in list(self._flights) if left else ():
            for rank, counts in left.items():
                concerned = flight.request.kind not in PAIRED or flight.request.peer == rank
                if self.deserted is None and concerned and flight.needs(counts, self._membership.rank):
                    self.deserted = rank, flight.request

    def _look_at_deadlines(self) -> None:
        now = time.monotonic()
        for flight in list(self._flights):
            if flight.deadline is not None and flight.deadline <= now:
                paired = flight.request.kind in PAIRED
                awaited = [flight.request.peer] if paired else []
                doing = f"come to this {flight.request}" if paired else str(flight.request)
                self._membership.late(doing, awaited, flight.timeout, flight.number)
                return

    def _finish(self) -> None:
        """End the communicator."""
        self._look_for_the_deserted()  # who has left comes before that the group broke, maybe for that very reason
        if self.deserted is not None:
            rank, request = self.deserted
            self._membership.break_(f"rank {self._membership.rank} waited in {request} for rank {rank}{DESERTED}")
        if self._membership.verdict is None and self._membership.over:
            self._handle.destroy()
        else:
            self._handle.abort()
        self._finished.set()

    def _progress(self) -> tuple[int, str]:
        return self._counts.collectives, "" if self.last is None else str(self.last)
