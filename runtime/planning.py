"""PlanningEngine: actors that are never started, so that plans can be made and looked at on any machine.

A graph of 64 stages with 8 ranks each compiles to its plan here as it would where there is room for it: every actor has
a process of its own, made up, on the node "here", and the GPUs that it asks for. Nothing can be called.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from runtime.arguments import pack_arguments
from runtime.calls import ActorHandle, BoundCall, methods_of
from runtime.decorated import travelling
from runtime.engine import ActorInfo, ActorOptions, Loop, LoopFunction
from runtime.errors import ActorDiedError, EngineError, GraphError
from runtime.ids import ActorId, NodeId, new_actor_id
from runtime.resources import Resources
from runtime.watches import DeathWatch

if TYPE_CHECKING:
    from runtime.refs import ObjectRef

__all__ = ["PlanningEngine"]

_HERE = NodeId("here")
_FIRST_PID = 100


@dataclass
class _Actor:
    id: ActorId
    label: str
    options: ActorOptions
    pid: int
    gpus: tuple[int, ...]
    death: str | None = None
    watches: list[DeathWatch] = field(default_factory=list)

    def died(self) -> ActorDiedError:
        return ActorDiedError(self.label, self.pid, self.death or "")


class PlanningEngine:
    """See runtime.engine.Engine for the contract, of which it keeps what does not need a running actor."""

    transport = "shm"

    def __init__(self, resources: Resources, *, endless: Collection[str] = ()) -> None:
        """`endless`: "gpus", "custom": there are always as many as are asked for."""
        self._resources = resources
        self._endless = endless
        self._lock = threading.Lock()
        self._actors: dict[ActorId, _Actor] = {}
        self._next_pid = _FIRST_PID
        self._closed = False

    @classmethod
    def start(
        cls,
        num_cpus: float | None = None,
        num_gpus: int | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> PlanningEngine:
        """Of what is said there is as much as is said; of everything else there is no end."""
        cpus = math.inf if num_cpus is None else num_cpus
        offer = Resources(cpus, tuple(range(num_gpus or 0)), dict(resources or {}))
        said = {"gpus": num_gpus, "custom": resources}
        return cls(offer, endless=[kind for kind, amount in said.items() if amount is None])

    def create_actor(
        self, cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> ActorHandle:
        """A handle of an actor that is never started: the constructor is not called."""
        self._check()
        actor = new_actor_id()
        pack_arguments(f"{cls.__name__}(...)", args, kwargs, callee=(travelling(cls),))
        label = f"{options.name or cls.__name__}({actor})"
        with self._lock:
            for other in self._actors.values():
                if options.name is not None and other.options.name == options.name and other.death is None:
                    raise GraphError(f"the name {options.name!r} is taken by actor {other.label}; choose another")
            self._actors[actor] = _Actor(actor, label, options, self._new_pid(), self._take(actor, label, options))
        return ActorHandle(actor, options.name or cls.__name__, methods_of(cls), id(self), options.name is not None)

    def describe(self, handles: Sequence[ActorHandle], timeout: float | None = None) -> list[ActorInfo]:  # noqa: ARG002
        actors = [self._actor(handle) for handle in handles]
        return [
            ActorInfo(
                actor_id=actor.id,
                label=actor.label,
                node=_HERE,
                pid=actor.pid,
                gpus=actor.gpus,
                max_concurrency=actor.options.max_concurrency,
                death=None if actor.death is None else actor.died(),
            )
            for actor in actors
        ]

    def submit(self, call: BoundCall) -> ObjectRef | list[ObjectRef]:
        name = call.method.name if call.handle is None else f"{call.handle._label}.{call.method.name}"
        raise self._only_plans(name)

    def call(self, handle: ActorHandle, function: Callable[..., Any], *_: Any) -> Future[Any]:
        raise self._only_plans(f"{getattr(function, '__qualname__', function)} beside {handle!r}")

    def start_loop(self, handle: ActorHandle, function: LoopFunction, *_: Any) -> Loop:  # noqa: ARG002
        raise self._only_plans(f"a compiled graph on {handle!r}", "; for its plan write dagc.plan(dag) instead")

    def watch(self, handles: Sequence[ActorHandle], on_death: Callable[[ActorId, ActorDiedError], None]) -> DeathWatch:
        actors = [self._actor(handle) for handle in handles]
        watch = DeathWatch(on_death)
        with self._lock:
            dead = [actor for actor in actors if actor.death is not None]
            for actor in actors:
                actor.watches.append(watch)
                watch.on_cancel(partial(actor.watches.remove, watch))
        if dead:
            # Not in this thread, which may hold what the callback wants.
            threading.Thread(target=_tell, args=(dead, [watch]), name="dagc-watch", daemon=True).start()
        return watch

    def kill(self, handle: ActorHandle) -> None:
        actor = self._actor(handle)
        with self._lock:
            if actor.death is not None:
                return
            actor.death = "killed by dagc.kill"
            self._resources.give_back(actor.id)
            watches = list(actor.watches)
        _tell([actor], watches)

    def here(self) -> NodeId:
        return _HERE

    def shutdown(self) -> None:
        self._closed = True

    def __repr__(self) -> str:
        return f"PlanningEngine({len(self._actors)} actors)"

    def _take(self, actor: ActorId, label: str, options: ActorOptions) -> tuple[int, ...]:
        if "custom" in self._endless:
            options = replace(options, resources={})
        if "gpus" in self._endless and not self._resources.has_gpus(options.num_gpus):
            # Whole GPUs are given alone, so this many new ones are enough; a share looks for one with room first.
            known = len(self._resources.gpus)
            self._resources.gpus = tuple(range(known + math.ceil(options.num_gpus)))
        return self._resources.take(actor, label, options)

    def _new_pid(self) -> int:
        if self._next_pid == os.getpid():  # two parties with one pid would share their memory
            self._next_pid += 1
        self._next_pid += 1
        return self._next_pid - 1

    def _only_plans(self, what: str, instead: str = "") -> EngineError:
        self._check()
        return EngineError(
            f"cannot run {what}: this session only plans, as dagc.init(engine='plan') says{instead}; to run, call "
            "dagc.shutdown(), then dagc.init(), and make the actors anew"
        )

    def _check(self) -> None:
        if self._closed:
            raise EngineError("the engine was shut down; call dagc.init() to start another")

    def _actor(self, handle: ActorHandle) -> _Actor:
        self._check()
        if handle._address != id(self):
            raise GraphError(f"{handle!r} is of another session; a handle is good in the session that made it")
        return self._actors[handle._actor_id]


def _tell(dead: list[_Actor], watches: list[DeathWatch]) -> None:
    for actor in dead:
        for watch in watches:
            watch.tell(actor.id, actor.died())
