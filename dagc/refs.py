"""ResultRef: one result of one execution, there already or on its way."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Protocol, final

from channels import Failure
from dagc.errors import ResultLostError
from runtime.timeouts import check_timeout

__all__ = ["OWN_TIMEOUT", "PENDING", "ResultRef", "Waiting"]


class _Pending:
    """The value of a ref that has none yet."""

    def __repr__(self) -> str:
        return "pending"


PENDING = _Pending()


class _OwnTimeout:
    """Stands for the timeout that the graph was compiled with."""

    def __repr__(self) -> str:
        return "the graph's own"


OWN_TIMEOUT: Any = _OwnTimeout()


class Waiting(Protocol):
    """Who can wait for a ref: the receiver of the channel that brings its value."""

    #: Of the value in graph and plan.
    name: str
    #: Seconds: the graph's own, None for ever.
    timeout: float | None

    def wait(self, execution: int, timeout: float | None, said: float | None) -> None: ...
    def wait_async(self, execution: int, since: float) -> Generator[Any, None, None]: ...


@final
class ResultRef:
    """The result of an execution: `ref.get(timeout=5.0)`, `dagc.get(ref)` or `await ref`, as often as you like.

    Dropping it without getting it is allowed; the value is dropped when it comes.
    """

    __slots__ = ("__weakref__", "_graph", "_receiver", "execution", "leaves", "value")

    def __init__(self, receiver: Waiting, execution: int, value: Any = PENDING, graph: object = None) -> None:
        """`graph`: who must live for the value to come; held until then."""
        #: The number of the execution, from 1.
        self.execution = execution
        #: The value, the Failure, or PENDING. `get` is what you want.
        self.value = value
        #: The ends of the calls of this execution whose values nobody reads: it is over when they are.
        self.leaves: tuple[ResultRef, ...] = ()
        self._receiver = receiver
        self._graph = graph

    @property
    def done(self) -> bool:
        """True once the value, or the failure, has been received. `get` may be quick before that, too."""
        return self.value is not PENDING and all(leaf.done for leaf in self.leaves)

    def get(self, timeout: float | None = OWN_TIMEOUT) -> Any:
        """The value. Raises what the method raised; ActorDiedError, GraphClosedError if it can come no more.

        With calls whose values nobody reads (leaves) it also waits for their ends, and raises what they raised.

        timeout: seconds, None for ever; by default the graph's own. GetTimeoutError names the actor, the op and the
        channel that are waited for; the same ref may be got again after it. WrongArgumentsError for a timeout that is
        no number of seconds.
        """
        if timeout is not OWN_TIMEOUT:
            check_timeout(timeout)
        return self.get_within(timeout, timeout)

    def get_within(self, timeout: float | None, said: float | None) -> Any:
        """`get`, where `timeout` may be what is left of the seconds that the user said."""
        if self.leaves:
            self._wait_for_all(timeout, said)
        elif self.value is PENDING:
            self._receiver.wait(self.execution, timeout, said)
        value = self.value
        self._graph = None
        if value is PENDING:
            raise ResultLostError(f"{self!r} was lost to an interrupt that came as it arrived")
        if type(value) is Failure:
            # The same exception is raised by every get: without this, each would add its frames to it.
            raise value.unwrap().with_traceback(None)
        for leaf in self.leaves:
            leaf.get()
        return value

    def _wait_for_all(self, timeout: float | None, said: float | None) -> None:
        """Until the value and the end of every leaf are there, within one timeout for all."""
        receivers = [ref._receiver for ref in (self, *self.leaves) if ref.value is PENDING]
        if timeout is OWN_TIMEOUT:
            timeout = said = next((receiver.timeout for receiver in receivers), None)
        deadline = None if timeout is None else time.monotonic() + timeout
        for receiver in receivers:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            receiver.wait(self.execution, left, said)

    def __await__(self) -> Generator[Any, None, Any]:
        since = time.monotonic()
        for ref in (self, *self.leaves):
            if ref.value is PENDING:
                yield from ref._receiver.wait_async(self.execution, since)
        return self.get()

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled; pass what its get() returns")

    def __repr__(self) -> str:
        return f"ResultRef({self._receiver.name}, execution {self.execution}, {'done' if self.done else 'pending'})"
