"""TaskQueue: which worker runs which task, and when workers start and end. Events in, commands out, no I/O.

    add ────> waiting ── an idle worker with its options ───────────────────────> Run ── ended ──> idle
                 └────── none, and room for another ──> Start ── started ──> idle
                                                         └────── refused ──> waiting, or Refuse

A task is added when the values of all its arguments are there, and it waits here, not in a worker's own queue, for
three reasons: it takes the first worker that is free, not the one that looked best when it came; a worker that dies
takes one task with it; and no worker ever waits for an argument.

How many workers: a pool's first for each set of options is free. Every other one asks the session for its num_cpus of
TASK_CPUS, which all pools of the session share: a task may submit tasks, its process has a pool of its own, and without
a common bound the processes would be as many as a tree has leaves. When a pool is refused one, all pools are told to
`release` those that are idle, and it tries again after RETRY_S. The sets of options are bounded too: with `limit`
workers in the pool, a new set waits until an idle one of another set has ended.

A worker that holds GPUs or custom resources is ended when no task of its kind waits: an actor may want them.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.engine import ActorOptions
from runtime.resources import TASK_CPUS

__all__ = ["RETRY_S", "Command", "End", "Later", "Refuse", "Run", "Start", "TaskQueue"]

#: The caller's own, only hashed and compared here.
Task = Any
Worker = Any

#: After a refusal, how long a pool goes on with the workers it has. A process takes as long to start.
RETRY_S = 0.2
#: A worker of a function that needs no CPU is a process all the same.
_LEAST_CPUS = 0.25


@dataclass(eq=False)
class _Group:
    """Tasks with the same options, and their workers, without those that are ending."""

    options: ActorOptions
    #: With their numbers, which say who came first.
    waiting: deque[tuple[int, Task]] = field(default_factory=deque)
    idle: deque[Worker] = field(default_factory=deque)
    workers: set[Worker] = field(default_factory=set)
    #: One at a time: whether there is room for another is known when this one is there.
    starting: bool = False
    #: It was refused a worker, and has not asked again.
    refused: bool = False

    @property
    def counted(self) -> bool:
        """Whether its workers hold what others cannot have meanwhile."""
        return self.options.num_gpus > 0 or any(self.options.resources.values())


@dataclass(frozen=True)
class Start:
    """Start a worker with these options, then report `started` or `refused`."""

    options: ActorOptions
    group: _Group = field(repr=False, compare=False)
    #: How many workers had died until then.
    deaths: int = field(repr=False, compare=False)


@dataclass(frozen=True)
class Run:
    """Let this idle worker run this task, then report `ended`; or `died`."""

    worker: Worker
    task: Task


@dataclass(frozen=True)
class End:
    """End this idle worker, which then reports `died`."""

    worker: Worker


@dataclass(frozen=True)
class Refuse:
    """These tasks cannot be run: what they ask for was refused, and nothing that this pool could end has it."""

    tasks: tuple[Task, ...]
    reason: BaseException


@dataclass(frozen=True)
class Later:
    """Report `retry` after RETRY_S."""


Command = Run | Start | End | Refuse | Later


class TaskQueue:
    """The tasks and workers of one pool. Every event returns commands, to be carried out in any order.

    One thread at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers = itertools.count()
        self._groups: dict[Hashable, _Group] = {}
        #: All that live, also those that are ending.
        self._workers: dict[Worker, _Group] = {}
        #: Of these: those that have a part of TASK_CPUS, and those that are ending.
        self._sharing: set[Worker] = set()
        self._ending: set[Worker] = set()
        self._deaths = 0
        #: Somebody will report `retry`.
        self._later = False

    def add(self, task: Task, options: ActorOptions) -> list[Command]:
        """The values of all its arguments are there."""
        group = self._groups.setdefault(_key(options), _Group(options))
        group.waiting.append((next(self._numbers), task))
        return self._commands()

    def started(self, start: Start, worker: Worker) -> list[Command]:
        """A worker can take tasks."""
        group = start.group
        group.starting = False
        group.workers.add(worker)
        self._workers[worker] = group
        if start.options.resources[TASK_CPUS]:
            self._sharing.add(worker)
        if not group.waiting:
            group.idle.append(worker)
            return self._commands()
        # At once, whoever else waits: no worker is started and ended for nothing.
        return [self._run(group, worker), *self._commands()]

    def refused(self, start: Start, reason: BaseException) -> list[Command]:
        """A worker cannot be had now."""
        group = start.group
        group.starting = False
        alone = bool(start.options.resources[TASK_CPUS]) and not group.workers
        if self._deaths > start.deaths or alone:  # something came back meanwhile, or it would be free now
            return self._commands()
        if group.workers or any(other.counted for other in self._workers.values()):
            group.refused = True
            later = [] if self._later else [Later()]
            self._later = True
            commands = self._commands()
            return [*later, *commands, *(self._end_sharing() if group.waiting else ())]
        tasks = tuple(task for _, task in group.waiting)
        group.waiting.clear()
        self._forget(group)
        return [Refuse(tasks, reason), *self._commands()]

    def ended(self, worker: Worker) -> list[Command]:
        """A worker has run its task."""
        group = self._workers.get(worker)
        if group is not None and worker not in group.idle:  # else it has died meanwhile, or is told of twice
            group.idle.append(worker)
        return self._commands()

    def died(self, worker: Worker) -> list[Command]:
        """A worker is gone. Telling it twice is allowed."""
        group = self._workers.pop(worker, None)
        if group is None:
            return []
        group.workers.discard(worker)
        if worker in group.idle:
            group.idle.remove(worker)
        self._sharing.discard(worker)
        self._ending.discard(worker)
        self._deaths += 1
        self._forget(group)
        return self._ask_again()

    def retry(self) -> list[Command]:
        """It is time to ask again for what was refused."""
        self._later = False
        return self._ask_again()

    def release(self) -> list[Command]:
        """Some pool of the session was refused a worker: give up those that are idle and have a part of TASK_CPUS."""
        # It may have been this pool, which has done so, or one that wants as much as this one.
        wanting = any(group.starting or group.refused for group in self._groups.values())
        return [] if wanting else self._end_sharing()

    def waiting(self) -> list[Task]:
        """The tasks that wait, in the order in which they came."""
        tasks = sorted(item for group in self._groups.values() for item in group.waiting)
        return [task for _, task in tasks]

    def _commands(self) -> list[Command]:
        return list(iter(self._next, None))

    def _next(self) -> Command | None:
        for group in sorted(self._wanting(), key=lambda group: group.waiting[0][0]):
            if group.idle:
                return self._run(group, group.idle.pop())
            if group.starting or group.refused:
                continue
            if group.workers or len(self._workers) + self._starting() < self._limit:
                return self._start(group)
            if not self._ending:
                for other in self._groups.values():
                    if other.idle:
                        return self._end(other.idle[0])
        for group in self._groups.values():
            if group.counted and group.idle:
                return self._end(group.idle[0])
        return None

    def _ask_again(self) -> list[Command]:
        for group in self._groups.values():
            group.refused = False
        return self._commands()

    def _wanting(self) -> Iterator[_Group]:
        return (group for group in self._groups.values() if group.waiting)

    def _starting(self) -> int:
        return sum(group.starting for group in self._groups.values())

    def _start(self, group: _Group) -> Start:
        group.starting = True
        asked = max(group.options.num_cpus, _LEAST_CPUS) if group.workers else 0
        options = replace(group.options, resources={**group.options.resources, TASK_CPUS: asked})
        return Start(options, group, self._deaths)

    def _run(self, group: _Group, worker: Worker) -> Run:
        return Run(worker, group.waiting.popleft()[1])

    def _end_sharing(self) -> list[Command]:
        idle = [worker for group in self._groups.values() for worker in group.idle if worker in self._sharing]
        return [self._end(worker) for worker in idle]

    def _end(self, worker: Worker) -> End:
        group = self._workers[worker]
        group.idle.remove(worker)
        group.workers.discard(worker)
        self._ending.add(worker)
        return End(worker)

    def _forget(self, group: _Group) -> None:
        key = _key(group.options)
        if self._groups.get(key) is group and not (group.workers or group.waiting or group.starting):
            del self._groups[key]


def _key(options: ActorOptions) -> Hashable:
    variables = options.runtime_env.get("env_vars", {})
    resources = frozenset(item for item in options.resources.items() if item[1])
    return options.num_cpus, options.num_gpus, resources, frozenset(variables.items())
