"""ActorHost: the actor's side. An instance, the queue of its methods, and what runs beside them.

    METHOD   queued, in order of arrival, each with the `turn` held: on the thread that calls `run` if
             max_concurrency is 1 (the CUDA device and profilers belong to a thread), else in a pool.
             An async method goes on on the actor's event loop and holds its turn until it is done.
    CALL     in a thread of its own at once
    LOOP     in a thread of its own at once: one reply when it is set up, one when it has ended

Threads other than the constructor's get its torch settings (runtime/thread_settings.py).

One host serves every engine; they differ in what carries requests and replies.
"""

from __future__ import annotations

import inspect
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from channels.serialize import pack
from runtime.arguments import load_arguments
from runtime.current import inside
from runtime.decorated import Decorated
from runtime.engine import ActorContext
from runtime.errors import EngineError, GraphError
from runtime.event_loop import EventLoopThread
from runtime.messages import Kind, Reply, Request, check_size
from runtime.method_threads import MethodThreads
from runtime.outcomes import open_value, pack_failure
from runtime.thread_settings import ThreadSettings

if TYPE_CHECKING:
    from runtime.ids import ActorId

__all__ = ["ActorHost", "Answer"]

#: Takes a reply back to the caller of the request. It must not block or raise.
Answer = Callable[[Reply], None]


class ActorHost:
    """Runs one actor. Any thread may call `receive`; `construct` and then `run` belong to one thread."""

    def __init__(
        self,
        actor_id: ActorId,
        label: str,
        max_concurrency: int,
        *,
        on_exit: Callable[[int], None],
        on_running: Callable[[str], None],
    ) -> None:
        """on_exit: a method called sys.exit, with this code. on_running: what the actor is executing now, in words."""
        self._actor_id = actor_id
        self._label = label
        self._on_exit = on_exit
        self._on_running = on_running
        self._turn: threading.Lock | threading.BoundedSemaphore = (
            threading.Lock() if max_concurrency == 1 else threading.BoundedSemaphore(max_concurrency)
        )
        self._pool = MethodThreads(f"dagc-{label}", actor_id) if max_concurrency > 1 else None
        self._methods: queue.SimpleQueue[tuple[Request, Answer] | None] = queue.SimpleQueue()
        self._running: list[str] = []
        self._context: ActorContext | None = None
        #: Of the thread that made the instance, for the threads that its methods run in.
        self._settings = ThreadSettings()
        self._constructed = threading.Event()
        self._stopped = False
        self._loop: EventLoopThread | None = None
        self._loop_lock = threading.Lock()

    def construct(self, payload: bytes, values: Sequence[bytes]) -> bytes | None:
        """Make the instance of packed ((class, *args), kwargs). Returns None, or the packed Failure if it raised."""
        inside.set(self._actor_id)
        self._enter("__init__")
        try:
            (cls, *args), kwargs = load_arguments(payload, values)
            if isinstance(cls, Decorated):  # see travelling()
                cls = cls.__wrapped__
            instance = cls(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - also SystemExit: whoever waits for the actor must know
            return pack_failure(error)
        finally:
            self._leave("__init__")
        self._settings = ThreadSettings.here()
        self._context = ActorContext(instance, self._actor_id, self._label, self._turn, self._run_coroutine, self._exit)
        self._constructed.set()
        return None

    def receive(self, request: Request, answer: Answer) -> None:
        """Take a request. Returns at once; replies go to `answer`, from any thread."""
        if request.kind is Kind.METHOD:
            self._methods.put((request, answer))
            return
        target = self._call if request.kind is Kind.CALL else self._run_loop
        name = f"dagc-{request.kind.name.lower()}-{self._label}"
        try:
            threading.Thread(target=target, args=(request, answer), name=name, daemon=True).start()
        except RuntimeError as error:  # too many threads; it must not end the stream that the request came by
            answer(Reply(request.id, True, True, (pack_failure(error),)))

    def run(self) -> None:
        """Run methods until `stop`."""
        while (item := self._methods.get()) is not None:
            self._turn.acquire()
            if self._stopped:
                break
            if self._pool is None:
                self._method(*item)
                continue
            try:
                self._pool.submit(self._method, *item)
            except RuntimeError as error:  # too many threads
                request, answer = item
                self._turn.release()
                answer(Reply(request.id, True, True, (pack_failure(error),)))

    def stop(self) -> None:
        """Run nothing more. What is running goes on to its end, with nobody to hear of it."""
        self._stopped = True
        self._constructed.set()
        self._methods.put(None)
        if self._pool is not None:
            self._pool.stop()
        with self._loop_lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.close(wait=False)  # it may be this very thread

    def _method(self, request: Request, answer: Answer) -> None:
        """Run one method; the turn is held already."""
        assert self._context is not None
        self._enter(request.method)
        try:
            function = getattr(self._context.instance, request.method)
            args, kwargs = load_arguments(request.payload, request.values)
            with nullcontext() if self._pool is None else self._settings.applied():
                result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever a method raises is its caller's
            self._end_method(request, answer, error=error)
            return
        if inspect.iscoroutine(result):
            self._start_coroutine(request, answer, result)
        else:
            self._end_method(request, answer, result)

    def _start_coroutine(self, request: Request, answer: Answer, coroutine: Any) -> None:
        async def to_the_end() -> None:
            try:
                result = await coroutine
            except BaseException as error:  # noqa: BLE001 - whatever a method raises is its caller's
                self._end_method(request, answer, error=error)
            else:
                self._end_method(request, answer, result)

        if self._stopped:
            coroutine.close()
            return
        self._event_loop().start(to_the_end())

    def _end_method(
        self, request: Request, answer: Answer, result: Any = None, error: BaseException | None = None
    ) -> None:
        if isinstance(error, SystemExit):
            self._exit(error)
            return
        if error is None:
            reply = self._reply(request, lambda: self._values(request, result))
        else:
            reply = Reply(request.id, True, True, (pack_failure(error),))
        self._leave(request.method)
        self._turn.release()
        answer(reply)

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._event_loop().run(coroutine)

    def _exit(self, request: SystemExit) -> None:
        code = request.code
        self._on_exit(code if isinstance(code, int) else 0 if code is None else 1)

    def _values(self, request: Request, result: Any) -> tuple[bytes, ...]:
        name = f"{self._label}.{request.method}"
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise GraphError(f"{name} is a generator; a method returns its values at once: return a list")
        if request.num_returns == 1:
            return (pack(result),)
        if not isinstance(result, (tuple, list)) or len(result) != request.num_returns:
            found = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
            raise GraphError(
                f"{name} returned {found}; num_returns={request.num_returns} expects a tuple or list of as many"
            )
        return tuple(pack(value) for value in result)

    def _call(self, request: Request, answer: Answer) -> None:
        inside.set(self._actor_id)
        try:
            function, args = self._open(request)
            with self._settings.applied():
                result = function(self._context, *args)
        except BaseException as error:  # noqa: BLE001 - whatever the function raises is its caller's
            answer(Reply(request.id, True, True, (pack_failure(error),)))
            return
        answer(self._reply(request, lambda: (pack(result),)))

    def _run_loop(self, request: Request, answer: Answer) -> None:
        inside.set(self._actor_id)
        with ExitStack() as stack:
            self._loop_in(stack, request, answer)

    def _loop_in(self, stack: ExitStack, request: Request, answer: Answer) -> None:
        try:
            function, args = self._open(request)
            stack.enter_context(self._settings.applied())
            loop: Iterator[Any] = function(self._context, *args)
            try:
                ready = next(loop)
            except StopIteration:
                raise EngineError(
                    f"{request.method} returned without a yield; a loop yields once it is set up"
                ) from None
        except BaseException as error:  # noqa: BLE001 - whatever the function raises is its caller's
            answer(Reply(request.id, True, True, (pack_failure(error),)))
            return
        answer(self._reply(request, lambda: (pack(ready),), last=False))
        try:
            next(loop)
        except StopIteration as end:
            result = end.value
            answer(self._reply(request, lambda: (pack(result),)))
        except BaseException as error:  # noqa: BLE001 - whatever the function raises is its caller's
            answer(Reply(request.id, True, True, (pack_failure(error),)))
        else:
            twice = EngineError(f"{request.method} yielded a second time; a loop yields only once, when it is set up")
            answer(Reply(request.id, True, True, (pack_failure(twice),)))

    def _open(self, request: Request) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        self._constructed.wait()
        if self._context is None:
            raise EngineError(f"actor {self._label} was stopped before it was constructed")
        function, args = open_value(request.payload)
        return function, args

    def _reply(self, request: Request, values: Callable[[], tuple[bytes, ...]], *, last: bool = True) -> Reply:
        """A reply with these values, or with the reason why they cannot be sent."""
        try:
            packed = values()
            check_size(f"the values that {self._label}.{request.method} returned", packed)
        except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
            return Reply(request.id, True, True, (pack_failure(error, skip=2),))
        return Reply(request.id, False, last, packed)

    def _enter(self, what: str) -> None:
        self._running.append(what)
        self._on_running(", ".join(self._running))

    def _leave(self, what: str) -> None:
        self._running.remove(what)
        self._on_running(", ".join(self._running))

    def _event_loop(self) -> EventLoopThread:
        with self._loop_lock:
            if self._loop is None:
                self._loop = EventLoopThread(f"dagc-asyncio-{self._label}")
            return self._loop
