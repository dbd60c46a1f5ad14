"""The state of a session: its actors, their names, resources and deaths. Events in, commands out, no I/O.

    create ──> STARTING ── set_up, hello (in either order) ──> Construct ── built ──> ALIVE ── exited ──> DEAD
                   └── built(failure), exited, kill, owner_gone ─────────────────────────────────────────^

Events are methods and return commands; the head (head.py) carries them out and feeds back what happens. A link is one
process's connection with the head; only its identity matters here.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.errors import GraphError
from runtime.resources import TASK_CPUS

if TYPE_CHECKING:
    from runtime.engine import ActorOptions
    from runtime.ids import ActorId
    from runtime.resources import Resources

__all__ = ["Command", "Construct", "Death", "Described", "Died", "Kill", "SetUp", "Spawn", "State", "View"]

Link = Hashable


@dataclass(frozen=True)
class SetUp:
    """What an actor is constructed from."""

    payload: bytes
    values: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Death:
    """Why an actor is dead. `cause`: a packed Failure, or empty."""

    actor: ActorId
    label: str
    pid: int
    reason: str
    cause: bytes = b""


@dataclass(frozen=True)
class View:
    """What everybody may know of an actor."""

    actor: ActorId
    label: str
    pid: int
    gpus: tuple[int, ...]
    max_concurrency: int
    death: Death | None


@dataclass(frozen=True)
class Spawn:
    """Start a process for the actor, then report `hello` and, some day, `exited`."""

    actor: ActorId
    options: ActorOptions
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Construct:
    """Tell the actor's process what to construct."""

    link: Link
    label: str
    max_concurrency: int
    set_up: SetUp


@dataclass(frozen=True)
class Kill:
    """End the actor's process with SIGKILL."""

    actor: ActorId


@dataclass(frozen=True)
class Described:
    """Answer a `describe`."""

    link: Link
    question: int
    views: tuple[View, ...]


@dataclass(frozen=True)
class Died:
    """Answer a `watch`."""

    link: Link
    question: int
    death: Death


Command = Spawn | Construct | Kill | Described | Died


class _Phase(enum.Enum):
    STARTING = "starting"
    ALIVE = "alive"
    DEAD = "dead"


@dataclass
class _Actor:
    id: ActorId
    label: str
    options: ActorOptions
    gpus: tuple[int, ...]
    owner: Link
    phase: _Phase = _Phase.STARTING
    pid: int = 0
    #: Its own process's link, once it has said hello.
    link: Link | None = None
    set_up: SetUp | None = None
    #: What its death will be called, decided before its process is gone.
    doom: str | None = None
    cause: bytes = b""
    death: Death | None = None
    watchers: list[tuple[Link, int]] = field(default_factory=list)

    def view(self) -> View:
        return View(self.id, self.label, self.pid, self.gpus, self.options.max_concurrency, self.death)


class State:
    """All actors that a session has had. Dead ones are remembered: later calls ask why."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._actors: dict[ActorId, _Actor] = {}
        self._questions: list[tuple[Link, int, tuple[ActorId, ...]]] = []

    def create(self, actor: ActorId, class_name: str, options: ActorOptions, owner: Link) -> list[Command]:
        """Somebody wants an actor. Raises GraphError if its name is taken or its options cannot be met."""
        label = self.label(actor, class_name, options)
        if options.name is not None:
            for other in self._actors.values():
                if other.options.name == options.name and other.phase is not _Phase.DEAD:
                    raise GraphError(f"the name {options.name!r} is taken by actor {other.label}; choose another")
        gpus = self._resources.take(actor, label, options)
        self._actors[actor] = _Actor(actor, label, options, gpus, owner)
        return [Spawn(actor, options, gpus)]

    @staticmethod
    def label(actor: ActorId, class_name: str, options: ActorOptions) -> str:
        """`Class(id)` or `name(id)`, as in every error message."""
        return f"{options.name or class_name}({actor})"

    def set_up(self, actor: ActorId, set_up: SetUp) -> list[Command]:
        """The arguments of its constructor are known."""
        record = self._known(actor)
        record.set_up = set_up
        return self._construct(record)

    def argument_failed(self, actor: ActorId, cause: bytes) -> list[Command]:
        """An argument of its constructor failed: it will never be constructed."""
        return self._doom(self._known(actor), "an argument of its constructor failed", cause)

    def hello(self, actor: ActorId, pid: int, link: Link) -> list[Command]:
        """Its process is there. Unknown actors are refused with GraphError."""
        record = self._known(actor)
        record.pid, record.link = pid, link
        return self._construct(record)

    def spawned(self, actor: ActorId, pid: int) -> None:
        """Its process was started."""
        self._known(actor).pid = pid

    def built(self, actor: ActorId, failure: bytes) -> list[Command]:
        """Its constructor returned, or raised (`failure` is not empty)."""
        record = self._known(actor)
        if failure:
            return self._doom(record, "its constructor raised", failure)
        if record.phase is not _Phase.STARTING:
            return []
        record.phase = _Phase.ALIVE
        return self._answers()

    def kill(self, actor: ActorId) -> list[Command]:
        """Somebody called dagc.kill."""
        return self._doom(self._known(actor), "killed by dagc.kill")

    def exited(self, actor: ActorId, reason: str) -> list[Command]:
        """Its process is gone, or could not be started."""
        record = self._known(actor)
        if record.phase is _Phase.DEAD:
            return []
        record.phase = _Phase.DEAD
        record.death = death = Death(actor, record.label, record.pid, record.doom or reason, record.cause)
        record.set_up = None
        self._resources.give_back(actor)
        told = [Died(link, question, death) for link, question in record.watchers]
        record.watchers.clear()
        return [*told, *self._answers()]

    def link_gone(self, link: Link) -> list[Command]:
        """A process is gone: nobody waits for answers there, what it had not set up yet never will be, and the workers
        of its tasks have nothing to do."""
        self._questions = [question for question in self._questions if question[0] != link]
        commands: list[Command] = []
        for record in self._actors.values():
            record.watchers = [watcher for watcher in record.watchers if watcher[0] != link]
            if record.owner == link and record.phase is _Phase.STARTING and record.set_up is None:
                commands += self._doom(record, "the actor that creates it died before its arguments were known")
            elif record.owner == link and TASK_CPUS in record.options.resources:
                commands += self._doom(record, "the actor that submitted its tasks has died")
        return commands

    def describe(self, actors: Iterable[ActorId], link: Link, question: int) -> list[Command]:
        """Somebody asks where these are: answered once each has started or died."""
        asked = tuple(actors)
        for actor in asked:
            self._known(actor)
        self._questions.append((link, question, asked))
        return self._answers()

    def watch(self, actor: ActorId, link: Link, question: int) -> list[Command]:
        """Somebody wants to hear of a death."""
        record = self._known(actor)
        if record.death is not None:
            return [Died(link, question, record.death)]
        record.watchers.append((link, question))
        return []

    def _known(self, actor: ActorId) -> _Actor:
        record = self._actors.get(actor)
        if record is None:
            raise GraphError(f"actor {actor} is not of this session; a handle is good in the session that made it")
        return record

    def _construct(self, record: _Actor) -> list[Command]:
        if record.link is None or record.set_up is None or record.doom is not None or record.phase is _Phase.DEAD:
            return []
        return [Construct(record.link, record.label, record.options.max_concurrency, record.set_up)]

    def _doom(self, record: _Actor, reason: str, cause: bytes = b"") -> list[Command]:
        """It is dead once its process is; the first reason counts."""
        if record.phase is _Phase.DEAD or record.doom is not None:
            return []
        record.doom, record.cause = reason, cause
        return [Kill(record.id)]

    def _answers(self) -> list[Command]:
        commands: list[Command] = []
        unanswered = []
        for link, question, asked in self._questions:
            records = [self._actors[actor] for actor in asked]
            if any(record.phase is _Phase.STARTING for record in records):
                unanswered.append((link, question, asked))
            else:
                commands.append(Described(link, question, tuple(record.view() for record in records)))
        self._questions = unanswered
        return commands
