"""One ncclComm_t: how it is made, used, and how it ends, whatever the other ranks do.

    made       by a thread of its own, which may wait as long as it likes: whoever joins waits for it with a deadline
    used       `call`: in the caller's thread; a call that is in progress (a non-blocking communicator) is waited for
    abort      ends what runs on the device; needs nobody
    destroy    gives back what the communicator has, when all ranks do it: ncclCommDestroy waits for them

Neither end is waited for longer than END_S; both run in a thread that may stay behind. If it does, `stuck` is true, and
only the end of the process gives the device back: whoever supervises the process should end it.

Collecting a communicator that has not ended would destroy it, which hangs if a rank is dead (pytorch#180611). So it
holds a reference to itself until it has ended; a process that ends before just ends.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from channels.communicators.nccl.cuda import IN_PROGRESS, status_of

__all__ = ["END_S", "Handle"]

#: Seconds that ncclCommAbort and ncclCommDestroy may take.
END_S = 5.0
#: Seconds that an abort lets a call of another thread come back before it aborts in the middle of it.
_GRACE_S = 1.0
#: Seconds between two looks at a non-blocking communicator.
_POLL_S = 0.0005


class Handle:
    """A communicator of CuPy."""

    def __init__(self, nccl: Any, world_size: int, unique_id: Any, rank: int) -> None:
        self._nccl = nccl
        self._arguments = (world_size, unique_id, rank)
        # Its handle is there as soon as NCCL has set it, also while __init__ still waits, or if it raises.
        self._comm = nccl.NcclCommunicator.__new__(nccl.NcclCommunicator)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._comm))
        self._using = threading.Lock()
        #: Of the next two: whoever ends it, and whoever makes it, must agree on which of them gives it back.
        self._state = threading.Lock()
        #: In ncclCommInitRank, which nothing but the other ranks can end.
        self._in_init = False
        self._ended = False
        self._ending: threading.Thread | None = None

    @property
    def stuck(self) -> bool:
        """It was to end, and has not."""
        return self._ended and (self._in_init or (self._ending is not None and self._ending.is_alive()))

    def connect(self, given_up: Callable[[], bool]) -> None:
        """Meet the other ranks. Raises what CuPy raises. `given_up`: nobody waits for it any more."""
        config = self._config()
        with self._state:
            ended = self._ended
            self._in_init = not ended
        if ended:  # given up before it began
            return
        try:
            self._settle(lambda: self._comm.__init__(*self._arguments, *config), given_up)
        finally:
            with self._state:
                # It was given up in the middle, and left to this thread, for the others have come after all.
                left = self._in_init and self._ended
                self._in_init = False
            if left:
                self._finish(self._comm.abort)

    def call(self, function: Callable[[Any], None], given_up: Callable[[], bool]) -> None:
        """`function(communicator)`, and wait until NCCL has taken it. One thread at a time."""
        with self._using:
            self._settle(lambda: function(self._comm), given_up)

    def group(self, function: Callable[[Any], None], given_up: Callable[[], bool]) -> None:
        """The same, with what `function` calls as one operation."""

        def grouped(comm: Any) -> None:
            self._nccl.groupStart()
            try:
                function(comm)
            finally:
                self._nccl.groupEnd()

        self.call(grouped, given_up)

    def check(self) -> None:
        """Raises what has gone wrong on the device or in the network since, as CuPy raises it."""
        if not self._ended:
            self._in_progress()

    def abort(self) -> None:
        """End everything that runs, and the communicator. From any thread, at any time; the second time it does
        nothing.
        """
        # A call that is on its way gets a moment to come back. If it does not, it waits for a rank that is not there:
        # then aborting is what ends it.
        taken = self._using.acquire(timeout=_GRACE_S)
        try:
            self._end(self._comm.abort)
        finally:
            if taken:
                self._using.release()

    def destroy(self) -> None:
        """Give back the communicator; every rank does so now, and nothing runs on it."""
        self._end(self._comm.destroy)

    # ---- inside ----

    def _config(self) -> tuple[Any, ...]:
        """A config for a non-blocking communicator, if this CuPy can make one; see channels.communicators.nccl.cuda."""
        try:
            return (self._nccl.NcclConfig(blocking=0),)
        except (AttributeError, TypeError):
            return ()

    def _settle(self, function: Callable[[], None], given_up: Callable[[], bool]) -> None:
        try:
            function()
        except (RuntimeError, KeyError) as error:
            if status_of(error) != IN_PROGRESS:
                raise
            with self._state:
                if self._ended:
                    return  # given up before it was known: `connect` aborts it
                self._in_init = False  # it is non-blocking: it may be aborted
            while self._in_progress() and not given_up():
                time.sleep(_POLL_S)

    def _in_progress(self) -> bool:
        try:
            self._comm.check_async_error()
        except (RuntimeError, KeyError) as error:
            if status_of(error) != IN_PROGRESS:
                raise
            return True
        return False

    def _end(self, how: Callable[[], None]) -> None:
        with self._state:
            if self._ended:
                return
            self._ended = True
            in_init = self._in_init
        if in_init:
            # A blocking ncclCommInitRank. ncclCommAbort beside it would free what it uses: NCCL waits for its own init
            # only where the communicator is non-blocking. It ends when the others come, or this process does.
            return
        self._ending = threading.Thread(target=self._finish, args=(how,), name="dagc-nccl-end", daemon=True)
        self._ending.start()
        self._ending.join(END_S)

    def _finish(self, how: Callable[[], None]) -> None:
        how()
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(self._comm))
