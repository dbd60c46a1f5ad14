"""The head of a session, in the process that called init: carries out what state.py decides.

    links (gRPC) ──event──> State ──command──> Spawner, links
    Spawner ─────event──────^

All of it runs on the control thread; the spawner's reports are posted there.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from runtime.embedded import control_pb2 as pb
from runtime.embedded import rpc
from runtime.embedded.environment import worker_environment
from runtime.embedded.spawner import Spawner
from runtime.embedded.state import Command, Construct, Death, Described, Died, Kill, SetUp, Spawn, State, View
from runtime.engine import ActorOptions
from runtime.errors import GraphError
from runtime.ids import ActorId
from runtime.resources import TASK_CPUS

if TYPE_CHECKING:
    import grpc.aio

    from runtime.embedded.control import ControlThread
    from runtime.embedded.folder import SessionFolder
    from runtime.resources import Resources

__all__ = ["Head"]

_GRACE_S = 0.5


class Head:
    """Serves the session in `folder`."""

    def __init__(self, folder: SessionFolder, control: ControlThread, resources: Resources) -> None:
        self._folder = folder
        self._control = control
        self._state = State(resources)
        self._spawner = Spawner(folder.path, self._spawned, self._exited)
        self._links: dict[int, rpc.Outbox] = {}
        self._numbers = itertools.count()
        self._server: grpc.aio.Server | None = None
        control.run(self._start())

    def end_actors(self) -> None:
        """SIGKILL every actor's process, and wait until they are gone. Not a polite end first: an actor that is in the
        middle of a method would not hear it, and shutdown would have to wait for the slowest."""
        self._spawner.close()

    def close(self) -> None:
        """Stop listening; the links are to be closed before, or gRPC logs each that it has to cut."""
        self._control.run(self._stop())

    async def _start(self) -> None:
        self._server = await rpc.serve(self._folder.head(), rpc.LINK, self._folder.token(), self._serve_link)

    async def _stop(self) -> None:
        assert self._server is not None
        # Without a grace gRPC cuts connections, and logs that. Nothing is under way any more, so it takes no time.
        await self._server.stop(grace=_GRACE_S)

    def _spawned(self, actor: ActorId, pid: int) -> None:
        self._control.soon(self._state.spawned, actor, pid)

    def _exited(self, actor: ActorId, reason: str) -> None:
        self._control.soon(lambda: self._carry_out(self._state.exited(actor, reason)))

    async def _serve_link(self, messages: AsyncIterator[pb.ToHead], write: rpc.Write) -> None:
        """One process of the session, for as long as it is there."""
        link = next(self._numbers)
        outbox = self._links[link] = rpc.Outbox()
        actor = ActorId("")
        try:
            async with outbox.written_by(write):
                async for message in messages:
                    if message.WhichOneof("body") == "hello":
                        actor = ActorId(message.hello.actor)
                    try:
                        self._carry_out(self._event(link, actor, message))
                    except GraphError as error:
                        outbox.put(pb.FromHead(id=message.id, refused=str(error)))
                        if message.create.resources.get(TASK_CPUS):
                            for other in self._links.values():
                                other.put(pb.FromHead(release=pb.Release()))
        finally:
            del self._links[link]
            self._carry_out(self._state.link_gone(link))

    def _event(self, link: int, actor: ActorId, message: pb.ToHead) -> list[Command]:
        """Tell the state. Questions that are answered at once are answered here."""
        kind = message.WhichOneof("body")
        body = getattr(message, kind)
        state = self._state
        if kind == "hello":
            return state.hello(actor, body.pid, link) if actor else []
        if kind == "built":
            return state.built(actor, body.failure)
        if kind == "set_up":
            if body.failure:
                return state.argument_failed(ActorId(body.actor), body.failure)
            return state.set_up(ActorId(body.actor), SetUp(body.payload, tuple(body.values)))
        if kind == "describe":
            return state.describe(map(ActorId, body.actors), link, message.id)
        if kind == "watch":
            return state.watch(ActorId(body.actor), link, message.id)
        if kind == "create":
            commands = state.create(ActorId(body.actor), body.class_name, _options(body), link)
        else:
            commands = state.kill(ActorId(body.actor))
        self._links[link].put(pb.FromHead(id=message.id, done=pb.Done()))
        return commands

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Spawn):
                self._spawner.spawn(command.actor, worker_environment(os.environ, command.options, command.gpus))
            elif isinstance(command, Kill):
                self._spawner.kill(command.actor)
            elif command.link in self._links:  # else it is gone, and its state with it
                self._links[command.link].put(_message(command))


def _message(command: Construct | Described | Died) -> pb.FromHead:
    if isinstance(command, Construct):
        set_up = command.set_up
        return pb.FromHead(
            construct=pb.Construct(
                label=command.label,
                max_concurrency=command.max_concurrency,
                payload=set_up.payload,
                values=set_up.values,
            )
        )
    if isinstance(command, Described):
        description = pb.Description(actors=[_actor(view) for view in command.views])
        return pb.FromHead(id=command.question, description=description)
    return pb.FromHead(id=command.question, death=_death(command.death))


def _actor(view: View) -> pb.Actor:
    return pb.Actor(
        actor=view.actor,
        label=view.label,
        pid=view.pid,
        gpus=view.gpus,
        max_concurrency=view.max_concurrency,
        death=None if view.death is None else _death(view.death),
    )


def _death(death: Death) -> pb.Death:
    return pb.Death(actor=death.actor, label=death.label, pid=death.pid, reason=death.reason, cause=death.cause)


def _options(create: pb.Create) -> ActorOptions:
    env_vars: Mapping[str, str] = dict(create.env_vars)
    return ActorOptions(
        name=create.name or None,
        num_cpus=create.num_cpus,
        num_gpus=create.num_gpus,
        resources=dict(create.resources),
        max_concurrency=create.max_concurrency,
        runtime_env={"env_vars": env_vars},
    )
