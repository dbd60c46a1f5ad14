"""Line: the caller's side of one (caller, actor) pair: keeps the order, knows what is pending, fails it on death.

Every engine has its own way of carrying a Request to an actor and a Reply back; what a caller sees is decided here.

    submit ──> waits for refs among its arguments, in order ──> transmit(Request) ... receive(Reply) ──> futures
    call, loop ─────────────────────────────────────────────────^
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from channels.serialize import pack
from runtime.arguments import pack_arguments
from runtime.engine import Loop, LoopFunction
from runtime.messages import Kind, Reply, Request, check_size
from runtime.outcomes import receive, receive_failure
from runtime.refs import ObjectRef, new_result

if TYPE_CHECKING:
    from runtime.calls import BoundCall

__all__ = ["Line", "pack_values", "settle", "when_known", "when_ready"]


def when_known(refs: Sequence[ObjectRef], then: Callable[[BaseException | None], None]) -> None:
    """Call `then(None)` once all refs have values, or once all are known `then(error)` if one of them has failed.

    It is called by the thread that brings the last value, or by this one if all are there.
    """
    left = itertools.count(len(refs) - 1, -1)
    #: This thread, as long as it is here.
    here: int | None = threading.get_ident()

    def one_more(_: Future[Any]) -> None:
        if next(left) > 0:  # next() of a count is atomic
            return
        errors = [error for ref in refs if (error := ref.future().exception()) is not None]
        known = partial(then, errors[0] if errors else None)
        if threading.get_ident() == here:
            known()
        else:
            _flat(known)

    if not refs:
        then(None)
    for ref in refs:
        ref.future().add_done_callback(one_more)
    here = None


class _Todo(threading.local):
    """What this thread has to call; None while it is not in `_flat`."""

    calls: deque[Callable[[], None]] | None = None


_todo = _Todo()


def _flat(function: Callable[[], None]) -> None:
    """Call `function`; if this very thread is in the middle of such a call, after that one.

    A ref that fails fails the calls that wait for it, which fail those that wait for them: a long chain of calls must
    not become as deep a recursion.
    """
    if _todo.calls is not None:
        _todo.calls.append(function)
        return
    calls = _todo.calls = deque([function])
    failed: Exception | None = None
    try:
        while calls:
            try:
                calls.popleft()()
            except Exception as error:  # noqa: BLE001 - raised below; the others must be called all the same
                failed = failed or error
    finally:
        _todo.calls = None
    if failed is not None:
        raise failed


def when_ready(refs: Sequence[ObjectRef], then: Callable[[tuple[bytes, ...], BaseException | None], None]) -> None:
    """As `when_known`, with the packed values of the refs: `then(values, None)`, or `then((), error)`."""

    def known(error: BaseException | None) -> None:
        values: tuple[bytes, ...] = ()
        if error is None:
            try:
                values = pack_values(refs)
            except Exception as problem:  # noqa: BLE001 - a value that cannot be packed fails the call, not this thread
                error = problem
        then(values, error)

    when_known(refs, known)


def pack_values(refs: Sequence[ObjectRef]) -> tuple[bytes, ...]:
    """The values of refs that are there, packed. Raises SerializationError."""
    return tuple(pack(ref.future().result()) for ref in refs)


@dataclass
class _Waiting:
    """A method call that has not been sent: it waits for its arguments, or for an earlier call that does."""

    call: BoundCall
    payload: bytes
    futures: list[Future[Any]]
    #: Packed values of the refs; None while they are not all there.
    values: tuple[bytes, ...] | None = None
    #: An argument failed, and so does the call.
    error: BaseException | None = None


@dataclass(frozen=True)
class _Pending:
    """A request that was sent: who waits for its replies, and what a failure is noted with."""

    futures: list[Future[Any]]
    note: str


class Line:
    """Calls of this process to one actor, for any thread. `transmit` must not block, and keeps the order."""

    def __init__(self, label: str, transmit: Callable[[Request], None]) -> None:
        self._label = label
        self._transmit = transmit
        self._lock = threading.RLock()
        self._ids = itertools.count()
        self._waiting: deque[_Waiting] = deque()
        self._pending: dict[int, _Pending] = {}
        #: Makes the error of everything that is asked of a dead actor: a new exception for each result.
        self._death: Callable[[], BaseException] | None = None

    def submit(self, call: BoundCall) -> list[ObjectRef]:
        """Call a method: a ref for each value. Raises GraphError, SerializationError, MessageTooLargeError."""
        name = f"{self._label}.{call.method.name}"
        payload, refs = pack_arguments(name, call.args, call.kwargs)
        check_size(f"{name}: its arguments", [payload])
        waiting = _Waiting(call, payload, [new_result() for _ in range(call.method.num_returns)])

        def arguments_ready(values: tuple[bytes, ...], error: BaseException | None) -> None:
            try:
                check_size(f"{name}: its arguments", [payload, *values])
            except ValueError as too_large:
                error = too_large
            waiting.error = error
            waiting.values = values
            self._send_ready()

        try:
            with self._lock:
                if self._death is None:
                    self._waiting.append(waiting)
                else:
                    _fail(waiting.futures, self._death)
            when_ready(refs, arguments_ready)
        except BaseException as interrupt:  # Ctrl-C: nobody has its refs, but the calls behind it must not wait for it
            waiting.error, waiting.values = interrupt, ()
            self._send_ready()
            raise
        count = len(waiting.futures)
        return [ObjectRef(f, name if count == 1 else f"{name}[{i}]") for i, f in enumerate(waiting.futures)]

    def send(
        self, method: str, payload: bytes, values: tuple[bytes, ...], futures: list[Future[Any]], note: str
    ) -> None:
        """Make a method call that is packed already, ahead of what waits for arguments: a future for each value."""
        with self._lock:
            if self._death is None:
                request = Request(next(self._ids), Kind.METHOD, method, payload, values, len(futures))
                self._send(request, futures, note)
                return
        _fail(futures, self._death)

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
        """Run a function beside the instance. Raises SerializationError, MessageTooLargeError."""
        future = new_result()
        self._ask(Kind.CALL, function, args, [future])
        return future

    def loop(self, function: LoopFunction, args: tuple[Any, ...]) -> Loop:
        """Start a loop beside the instance. Raises SerializationError, MessageTooLargeError."""
        loop = Loop(new_result(), new_result())
        self._ask(Kind.LOOP, function, args, [loop.ready, loop.done])
        return loop

    def receive(self, reply: Reply) -> None:
        """A reply came. User code may run here: unpickling, and what waits for the futures."""
        with self._lock:
            pending = self._pending.get(reply.id)
            if pending is None:  # the actor was declared dead meanwhile
                return
            if reply.last:
                del self._pending[reply.id]
        if reply.failed:
            error = receive_failure(reply.values[0], pending.note)
            for future in pending.futures:
                settle(future, error=error)
            return
        waiting = [future for future in pending.futures if not future.done()]
        for future, value in zip(waiting, reply.values, strict=False):  # a loop: one value now, the other future later
            result, problem = receive(value)
            settle(future, result, problem)

    def die(self, death: Callable[[], BaseException]) -> None:
        """The actor is dead: fail what is under way and whatever is asked from now on. The first death counts."""
        with self._lock:
            if self._death is not None:
                return
            self._death = death
            lost = [w.futures for w in self._waiting] + [p.futures for p in self._pending.values()]
            self._waiting.clear()
            self._pending.clear()
        for futures in lost:
            _fail(futures, death)

    def _ask(self, kind: Kind, function: Callable[..., Any], args: tuple[Any, ...], futures: list[Future[Any]]) -> None:
        name = getattr(function, "__qualname__", repr(function))
        payload = pack((function, args))
        check_size(f"{self._label}: {name} and its arguments", [payload])
        with self._lock:
            if self._death is None:
                self._send(Request(next(self._ids), kind, name, payload), futures, f"raised in {self._label}.{name}")
                return
        _fail(futures, self._death)

    def _send_ready(self) -> None:
        refused: list[_Waiting] = []
        try:
            self._send_all(refused)
        finally:
            for waiting in refused:
                for future in waiting.futures:
                    settle(future, error=waiting.error)

    def _send_all(self, refused: list[_Waiting]) -> None:
        with self._lock:  # also around transmit: two threads that send must not overtake each other
            while self._waiting and self._waiting[0].values is not None:
                waiting = self._waiting.popleft()
                if waiting.error is not None:
                    refused.append(waiting)
                    continue
                method = waiting.call.method
                request = Request(
                    next(self._ids), Kind.METHOD, method.name, waiting.payload, waiting.values or (), method.num_returns
                )
                self._send(request, waiting.futures, f"raised in {self._label}.{method.name}")

    def _send(self, request: Request, futures: list[Future[Any]], note: str) -> None:
        self._pending[request.id] = _Pending(futures, note)
        if self._death is None:
            self._transmit(request)
        else:  # a signal handler of this thread's has shut down since the caller asked, and did not see it
            del self._pending[request.id]
            _fail(futures, self._death)


def _fail(futures: list[Future[Any]], death: Callable[[], BaseException]) -> None:
    for future in futures:
        settle(future, error=death())


def settle(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    """Set the future unless it is set: a loop that ends was set up before, and a death may overtake a reply."""
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
