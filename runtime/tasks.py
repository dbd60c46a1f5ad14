"""TaskPool: functions called with `.remote()` run in worker processes that are kept for the next call.

    submit ──> waits for refs among its arguments ──> TaskQueue ──> a FunctionWorker's line ──> futures

What runs where and when is decided in runtime/task_queue.py; this carries it out.

It cannot deadlock by itself. A task that waits for arguments waits for refs that existed before it, and occupies nobody
meanwhile. A task that can run waits only for one that runs to end. A task that runs may submit tasks and wait for them:
these go to a pool of its own process (with the threads engine, of its own worker), whose workers no other task holds,
and whose first one is never refused for others that are busy. So whoever waits, waits for something that was submitted
earlier or lies deeper. What remains is what the tasks make up among themselves: a task that waits for another that
was not submitted by it, say through an actor, may wait for one that has no worker yet.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from runtime.arguments import pack_arguments
from runtime.engine import ActorOptions, Watch
from runtime.errors import ActorDiedError, EngineError, GraphError
from runtime.functions import FunctionWorker, RemoteFunction
from runtime.line import Line, pack_values, settle, when_known
from runtime.messages import check_size
from runtime.refs import ObjectRef, new_result
from runtime.task_queue import RETRY_S, Command, End, Later, Refuse, Run, Start, TaskQueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runtime.calls import ActorHandle, BoundCall
    from runtime.ids import ActorId

__all__ = ["TaskPool"]


class Engine(Protocol):
    """What a pool needs of its engine."""

    def create_actor(
        self, cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> ActorHandle: ...

    def watch(self, handles: Sequence[ActorHandle], on_death: Callable[[ActorId, ActorDiedError], None]) -> Watch: ...

    def kill(self, handle: ActorHandle) -> None: ...


@dataclass(eq=False)
class _Task:
    name: str
    options: ActorOptions
    payload: bytes
    #: ObjectRefs among the arguments.
    refs: list[ObjectRef]
    results: list[Future[Any]]

    def fail(self, error: BaseException) -> None:
        for result in self.results:
            settle(result, error=error)


@dataclass(eq=False)
class _Worker:
    handle: ActorHandle
    line: Line
    death: ActorDiedError | None = None
    #: What is to be said once it is gone: results, whose getters may want what it holds.
    last: list[Callable[[], None]] = field(default_factory=list)

    def died_in(self, future: Future[Any]) -> bool:
        """Whether it is its own death that a call of it ended with, and not another's, of which the function heard."""
        error = future.exception()
        return isinstance(error, ActorDiedError) and error.actor == repr(self.handle)


class TaskPool:
    """The tasks of one process, and the workers that run them. Any thread may submit."""

    def __init__(self, engine: Engine, line: Callable[[ActorHandle], Line]) -> None:
        """`line`: what the engine calls an actor through."""
        self._engine = engine
        self._line = line
        #: Of the queue and of the fields of the workers; nothing is called meanwhile.
        #: Reentrant, for a signal handler that shuts down while its thread is here.
        self._lock = threading.RLock()
        self._queue = TaskQueue(limit=max(2, os.cpu_count() or 1))
        self._workers: dict[ActorId, _Worker] = {}
        #: Held while the engine is asked to start or end a worker: `close` waits for it.
        self._asking = threading.RLock()
        self._timer: threading.Timer | None = None
        #: Why it was closed.
        self._closed: str | None = None

    def submit(self, call: BoundCall) -> ObjectRef | list[ObjectRef]:
        """Run a function; a list of refs if it returns several values.

        Raises GraphError for a DagNode among the arguments, SerializationError, MessageTooLargeError.
        """
        function: RemoteFunction = call.function
        payload, refs = pack_arguments(function.label, call.args, call.kwargs, callee=(function,))
        check_size(f"{function.label}: its arguments", [payload])
        results = [new_result() for _ in range(call.method.num_returns)]
        task = _Task(function.label, function.actor_options, payload, refs, results)
        when_known(refs, partial(self._known, task))
        if len(results) == 1:
            return ObjectRef(results[0], task.name)
        return [ObjectRef(result, f"{task.name}[{index}]") for index, result in enumerate(results)]

    def release(self) -> None:
        """A pool of the session was refused a worker: end those that are idle, but for the first."""
        self._tell(self._queue.release)

    def close(self, reason: str) -> list[ActorHandle]:
        """Start nothing more, and fail with EngineError(reason) what waits. Returns the workers, some at work."""
        with self._asking, self._lock:
            if self._closed is not None:
                return []
            self._closed = reason
            tasks = self._queue.waiting()
            workers = list(self._workers.values())
            if self._timer is not None:
                self._timer.cancel()
        for worker in workers:
            self._say_last(worker)
        for task in tasks:
            task.fail(EngineError(reason))
        return [worker.handle for worker in workers]

    def _known(self, task: _Task, error: BaseException | None) -> None:
        """The arguments of a task are known."""
        if error is not None:
            task.fail(error)
            return
        with self._lock:
            commands = [] if self._closed else self._queue.add(task, task.options)
            closed = self._closed  # now: it may have been closed in the middle of the line above
        if closed:
            task.fail(EngineError(closed))
        self._carry_out(commands)

    def _tell(self, event: Callable[[], list[Command]]) -> None:
        with self._lock:
            commands = [] if self._closed else event()
        self._carry_out(commands)

    def _carry_out(self, commands: Iterable[Command]) -> None:
        """Do what the queue says, and what follows from that.

        Also to the end if Ctrl-C interrupts it: the queue counts on what it has said.
        """
        todo = deque(commands)
        interrupt: BaseException | None = None
        while todo:
            command = todo.popleft()
            try:
                todo.extend(self._do(command))
            except BaseException as error:  # noqa: BLE001 - whoever waits for the task must hear of it
                todo.extend(self._failed(command, error))
                if not isinstance(error, Exception):
                    interrupt = error
        if interrupt is not None:
            raise interrupt

    def _do(self, command: Command) -> list[Command]:
        """Carry out one command; what the queue says to that."""
        if isinstance(command, Start):
            return self._start(command)
        if isinstance(command, Run):
            self._run(command.worker, command.task)
        elif isinstance(command, Refuse):
            for task in command.tasks:
                task.fail(GraphError(f"the function {task.name} cannot run: {command.reason}"))
        elif isinstance(command, Later):
            with self._lock:
                if self._closed is None:
                    self._timer = threading.Timer(RETRY_S, self._tell, (self._queue.retry,))
                    self._timer.name, self._timer.daemon = "dagc-retry", True
                    self._timer.start()
        else:
            with self._asking:
                if self._closed is None:
                    self._engine.kill(command.worker.handle)
        return []

    def _failed(self, command: Command, error: BaseException) -> list[Command]:
        """A command could not be carried out; what the queue says to that."""
        if isinstance(command, Run):
            command.task.fail(error)
        with self._lock:
            if self._closed is not None:
                return []
            if isinstance(command, Start):
                return self._queue.refused(command, error)
            return self._queue.ended(command.worker) if isinstance(command, Run) else []

    def _start(self, start: Start) -> list[Command]:
        with self._asking:
            if self._closed is not None:
                return []
            handle = self._engine.create_actor(FunctionWorker, (), {}, start.options)
            worker = _Worker(handle, self._line(handle))
            with self._lock:
                self._workers[handle._actor_id] = worker
            self._engine.watch([handle], partial(self._died, worker))
        with self._lock:
            if worker.death is not None:
                raise worker.death
            return [] if self._closed else self._queue.started(start, worker)

    def _run(self, worker: _Worker, task: _Task) -> None:
        self._say_last(worker)
        values = pack_values(task.refs)
        check_size(f"{task.name}: its arguments", [task.payload, *values])
        futures = [new_result() for _ in task.results]
        note = f"raised in the function {task.name}, in {worker.handle!r}"
        worker.line.send("call", task.payload, values, futures, note)
        futures[-1].add_done_callback(lambda _: self._ended(worker, task, futures))  # the line sets them in order

    def _ended(self, worker: _Worker, task: _Task, futures: list[Future[Any]]) -> None:
        """A task has come to its end, or its worker has."""

        def say() -> None:
            for result, future in zip(task.results, futures, strict=True):
                error = future.exception()
                if error is None:
                    settle(result, future.result())
                else:
                    settle(result, error=_died_of(task, error) if worker.died_in(future) else error)

        died = worker.died_in(futures[-1])
        with self._lock:
            commands = [] if self._closed else (self._queue.died if died else self._queue.ended)(worker)
            if End(worker) in commands:
                worker.last.append(say)
        if End(worker) not in commands:
            say()
        self._carry_out(commands)

    def _died(self, worker: _Worker, actor: ActorId, death: ActorDiedError) -> None:
        """The engine tells of a death."""
        with self._lock:
            worker.death = death
            self._workers.pop(actor, None)
            commands = [] if self._closed else self._queue.died(worker)
        self._say_last(worker)
        self._carry_out(commands)

    def _say_last(self, worker: _Worker) -> None:
        with self._lock:
            last, worker.last = worker.last, []
        for say in last:
            say()


def _died_of(task: _Task, error: BaseException | None) -> ActorDiedError:
    assert isinstance(error, ActorDiedError)
    named = ActorDiedError(error.actor, error.pid, f"{error.reason}; it had the function {task.name} to run")
    named.__cause__ = error.__cause__
    return named
