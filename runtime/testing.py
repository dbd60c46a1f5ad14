"""For tests, ours and yours: ThreadEngine, whose actors are threads of this process, and check_engine, which says what
an engine must do. No pytest is needed for either.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from runtime.arguments import pack_arguments
from runtime.calls import ActorHandle, BoundCall, methods_of
from runtime.conformance import check_engine
from runtime.current import inside
from runtime.deaths import death_error
from runtime.decorated import travelling
from runtime.engine import ActorInfo, ActorOptions, Loop, LoopFunction
from runtime.errors import ActorDiedError, EngineError, GraphError, not_started
from runtime.host import ActorHost
from runtime.ids import ActorId, NodeId, new_actor_id
from runtime.line import Line, when_ready
from runtime.outcomes import pack_failure
from runtime.resources import TASK_CPUS, Resources
from runtime.tasks import TaskPool
from runtime.watches import DeathWatch

if TYPE_CHECKING:
    from runtime.messages import Request
    from runtime.refs import ObjectRef

__all__ = ["ThreadEngine", "check_engine"]


class _ThreadActor:
    """An actor and its thread. `death` makes its error once it is dead."""

    def __init__(self, actor: ActorId, label: str, options: ActorOptions, gpus: tuple[int, ...]) -> None:
        self.id = actor
        self.label = label
        self.options = options
        self.gpus = gpus
        self.host = ActorHost(
            actor,
            label,
            options.max_concurrency,
            on_exit=lambda code: self.die(f"exited with code {code}{self._executing()}"),
            on_running=self._set_running,
        )
        self.line = Line(label, self._transmit)
        #: Set once it lives or is dead.
        self.started = threading.Event()
        self.death: Callable[[], ActorDiedError] | None = None
        self._running = ""
        self._lock = threading.RLock()
        self._watches: list[DeathWatch] = []
        self._on_death: list[Callable[[], None]] = []

    def start(self, payload: bytes, values: tuple[bytes, ...]) -> None:
        """Construct the instance and run its methods, in a thread of its own."""
        threading.Thread(target=self._main, args=(payload, values), name=f"dagc-{self.label}", daemon=True).start()

    def die(self, reason: str, cause: bytes = b"") -> None:
        """Nobody hears of it any more. A thread cannot be killed: what it is executing goes on to its end."""

        death = partial(death_error, self.label, os.getpid(), reason, cause)
        with self._lock:
            if self.death is not None:
                return
            self.death = death
            watches, actions = list(self._watches), list(self._on_death)
        self.started.set()
        self.host.stop()
        for act in actions:
            act()
        self.line.die(death)
        for watch in watches:
            watch.tell(self.id, death())

    def watch(self, watch: DeathWatch) -> None:
        """Tell of the death, now if it is dead."""
        with self._lock:
            if self.death is None:
                self._watches.append(watch)
                watch.on_cancel(lambda: self._forget(watch))
                return
        threading.Thread(target=watch.tell, args=(self.id, self.death()), name="dagc-watch", daemon=True).start()

    def _forget(self, watch: DeathWatch) -> None:
        with self._lock:
            if watch in self._watches:
                self._watches.remove(watch)

    def on_death(self, action: Callable[[], None]) -> None:
        """`action` is called once, when it dies; it is new, so it lives."""
        self._on_death.append(action)

    def _transmit(self, request: Request) -> None:
        self.host.receive(request, self.line.receive)

    def _main(self, payload: bytes, values: tuple[bytes, ...]) -> None:
        failure = self.host.construct(payload, values)
        if failure is not None:
            self.die("its constructor raised", failure)
            return
        self.started.set()
        self.host.run()

    def _set_running(self, what: str) -> None:
        self._running = what

    def _executing(self) -> str:
        return f" while executing {self._running}" if self._running else ""


class ThreadEngine:
    """See runtime.engine.Engine for the contract. Arguments and results are packed and unpacked as between processes,
    so actors share no writable memory; the environment variables of `runtime_env` are not set."""

    transport = "local"

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._lock = threading.RLock()
        self._actors: dict[ActorId, _ThreadActor] = {}
        #: Of this process, and of each actor that has submitted tasks: as if it were a process.
        self._pools: dict[ActorId | None, TaskPool] = {}
        self._closed = False

    @classmethod
    def start(
        cls,
        num_cpus: float | None = None,
        num_gpus: int | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> ThreadEngine:
        """An engine of this process."""
        cpus = float(os.cpu_count() or 1) if num_cpus is None else num_cpus
        return cls(Resources(cpus, tuple(range(num_gpus or 0)), dict(resources or {})))

    def create_actor(
        self, cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> ActorHandle:
        self._check()
        actor_id = new_actor_id()
        payload, refs = pack_arguments(f"{cls.__name__}(...)", args, kwargs, callee=(travelling(cls),))
        label = f"{options.name or cls.__name__}({actor_id})"
        with self._lock:
            for other in self._actors.values():
                if options.name is not None and other.options.name == options.name and other.death is None:
                    raise GraphError(f"the name {options.name!r} is taken by actor {other.label}; choose another")
            try:
                gpus = self._resources.take(actor_id, label, options)
            except GraphError:
                if options.resources.get(TASK_CPUS):
                    # In a thread: the pool that asks waits for this answer, and others may be asking, too.
                    threading.Thread(target=self._release, name="dagc-release", daemon=True).start()
                raise
            actor = self._actors[actor_id] = _ThreadActor(actor_id, label, options, gpus)
        actor.on_death(lambda: self._end_belongings(actor_id))

        def arguments_ready(values: tuple[bytes, ...], error: BaseException | None) -> None:
            if error is None:
                actor.start(payload, values)
            else:
                actor.die("an argument of its constructor failed", pack_failure(error, skip=0))

        when_ready(refs, arguments_ready)
        named = options.name is not None
        return ActorHandle(actor_id, options.name or cls.__name__, methods_of(cls), id(self), named)

    def describe(self, handles: Sequence[ActorHandle], timeout: float | None = None) -> list[ActorInfo]:
        actors = [self._actor(handle) for handle in handles]
        deadline = None if timeout is None else time.monotonic() + timeout
        for actor in actors:
            actor.started.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        late = [actor.label for actor in actors if not actor.started.is_set()]
        if late:
            raise not_started(late, timeout)
        return [
            ActorInfo(
                actor_id=actor.id,
                label=actor.label,
                node=self.here(),
                pid=os.getpid(),
                gpus=actor.gpus,
                max_concurrency=actor.options.max_concurrency,
                death=actor.death() if actor.death is not None else None,
            )
            for actor in actors
        ]

    def submit(self, call: BoundCall) -> ObjectRef | list[ObjectRef]:
        if call.handle is None:
            return self._pool().submit(call)
        refs = self._actor(call.handle).line.submit(call)
        return refs[0] if call.method.num_returns == 1 else refs

    def call(self, handle: ActorHandle, function: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._actor(handle).line.call(function, args)

    def start_loop(self, handle: ActorHandle, function: LoopFunction, *args: Any) -> Loop:
        return self._actor(handle).line.loop(function, args)

    def watch(self, handles: Sequence[ActorHandle], on_death: Callable[[ActorId, ActorDiedError], None]) -> DeathWatch:
        actors = [self._actor(handle) for handle in handles]
        watch = DeathWatch(on_death)
        for actor in actors:
            actor.watch(watch)
        return watch

    def kill(self, handle: ActorHandle) -> None:
        self._actor(handle).die("killed by dagc.kill")

    def here(self) -> NodeId:
        return NodeId(f"process-{os.getpid()}")

    def shutdown(self) -> None:
        with self._lock:
            self._closed = True
            actors, pools = list(self._actors.values()), list(self._pools.values())
        for pool in pools:
            pool.close("the engine was shut down before the result came")
        for actor in actors:
            actor.die("the engine was shut down")

    def __repr__(self) -> str:
        return f"ThreadEngine({len(self._actors)} actors)"

    def _pool(self) -> TaskPool:
        """The pool of whoever runs in this thread."""
        owner = inside.get()
        with self._lock:
            self._check()
            # What goes on after its actor's death belongs to nobody.
            known = owner if owner in self._actors and self._actors[owner].death is None else None
            if known not in self._pools:
                self._pools[known] = TaskPool(self, lambda handle: self._actor(handle).line)
            return self._pools[known]

    def _release(self) -> None:
        with self._lock:
            pools = [] if self._closed else list(self._pools.values())
        for pool in pools:
            pool.release()

    def _end_belongings(self, actor: ActorId) -> None:
        """An actor is dead: what it had is free, and the workers of its tasks end with it."""
        with self._lock:
            self._resources.give_back(actor)
            pool = self._pools.pop(actor, None)
        if pool is not None:
            for worker in pool.close("the actor that submitted the task has died"):
                self._actors[worker._actor_id].die("the actor that submitted its tasks has died")

    def _check(self) -> None:
        if self._closed:
            raise EngineError("the engine was shut down; call dagc.init() to start another")

    def _actor(self, handle: ActorHandle) -> _ThreadActor:
        self._check()
        if handle._address != id(self):
            raise GraphError(f"{handle!r} is of another session; a handle is good in the session that made it")
        return self._actors[handle._actor_id]
