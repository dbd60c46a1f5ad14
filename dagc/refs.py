"""ResultRef: one result of one execution, there already or on its way."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, final

from channels import Failure

__all__ = ["ResultRef", "Waiting"]


class Waiting(Protocol):
    """Who can wait for a ref: the receiver of the channel that brings its value."""

    def wait(self, ref: ResultRef, timeout: float | None) -> None: ...
    def wait_async(self, ref: ResultRef) -> Generator[Any, None, None]: ...


@final
class ResultRef:
    """The result of an execution: `ref.get(timeout=5.0)`, `dagc.get(ref)` or `await ref`, as often as you like.

    Dropping it without getting it is allowed; the value is dropped when it comes.
    """

    __slots__ = ("__weakref__", "_done", "_receiver", "_value", "execution", "name")

    def __init__(self, receiver: Waiting | None, execution: int, name: str) -> None:
        #: The number of the execution, from 1.
        self.execution = execution
        #: The name of the value in graph and plan.
        self.name = name
        self._receiver = receiver
        self._done = False
        self._value: Any = None

    @property
    def done(self) -> bool:
        """True once the value, or the failure, has been received. `get` may be quick before that, too."""
        return self._done

    def get(self, timeout: float | None = -1.0) -> Any:
        """The value. Raises what the method raised; ActorDiedError, GraphClosedError if it can come no more.

        timeout: seconds, None for ever; by default the graph's own. GetTimeoutError names the actor, the op and the
        channel that are waited for; the same ref may be got again after it.
        """
        if not self._done:
            assert self._receiver is not None, "a ref without a receiver is resolved when it is made"
            self._receiver.wait(self, timeout)
        if type(self._value) is Failure:
            # The same exception is raised by every get: without this, each would add its frames to it.
            raise self._value.unwrap().with_traceback(None)
        return self._value

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._done:
            assert self._receiver is not None, "a ref without a receiver is resolved when it is made"
            yield from self._receiver.wait_async(self)
        return self.get()

    def resolve(self, value: Any) -> None:
        """The value, or the Failure, has come. For the receiver."""
        self._value = value
        self._done = True
        self._receiver = None

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled; pass what its get() returns")

    def __repr__(self) -> str:
        return f"ResultRef({self.name}, execution {self.execution}, {'done' if self._done else 'pending'})"
