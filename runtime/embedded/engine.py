"""EmbeddedEngine: actors are processes of this machine, and nothing has to be started first.

Every process of a session has one: the process that called init has the head with it, an actor's process joins. So an
actor creates, calls and watches actors just as the driver does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from runtime.arguments import pack_arguments
from runtime.calls import ActorHandle, BoundCall, methods_of
from runtime.decorated import script_by_value, travelling
from runtime.embedded import control_pb2 as pb
from runtime.embedded.control import ControlThread, Delivery
from runtime.embedded.environment import node_id, visible_gpus
from runtime.embedded.folder import SessionFolder
from runtime.embedded.head import Head
from runtime.embedded.link import HeadLink
from runtime.embedded.peers import Peers, died
from runtime.engine import ActorInfo, ActorOptions, Loop, LoopFunction
from runtime.errors import ActorDiedError, EngineError, GraphError, not_started
from runtime.ids import ActorId, NodeId, new_actor_id
from runtime.line import when_ready
from runtime.messages import check_size
from runtime.outcomes import pack_failure
from runtime.resources import Resources
from runtime.tasks import TaskPool
from runtime.watches import DeathWatch

if TYPE_CHECKING:
    from runtime.refs import ObjectRef

__all__ = ["EmbeddedEngine"]


#: The process that has used gRPC, of which a fork lacks the threads: gRPC aborts there.
_used_in: int | None = None


class EmbeddedEngine:
    """See runtime.engine.Engine for the contract."""

    transport = "shm"

    def __init__(self, folder: SessionFolder, control: ControlThread, link: HeadLink, head: Head | None = None) -> None:
        """`head`: in the process whose `shutdown` ends the session; None in an actor's process."""
        global _used_in
        _used_in = os.getpid()
        self._folder = folder
        self._control = control
        self._link = link
        self._head = head
        self._delivery = Delivery()
        self._peers = Peers(folder, control, self._delivery, link)
        self._tasks = TaskPool(self, self._peers.line)
        link.on_release = lambda: self._delivery.put(self._tasks.release)
        self._pid = os.getpid()
        self._closed = False
        self._closing = threading.RLock()  # for a signal handler that shuts down, too

    @classmethod
    def start(
        cls,
        num_cpus: float | None = None,
        num_gpus: int | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> EmbeddedEngine:
        """Start a session of this process's own."""
        if _used_in not in (None, os.getpid()):
            raise EngineError("this process was forked from one that has had an engine; start it with spawn instead")
        script_by_value()
        folder = SessionFolder.create()
        control = ControlThread()
        offer = Resources(
            float(os.cpu_count() or 1) if num_cpus is None else num_cpus,
            visible_gpus(os.environ, num_gpus),
            dict(resources or {}),
        )
        head = Head(folder, control, offer)
        link = control.run(_join(folder, pb.Hello(pid=os.getpid())))
        return cls(folder, control, link, head)

    def create_actor(
        self, cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: ActorOptions
    ) -> ActorHandle:
        self._check()
        actor = new_actor_id()
        payload, refs = pack_arguments(f"{cls.__name__}(...)", args, kwargs, callee=(travelling(cls),))
        check_size(f"{cls.__name__}: its constructor's arguments", [payload])
        create = pb.Create(
            actor=actor,
            class_name=cls.__name__,
            name=options.name or "",
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            resources=options.resources,
            max_concurrency=options.max_concurrency,
            env_vars=options.runtime_env.get("env_vars", {}),
        )
        try:
            self._control.run(self._link.ask(create=create))
        except GraphError:
            raise
        except BaseException:  # Ctrl-C: the head may have it already, and would keep its name and its resources
            with contextlib.suppress(EngineError):  # a signal handler has shut down, and raised this
                self._control.start(self._link.ask(kill=pb.Kill(actor=actor)))
            raise

        def arguments_ready(values: tuple[bytes, ...], error: BaseException | None) -> None:
            try:
                check_size(f"{cls.__name__}: its constructor's arguments", [payload, *values])
            except ValueError as too_large:
                error = too_large
            if error is None:
                set_up = pb.SetUp(actor=actor, payload=payload, values=values)
            else:
                set_up = pb.SetUp(actor=actor, failure=pack_failure(error, skip=0))
            self._control.soon(self._link.tell, pb.ToHead(set_up=set_up))

        when_ready(refs, arguments_ready)
        named = options.name is not None
        return ActorHandle(actor, options.name or cls.__name__, methods_of(cls), self._folder.path, named)

    def describe(self, handles: Sequence[ActorHandle], timeout: float | None = None) -> list[ActorInfo]:
        self._check(*handles)
        actors = self._control.run(_describe(self._link, handles, timeout))
        node = node_id()
        return [
            ActorInfo(
                actor_id=ActorId(actor.actor),
                label=actor.label,
                node=node,
                pid=actor.pid,
                gpus=tuple(actor.gpus),
                max_concurrency=actor.max_concurrency,
                death=died(actor.death) if actor.HasField("death") else None,
            )
            for actor in actors
        ]

    def submit(self, call: BoundCall) -> ObjectRef | list[ObjectRef]:
        if call.handle is None:
            self._check()
            return self._tasks.submit(call)
        self._check(call.handle)
        refs = self._peers.line(call.handle).submit(call)
        return refs[0] if call.method.num_returns == 1 else refs

    def call(self, handle: ActorHandle, function: Callable[..., Any], *args: Any) -> Future[Any]:
        self._check(handle)
        return self._peers.line(handle).call(function, args)

    def start_loop(self, handle: ActorHandle, function: LoopFunction, *args: Any) -> Loop:
        self._check(handle)
        return self._peers.line(handle).loop(function, args)

    def watch(self, handles: Sequence[ActorHandle], on_death: Callable[[ActorId, ActorDiedError], None]) -> DeathWatch:
        self._check(*handles)
        watch = DeathWatch(on_death)
        for handle in handles:
            self._subscribe(handle._actor_id, watch)
        return watch

    def kill(self, handle: ActorHandle) -> None:
        self._check(handle)
        question = self._link.ask(kill=pb.Kill(actor=handle._actor_id))
        if self._control.is_here():  # a __del__, which gc calls wherever it runs
            self._control.start(question)
        else:
            self._control.run(question)

    def here(self) -> NodeId:
        return node_id()

    def shutdown(self) -> None:
        if self._head is None:
            raise EngineError("an actor cannot end its session; call dagc.shutdown() in the process that called init")
        with self._closing:
            # A process forked from this one has a copy of the engine, but not its threads: it must not end our actors.
            if self._closed or os.getpid() != self._pid:
                return
            self._closed = True
        self._tasks.close("the engine was shut down before the result came")
        self._head.end_actors()
        self._control.run(self._link.close())
        self._head.close()
        self._control.close()
        self._peers.close()
        self._delivery.close()
        self._folder.remove()

    def __repr__(self) -> str:
        return f"EmbeddedEngine({self._folder.path})"

    def _subscribe(self, actor: ActorId, watch: DeathWatch) -> None:
        def told(death: asyncio.Future[pb.Death]) -> None:
            if not death.cancelled() and death.exception() is None:  # else the session has ended
                message = death.result()
                self._delivery.put(lambda: watch.tell(actor, died(message)))

        def unsubscribe() -> None:
            if not self._closed:
                with contextlib.suppress(RuntimeError):  # the control thread has ended since the line above
                    self._control.soon(lambda: self._link.death(actor).remove_done_callback(told))

        watch.on_cancel(unsubscribe)
        self._control.soon(lambda: self._link.death(actor).add_done_callback(told))

    def _check(self, *handles: ActorHandle) -> None:
        if self._closed:
            raise EngineError("the engine was shut down; call dagc.init() to start another")
        if os.getpid() != self._pid:
            raise EngineError("this process was forked from one that has an engine; start it with spawn instead")
        for handle in handles:
            if handle._address != self._folder.path:
                raise GraphError(f"{handle!r} is of another session; a handle is good in the session that made it")


async def _describe(link: HeadLink, handles: Sequence[ActorHandle], timeout: float | None) -> list[pb.Actor]:
    if timeout is None:
        description = await link.ask(describe=pb.Describe(actors=[handle._actor_id for handle in handles]))
        return list(description.actors)
    # One question an actor: it has to be known whose answer is missing.
    asked = [asyncio.ensure_future(link.ask(describe=pb.Describe(actors=[handle._actor_id]))) for handle in handles]
    late = (await asyncio.wait(asked, timeout=timeout))[1] if asked else set()
    for question in late:
        question.cancel()
    if late:
        await asyncio.gather(*asked, return_exceptions=True)
        raise not_started([repr(h) for h, question in zip(handles, asked, strict=True) if question in late], timeout)
    return [description.actors[0] for description in await asyncio.gather(*asked)]


async def _join(folder: SessionFolder, hello: pb.Hello) -> HeadLink:
    return HeadLink(folder, hello)
