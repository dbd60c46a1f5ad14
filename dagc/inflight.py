"""The window of executions: which are under way, which results are wanted, in what order they come. No I/O here.

Executions are numbered from 1. Each output channel delivers in that order, so what is wanted of a channel is a queue of
refs, and a delivery belongs to the first of them. An execution is under way until every output channel has delivered
it; `limit` of them may be. A ref that its user dropped stays in its queue until its value comes, and goes with it: so
dropping a ref costs nothing and loses nothing.

Threads: `begin` and `cancel` under the graph's submit lock, `deliver` of one channel under the lock of its receiver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from dagc.refs import ResultRef

__all__ = ["Window"]


class Window:
    """`channels`: how many output channels there are. `limit`: executions under way at the same time."""

    def __init__(self, channels: int, limit: int) -> None:
        self.limit = limit
        #: The number of the last execution that was begun.
        self.begun = 0
        #: Of each output channel: the last execution that it delivered.
        self.delivered = [0] * channels
        self._wanted: list[deque[ResultRef]] = [deque() for _ in range(channels)]
        # There was room up to this execution when somebody last looked: it can only have become more.
        self._room = limit

    @property
    def finished(self) -> int:
        """Every execution up to this one has been delivered by every channel."""
        return min(self.delivered, default=self.begun)

    @property
    def under_way(self) -> int:
        return self.begun - self.finished

    @property
    def full(self) -> bool:
        if self.begun < self._room:
            return False
        self._room = self.finished + self.limit
        return self.begun >= self._room

    @property
    def needed(self) -> int:
        """The execution that every channel must have delivered before one more has a place.

        Counted from the last one that was begun, so that it is never one that was not: nobody would deliver that.
        """
        return self.begun + 1 - self.limit

    def begin(self, refs: Sequence[ResultRef]) -> None:
        """The next execution begins; `refs[channel]` gets what the channel delivers for it."""
        for wanted, ref in zip(self._wanted, refs):  # noqa: B905 - as many by construction, and this is the hot path
            wanted.append(ref)
        self.begun += 1  # last: a signal handler that comes in between waits for nothing that no ref wants

    def begin_one(self, ref: ResultRef) -> None:
        """`begin`, of a window with one channel."""
        self._wanted[0].append(ref)
        self.begun += 1

    def cancel(self, execution: int) -> None:
        """Take the begin of this execution, the last one, back: nothing of it was sent.

        It may have come only half way to an interrupt, or, of a broken channel, have failed meanwhile.
        """
        for wanted in self._wanted:
            if wanted and wanted[-1].execution == execution:
                wanted.pop()
        self.begun = execution - 1

    def deliver(self, channel: int, value: object) -> None:
        """The channel brought the value, or the Failure, of its next execution."""
        self.delivered[channel] += 1
        self._wanted[channel].popleft().value = value

    def lose(self, channel: int, taken: int, failure: object) -> None:
        """An interrupt came in the middle of `deliver`, or before it: the channel was read up to execution `taken`."""
        self.delivered[channel] = taken
        wanted = self._wanted[channel]
        while wanted and wanted[0].execution <= taken:
            wanted.popleft().value = failure

    def fail(self, channel: int, failure: Callable[[], object]) -> None:
        """The channel will deliver nothing more: all that is wanted of it fails, each with an error of its own."""
        while self._wanted[channel]:
            self.deliver(channel, failure())
        self.delivered[channel] = max(self.delivered[channel], self.begun)  # whatever an interrupt left undone
