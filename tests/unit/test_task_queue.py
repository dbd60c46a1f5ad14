"""The queue of tasks: events in, commands out."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from runtime.engine import ActorOptions
from runtime.resources import TASK_CPUS
from runtime.task_queue import Command, End, Later, Refuse, Run, Start, TaskQueue

PLAIN = ActorOptions()
GPU = ActorOptions(num_gpus=1)
OTHER = ActorOptions(runtime_env={"env_vars": {"A": "1"}})
NO = LookupError("no")


def start_of(commands: list[Command]) -> Start:
    (start,) = commands
    assert isinstance(start, Start)
    return start


def asks(start: Start) -> float:
    return start.options.resources[TASK_CPUS]


def busy(queue: TaskQueue, worker: str = "w1", task: str = "a", options: ActorOptions = PLAIN) -> None:
    """The first task, and its worker, which runs it."""
    assert queue.started(start_of(queue.add(task, options)), worker) == [Run(worker, task)]


def test_first_worker_is_free() -> None:
    queue = TaskQueue(limit=2)
    start = start_of(queue.add("a", GPU))
    assert start.options == replace(GPU, resources={TASK_CPUS: 0})
    assert queue.add("b", GPU) == [], "one start at a time"
    run, second = queue.started(start, "w1")
    assert run == Run("w1", "a")
    assert isinstance(second, Start)
    assert asks(second) == 1


@pytest.mark.parametrize(("num_cpus", "asked"), [(1, 1), (4, 4), (0, 0.25)])
def test_further_workers_ask_for_their_cpus(num_cpus: float, asked: float) -> None:
    queue = TaskQueue(limit=2)
    options = ActorOptions(num_cpus=num_cpus)
    busy(queue, options=options)
    assert asks(start_of(queue.add("b", options))) == asked


def test_idle_worker_is_taken_first() -> None:
    queue = TaskQueue(limit=2)
    busy(queue)
    assert queue.ended("w1") == []
    assert queue.add("b", PLAIN) == [Run("w1", "b")]


def test_waiting_tasks_are_run_in_order() -> None:
    queue = TaskQueue(limit=2)
    busy(queue)
    refused = start_of(queue.add("b", PLAIN))
    assert queue.refused(refused, NO) == [Later()]
    assert queue.add("c", PLAIN) == [], "it does not ask again at once"
    assert queue.waiting() == ["b", "c"]
    assert queue.ended("w1") == [Run("w1", "b")]
    assert queue.ended("w1") == [Run("w1", "c")]
    assert queue.ended("w1") == []
    assert queue.retry() == [], "nobody waits"


def test_asks_again_later() -> None:
    queue = TaskQueue(limit=2)
    busy(queue)
    assert queue.refused(start_of(queue.add("b", PLAIN)), NO) == [Later()]
    again = start_of(queue.retry())
    assert queue.refused(again, NO) == [Later()]
    assert queue.started(start_of(queue.retry()), "w2") == [Run("w2", "b")]


def test_asks_again_after_a_death() -> None:
    queue = TaskQueue(limit=2)
    busy(queue)
    assert queue.refused(start_of(queue.add("b", PLAIN)), NO) == [Later()]
    start = start_of(queue.died("w1"))
    assert asks(start) == 0, "no other worker is left"
    assert queue.died("w1") == []
    assert queue.ended("w1") == []
    assert queue.started(start, "w2") == [Run("w2", "b")]


def test_refusal_that_a_death_has_overtaken() -> None:
    queue = TaskQueue(limit=2)
    busy(queue)
    asked = start_of(queue.add("b", PLAIN))
    assert queue.died("w1") == []
    assert asks(start_of(queue.refused(asked, NO))) == 0


def test_refusal_that_the_end_of_who_had_it_has_overtaken() -> None:
    queue = TaskQueue(limit=2)
    busy(queue, options=GPU)
    asked = start_of(queue.add("b", replace(GPU, num_cpus=2)))
    assert queue.died("w1") == []
    assert start_of(queue.refused(asked, NO)).options == asked.options


def test_refused_for_good() -> None:
    queue = TaskQueue(limit=2)
    start = start_of(queue.add("a", GPU))
    assert queue.add("b", GPU) == []
    assert queue.refused(start, NO) == [Refuse(("a", "b"), NO)]
    assert queue.waiting() == []
    assert isinstance(start_of(queue.add("c", GPU)), Start)


def test_worker_with_a_gpu_ends_when_nobody_waits() -> None:
    queue = TaskQueue(limit=2)
    busy(queue, options=GPU)
    assert queue.refused(start_of(queue.add("b", GPU)), NO) == [Later()]
    assert queue.ended("w1") == [Run("w1", "b")]
    assert queue.ended("w1") == [End("w1")]
    assert queue.died("w1") == []


def test_refusal_waits_for_a_gpu_of_other_tasks() -> None:
    queue = TaskQueue(limit=2)
    busy(queue, options=GPU)
    more = replace(GPU, num_cpus=2)
    assert queue.refused(start_of(queue.add("b", more)), NO) == [Later()]
    assert queue.ended("w1") == [End("w1")]
    assert start_of(queue.died("w1")).options.num_cpus == 2


def test_refusal_gives_up_idle_workers_of_other_tasks() -> None:
    queue = TaskQueue(limit=4)
    busy(queue)
    assert queue.started(start_of(queue.add("b", PLAIN)), "w2") == [Run("w2", "b")]
    busy(queue, "w3", "c", OTHER)
    assert queue.ended("w1") == queue.ended("w2") == []
    assert queue.refused(start_of(queue.add("d", OTHER)), NO) == [Later(), End("w2")]


def test_release_ends_idle_workers_but_the_first() -> None:
    queue = TaskQueue(limit=4)
    busy(queue)
    assert queue.started(start_of(queue.add("b", PLAIN)), "w2") == [Run("w2", "b")]
    assert queue.release() == []
    assert queue.ended("w1") == queue.ended("w2") == []
    assert queue.release() == [End("w2")]
    assert queue.release() == []
    assert queue.add("c", PLAIN) == [Run("w1", "c")]


def test_release_is_not_for_one_that_wants_workers_itself() -> None:
    queue = TaskQueue(limit=4)
    busy(queue)
    assert queue.started(start_of(queue.add("b", PLAIN)), "w2") == [Run("w2", "b")]
    asked = start_of(queue.add("c", PLAIN))
    assert queue.ended("w2") == [Run("w2", "c")]
    assert queue.ended("w2") == []
    assert queue.release() == []
    assert queue.refused(asked, NO) == [Later()]
    assert queue.release() == []
    assert queue.retry() == []
    assert queue.release() == [End("w2")]


def test_limit_of_sets_of_options() -> None:
    queue = TaskQueue(limit=2)
    busy(queue)
    busy(queue, "w2", "b", OTHER)
    third, fourth = (ActorOptions(runtime_env={"env_vars": {"A": name}}) for name in "34")
    assert queue.add("c", third) == queue.add("d", fourth) == []
    assert queue.ended("w2") == [End("w2")]
    assert queue.ended("w1") == [], "one is ending already"
    start, end = queue.died("w2")
    assert isinstance(start, Start)
    assert start.options.runtime_env == third.runtime_env
    assert end == End("w1")
    assert queue.started(start, "w3") == [Run("w3", "c")]
    assert start_of(queue.died("w1")).options.runtime_env == fourth.runtime_env


def test_older_tasks_of_other_options_go_first() -> None:
    queue = TaskQueue(limit=1)
    busy(queue)
    assert queue.add("b", OTHER) == []
    assert queue.refused(start_of(queue.add("c", PLAIN)), NO) == [Later()]
    assert queue.ended("w1") == [End("w1")]
    assert start_of(queue.died("w1")).options.runtime_env == OTHER.runtime_env


def test_who_was_refused_does_not_end_workers_of_others() -> None:
    queue = TaskQueue(limit=2)
    busy(queue, options=GPU)
    more = replace(GPU, num_cpus=2)
    assert queue.refused(start_of(queue.add("b", more)), NO) == [Later()]
    busy(queue, "w2", "c", OTHER)
    assert queue.ended("w2") == [], "it would have to be started again for the next task, and would end again"
    assert queue.add("d", OTHER) == [Run("w2", "d")]


def test_new_worker_runs_a_task_before_it_is_ended() -> None:
    queue = TaskQueue(limit=2)
    busy(queue, options=GPU)
    more = replace(GPU, num_cpus=2)
    assert queue.refused(start_of(queue.add("b", more)), NO) == [Later()]
    start = start_of(queue.add("c", OTHER))
    assert queue.retry() == [], "there is no room"
    assert queue.started(start, "w2") == [Run("w2", "c")]
    assert queue.ended("w2") == [End("w2")], "b came first"


def test_group_whose_workers_are_ending_waits_for_room() -> None:
    queue = TaskQueue(limit=1)
    busy(queue)
    assert queue.add("b", OTHER) == []
    assert queue.ended("w1") == [End("w1")]
    assert queue.add("c", PLAIN) == []
    start = start_of(queue.died("w1"))
    assert start.options.runtime_env == OTHER.runtime_env
    assert queue.started(start, "w2") == [Run("w2", "b")]
    assert queue.ended("w2") == [End("w2")]
    assert asks(start_of(queue.died("w2"))) == 0


@pytest.mark.parametrize("seed", range(100))
def test_every_task_comes_to_an_end(seed: int) -> None:
    """Any order of events, with a session that has one GPU, few CPUs for workers of tasks, and workers that die."""
    rng = random.Random(seed)
    session = _Session(rng, cpus=rng.randint(0, 3), gpus=rng.randint(0, 1))
    kinds = [PLAIN, OTHER, GPU, replace(GPU, num_cpus=2), ActorOptions(num_cpus=0)]
    for task in range(30):
        session.add(task, rng.choice(kinds))
        for _ in range(rng.randint(0, 4)):
            session.step()
    for _ in range(10_000):
        if not session.step():
            break
    assert session.done == set(range(30))
    assert session.queue.waiting() == []
    assert session.starts <= 30, "no worker is started for nothing"


class _Session:
    """What carries out commands, some time later. Tasks end when somebody steps."""

    def __init__(self, rng: random.Random, cpus: float, gpus: int) -> None:
        self.rng, self.cpus, self.gpus = rng, cpus, gpus
        self.queue = TaskQueue(limit=rng.randint(1, 3))
        self.todo: list[Command] = []
        self.at_work: dict[str, int] = {}
        self.workers: dict[str, ActorOptions] = {}
        self.later = 0
        self.done: set[int] = set()
        self.starts = 0
        self.names = (f"w{number}" for number in itertools.count())

    def add(self, task: int, options: ActorOptions) -> None:
        self.todo += self.queue.add(task, options)

    def step(self) -> bool:
        """One thing that may happen; False if nothing can."""
        choices: list[Any] = ["command"] * bool(self.todo) + ["end"] * bool(self.at_work)
        if not choices and not self.later:
            return False
        choice = self.rng.choice([*choices, *["later"] * bool(self.later), *["die"] * (self.rng.random() < 0.1)])
        if choice == "command":
            self.carry_out(self.todo.pop(self.rng.randrange(len(self.todo))))
        elif choice == "end":
            worker = self.rng.choice(sorted(self.at_work))
            self.done.add(self.at_work.pop(worker))
            self.todo += self.queue.ended(worker)
        elif choice == "later":
            self.later -= 1
            self.todo += self.queue.retry()
        elif self.workers:
            self.die(self.rng.choice(sorted(self.workers)))
        return True

    def carry_out(self, command: Command) -> None:
        if isinstance(command, Start):
            wanted = command.options
            cpus = sum(o.resources[TASK_CPUS] for o in self.workers.values()) + wanted.resources[TASK_CPUS]
            if cpus > self.cpus or sum(o.num_gpus for o in self.workers.values()) + wanted.num_gpus > self.gpus:
                self.todo += self.queue.refused(command, NO)
            else:
                name = next(self.names)
                self.starts += 1
                self.workers[name] = wanted
                self.todo += self.queue.started(command, name)
        elif isinstance(command, Run):
            assert command.worker not in self.at_work, "one task at a time"
            if command.worker in self.workers:
                self.at_work[command.worker] = command.task
            else:
                self.done.add(command.task)  # it fails
        elif isinstance(command, End):
            assert command.worker not in self.at_work, "only an idle worker is ended"
            if command.worker in self.workers:
                self.die(command.worker)
        elif isinstance(command, Later):
            self.later += 1
        else:
            assert self.gpus == 0, "there is a GPU, and only this pool's own workers have it"
            self.done |= set(command.tasks)

    def die(self, worker: str) -> None:
        del self.workers[worker]
        if worker in self.at_work:
            self.done.add(self.at_work.pop(worker))
        self.todo += self.queue.died(worker)
