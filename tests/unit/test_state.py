"""The session's state: events in, commands out."""

from __future__ import annotations

import pytest

from runtime.embedded.state import Construct, Death, Described, Died, Kill, SetUp, Spawn, State
from runtime.engine import ActorOptions
from runtime.errors import GraphError
from runtime.ids import ActorId
from runtime.resources import Resources

A, B = ActorId("a"), ActorId("b")
DRIVER, WORKER = "driver", "worker"
SET_UP = SetUp(b"what")


def make() -> State:
    return State(Resources(4, gpus=(0, 1), custom={"disk": 1}))


def alive(state: State, actor: ActorId = A, options: ActorOptions | None = None) -> None:
    state.create(actor, "Stage", options or ActorOptions(), DRIVER)
    state.set_up(actor, SET_UP)
    state.hello(actor, 41, WORKER)
    state.built(actor, b"")


def test_create_spawns() -> None:
    options = ActorOptions(num_gpus=1)
    assert make().create(A, "Stage", options, DRIVER) == [Spawn(A, options, (0,))]


@pytest.mark.parametrize("hello_first", [True, False])
def test_construct_needs_process_and_arguments(hello_first: bool) -> None:
    state = make()
    state.create(A, "Stage", ActorOptions(max_concurrency=2), DRIVER)
    events = [lambda: state.hello(A, 41, WORKER), lambda: state.set_up(A, SET_UP)]
    first, second = events if hello_first else reversed(events)
    assert first() == []
    assert second() == [Construct(WORKER, "Stage(a)", 2, SET_UP)]


def test_describe_waits_for_all() -> None:
    state = make()
    state.create(A, "Stage", ActorOptions(), DRIVER)
    alive(state, B)
    assert state.describe([A, B], DRIVER, 7) == []
    state.hello(A, 42, "another")
    (answer,) = state.built(A, b"")
    assert isinstance(answer, Described)
    assert (answer.link, answer.question) == (DRIVER, 7)
    assert [(view.actor, view.label, view.pid, view.death) for view in answer.views] == [
        (A, "Stage(a)", 42, None),
        (B, "Stage(b)", 41, None),
    ]


def test_failed_constructor() -> None:
    state = make()
    state.create(A, "Stage", ActorOptions(), DRIVER)
    state.hello(A, 41, WORKER)
    assert state.describe([A], DRIVER, 1) == []
    assert state.built(A, b"failure") == [Kill(A)]
    death = Death(A, "Stage(a)", 41, "its constructor raised", b"failure")
    (answer,) = state.exited(A, "killed by SIGKILL")
    assert isinstance(answer, Described)
    assert answer.views[0].death == death


def test_failed_argument() -> None:
    state = make()
    state.create(A, "Stage", ActorOptions(), DRIVER)
    assert state.argument_failed(A, b"cause") == [Kill(A)]
    assert state.hello(A, 41, WORKER) == []
    assert state.set_up(A, SET_UP) == [], "a doomed actor is not constructed"


def test_death_is_told_once() -> None:
    state = make()
    alive(state)
    assert state.watch(A, DRIVER, 5) == []
    death = Death(A, "Stage(a)", 41, "killed by SIGSEGV")
    assert state.exited(A, "killed by SIGSEGV") == [Died(DRIVER, 5, death)]
    assert state.exited(A, "again") == []
    assert state.watch(A, WORKER, 6) == [Died(WORKER, 6, death)]
    assert state.kill(A) == []


def test_first_reason_counts() -> None:
    state = make()
    alive(state)
    state.watch(A, DRIVER, 5)
    assert state.kill(A) == [Kill(A)]
    assert state.kill(A) == []
    assert state.exited(A, "killed by SIGKILL") == [Died(DRIVER, 5, Death(A, "Stage(a)", 41, "killed by dagc.kill"))]


def test_names_are_unique_among_the_living() -> None:
    state = make()
    alive(state, A, ActorOptions(name="x"))
    with pytest.raises(GraphError, match=r"'x' is taken by actor x\(a\)"):
        state.create(B, "Stage", ActorOptions(name="x"), DRIVER)
    state.exited(A, "exited with code 0")
    state.create(B, "Stage", ActorOptions(name="x"), DRIVER)


def test_what_an_actor_had_begun_to_create_dies_with_it() -> None:
    state = make()
    state.create(A, "Stage", ActorOptions(), WORKER)
    state.create(B, "Stage", ActorOptions(), WORKER)
    state.set_up(B, SET_UP)
    state.watch(A, WORKER, 1)
    state.watch(A, DRIVER, 2)
    assert state.link_gone(WORKER) == [Kill(A)]
    (told,) = state.exited(A, "killed by SIGKILL")
    assert isinstance(told, Died)
    assert told.link == DRIVER, "nobody listens on a link that is gone"
    assert "creates it died" in told.death.reason


def test_unknown_actor() -> None:
    with pytest.raises(GraphError, match="not of this session"):
        make().describe([A], DRIVER, 1)


def test_gpus_are_given_and_come_back() -> None:
    resources = Resources(4, gpus=(2, 5))
    assert resources.take(A, "A", ActorOptions(num_gpus=2)) == (2, 5)
    with pytest.raises(GraphError, match="2 GPUs of which 0 are free"):
        resources.take(B, "B", ActorOptions(num_gpus=0.5))
    resources.give_back(A)
    resources.give_back(A)
    assert resources.take(A, "A", ActorOptions(num_gpus=0.5)) == (2,)
    assert resources.take(B, "B", ActorOptions(num_gpus=0.5)) == (2,), "shares fill a GPU before they open another"
    assert resources.take(ActorId("c"), "C", ActorOptions(num_gpus=1)) == (5,)


def test_cpus_bound_one_actor_and_not_their_sum() -> None:
    resources = Resources(2)
    for number in range(8):
        resources.take(ActorId(str(number)), "A", ActorOptions(num_cpus=2))
    with pytest.raises(GraphError, match="num_cpus=3, this session has 2"):
        resources.take(A, "A", ActorOptions(num_cpus=3))


def test_custom_resources() -> None:
    resources = Resources(2, custom={"disk": 1})
    resources.take(A, "A", ActorOptions(resources={"disk": 0.75}))
    with pytest.raises(GraphError, match=r"0.5 of the resource 'disk', this session has 1 and 0.75 of it is taken"):
        resources.take(B, "B", ActorOptions(resources={"disk": 0.5}))
