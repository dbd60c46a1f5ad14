"""The contract between dagc and whatever starts its actors: about ten calls.

Every implementation passes `runtime.testing.check_engine`. The rules it checks:

1. `create_actor` returns a handle at once; the actor starts meanwhile. A constructor that raises is an
   ActorDiedError for everybody who waits for the actor, with the constructor's exception as its cause.
2. Calls of one caller to one actor run in the order of `submit`, one at a time unless `max_concurrency` says more.
3. A result is got as often as you like. An exception of the user's method is raised by `get` with its own type, the
   remote traceback as its `__cause__` and a note that names actor and method; the actor lives on.
4. A value that a method or a caller keeps never changes under it, and never shares writable memory with another
   actor or the caller, also where actors are threads.
5. `call` and `start_loop` do not queue behind the actor's methods, so that a busy actor can still be asked.
6. A death reaches whoever waits for the actor, as ActorDiedError with the actor's label, pid and the reason, within
   a second; later calls get the same error.
7. A function runs in some worker, as a method of it would: 3, 4 and 6 hold for it, too, and errors name it. Functions
   that wait for functions which they submit always come to an end.
8. `shutdown` ends everything that the engine started, and may be called twice. The death of the process that
   started the engine ends it too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from runtime.calls import ActorHandle, BoundCall
    from runtime.errors import ActorDiedError
    from runtime.ids import ActorId, NodeId
    from runtime.refs import ObjectRef

__all__ = ["ActorContext", "ActorInfo", "ActorOptions", "Engine", "Loop", "LoopFunction", "Watch"]


@dataclass(frozen=True)
class ActorOptions:
    """What `@remote(...)` and `.options(...)` may say of an actor."""

    #: Shown in place of the class name; unique among the living actors of a session.
    name: str | None = None
    num_cpus: float = 1
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    #: How many of its methods may run at the same time.
    max_concurrency: int = 1
    #: {"env_vars": {name: value}}, set in the actor's process before anything is imported there.
    runtime_env: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ActorInfo:
    """Where an actor is and how it is, at one moment."""

    actor_id: ActorId
    #: `Class(id)` or `name(id)`, as in every error message.
    label: str
    node: NodeId
    #: Of its process. Two actors with one pid share their memory.
    pid: int
    #: Indices of its GPUs, as CUDA_VISIBLE_DEVICES shows them to it.
    gpus: tuple[int, ...] = ()
    max_concurrency: int = 1
    #: Why it is dead, or None while it lives.
    death: ActorDiedError | None = None


@dataclass(frozen=True)
class ActorContext:
    """What a function that runs beside an actor's instance gets of it."""

    instance: Any
    actor_id: ActorId
    label: str
    #: Held around every call of a method of the instance, so that methods never run concurrently; with
    #: max_concurrency > 1 a semaphore of that many places.
    turn: threading.Lock | threading.BoundedSemaphore
    #: Run a coroutine on the actor's event loop, where its async methods run, and wait for the result.
    run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any]
    #: A method raised SystemExit: end the actor as its process would end.
    exit: Callable[[SystemExit], None]


#: A generator function: what it does before its first yield is set-up, what it yields is the answer to
#: `start_loop`, what it does afterwards is the loop, what it returns is the answer of `Loop.done`.
LoopFunction = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Loop:
    """A function that runs in a thread of its own beside an actor's instance."""

    #: What the function yielded when it was set up; or what it raised before that.
    ready: Future[Any]
    #: What it returned in the end; or what it raised; ActorDiedError if the actor died.
    done: Future[Any]


class Watch(Protocol):
    """A subscription to deaths; `cancel` ends it, and returns once no callback is running or will run."""

    def cancel(self) -> None: ...


class Engine(Protocol):
    """What dagc needs of a cluster. Every method may be called from any thread."""

    #: Which transports reach from one of its actors to another on the same node: "shm" or "local".
    transport: str

    def create_actor(
        self, cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> ActorHandle:
        """Start an actor. Raises GraphError if the name is taken or the options cannot be met here."""

    def describe(self, handles: Sequence[ActorHandle], timeout: float | None = None) -> list[ActorInfo]:
        """Where these actors are, in one question; waits until each has started or died.

        `timeout`: seconds for all of them together; then GetTimeoutError, which names those that have done neither.
        """

    def submit(self, call: BoundCall) -> ObjectRef | list[ObjectRef]:
        """Call a method, or without a handle a function; a list of refs if it returns several values.

        ObjectRefs among the arguments become values.
        """

    def call(self, handle: ActorHandle, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run `function(context: ActorContext, *args)` beside the instance, ahead of its queue of methods."""

    def start_loop(self, handle: ActorHandle, function: LoopFunction, *args: Any) -> Loop:
        """Run the generator function `function(context: ActorContext, *args)` in a thread of its own; see Loop."""

    def watch(self, handles: Sequence[ActorHandle], on_death: Callable[[ActorId, ActorDiedError], None]) -> Watch:
        """Call `on_death`, from a thread of the engine, once for each of these actors that dies or is dead already."""

    def kill(self, handle: ActorHandle) -> None:
        """End the actor at once, without a chance to clean up. Killing a dead actor does nothing."""

    def here(self) -> NodeId:
        """The node that this process is on."""

    def shutdown(self) -> None:
        """End everything that this engine started."""
