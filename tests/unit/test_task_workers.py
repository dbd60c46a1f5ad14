"""Workers of tasks, as a session sees them: actors with a part of TASK_CPUS, that end with whoever started them."""

from __future__ import annotations

import pytest

from runtime.embedded.state import Kill, SetUp, Spawn, State
from runtime.engine import ActorOptions
from runtime.errors import GraphError
from runtime.ids import ActorId
from runtime.resources import TASK_CPUS, Resources


def options(part: float) -> ActorOptions:
    return ActorOptions(num_cpus=0, resources={TASK_CPUS: part})


@pytest.mark.parametrize(("num_cpus", "workers"), [(0.5, 1), (1, 1), (2, 1), (4, 3)])
def test_workers_share_the_cpus(num_cpus: float, workers: int) -> None:
    """Beside the first worker of each pool, which asks for none."""
    session = Resources(num_cpus)
    for number in range(workers):
        session.take(ActorId(f"w{number}"), "worker", options(1))
    with pytest.raises(GraphError, match="asks for 1 of the resource"):
        session.take(ActorId("more"), "worker", options(1))
    assert session.take(ActorId("first"), "worker", options(0)) == ()
    session.give_back(ActorId("w0"))
    session.take(ActorId("more"), "worker", options(1))


def test_resources_of_that_name_do_not_count_otherwise() -> None:
    with pytest.raises(GraphError):
        Resources(2, custom={TASK_CPUS: 100}).take(ActorId("a"), "worker", options(2))


@pytest.mark.parametrize("part", [0, 1])
def test_workers_end_with_whoever_started_them(part: float) -> None:
    state = State(Resources(4))
    actor, alive, starting = map(ActorId, ("actor", "alive", "starting"))
    state.create(actor, "Stage", ActorOptions(), "an actor's link")
    state.set_up(actor, SetUp(b""))
    for worker in (alive, starting):
        assert isinstance(state.create(worker, "FunctionWorker", options(part), "an actor's link")[0], Spawn)
        state.set_up(worker, SetUp(b""))
    state.hello(alive, 41, "its own link")
    state.built(alive, b"")
    state.create(ActorId("of another"), "FunctionWorker", options(part), "another link")
    assert state.link_gone("an actor's link") == [Kill(alive), Kill(starting)]
    state.exited(alive, "killed by SIGKILL")
    (view,) = [v for command in state.describe([alive], "driver", 1) for v in command.views]  # type: ignore[union-attr]
    assert view.death is not None
    assert view.death.reason == "the actor that submitted its tasks has died"
