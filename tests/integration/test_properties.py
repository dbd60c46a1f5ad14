"""Random DAGs mean the same however they are run, and the simulator's verdict on a plan is what really happens.

Cases in each run of the suite: 200 DAGs on threads and 40 on processes, each compiled in both orders, traced and run
dynamically; 40 more on processes, some of whose values go by communicators, where messages meet; 150 plans with
shuffled ops and few slots, run by threads with several executions under way.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import dagc
from channels import ChannelBroken
from dagc.build import build_graph
from dagc.compiled import CompiledGraph
from dagc.errors import DeadlockError
from dagc.graph import DRIVER, Graph
from dagc.install import install
from dagc.options import CompileOptions
from dagc.passes.lower import lower
from dagc.passes.simulate import simulate
from dagc.placement import locate
from dagc.plan import Op, OpKind, Plan
from dagc.planner import make_plan
from dagc.records import collect
from runtime import current
from runtime.calls import BoundCall
from tests.dags import Boom, Symbolic, evaluate, outputs
from tests.own_transport import OwnTransport

WATCHDOG = 30.0
ACTORS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def actors(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    dagc.init(engine=request.param)
    kind = dagc.remote(Symbolic)
    yield [kind.options(name=name).remote(name) for name in ACTORS]
    dagc.shutdown()


on_threads = pytest.mark.parametrize("actors", ["threads"], indirect=True)
on_processes = pytest.mark.parametrize("actors", ["embedded"], indirect=True)


def means_the_same(output: Any, executions: int, **options: Any) -> None:
    with dagc.compile(output, timeout=WATCHDOG, **options) as graph:
        takes = graph._driver
        inputs = [given_for(takes.positional, takes.keywords, number) for number in range(executions)]
        started = [graph.execute(*args, **kwargs) for args, kwargs in inputs]
        for refs, (args, kwargs) in zip(started, inputs, strict=True):
            expected, failed = evaluate(output, padded(args), {"key": None, **kwargs})
            for ref, value in zip(refs, expected, strict=True):
                if value is Boom or failed_leaf(graph, failed, expected, output, args, kwargs):
                    with pytest.raises(Boom):
                        ref.get()
                else:
                    assert ref.get() == value


def failed_leaf(graph: Any, failed: bool, expected: Any, output: Any, args: Any, kwargs: Any) -> bool:
    """Whether one of the calls that end an execution fails; only these are told with every result."""
    if not failed:
        return False
    ends = {leaf.removesuffix(".done") for leaf in graph._graph.output.leaves}
    return any(name in ends for name in fails(graph._graph))


def fails(graph: Graph) -> set[str]:
    """The calls of a graph that raise, or need one that does."""
    found: set[str] = set()
    for node in graph.nodes:
        if getattr(node, "method", None) == "fail" or any(use in found for use in node.uses):
            found.add(node.name)
    return found


def given_for(positional: int, keywords: tuple[str, ...], number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple((number, place) for place in range(positional)), {key: f"{key}{number}" for key in keywords}


def padded(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args, None, None)


def runs_dynamically(output: Any) -> None:
    graph = build_graph(output)
    keys = [node.access.key for node in graph.inputs]
    positional = max((key for key in keys if isinstance(key, int)), default=-1) + 1
    args, kwargs = given_for(positional, tuple(key for key in keys if isinstance(key, str)), 7)
    expected, failed = evaluate(output, padded(args), {"key": None, **kwargs})
    if failed:
        with pytest.raises(Boom):
            dagc.run(output, *args, **kwargs)
    else:
        assert dagc.run(output, *args, **kwargs) == expected


UNHURRIED = settings(
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@on_threads
@given(data=st.data())
@settings(UNHURRIED, max_examples=200)
@pytest.mark.timeout(240)
def test_random_dags_mean_the_same_on_threads(actors: list[Any], data: st.DataObject) -> None:
    output = data.draw(outputs(actors[: data.draw(st.integers(1, 4))], workers=data.draw(st.integers(0, 9)) == 0))
    inflight = data.draw(st.sampled_from([1, 2, 8]))
    means_the_same(output, 3, max_inflight=inflight)
    means_the_same(output, 3, max_inflight=inflight, order="free")
    means_the_same(output, 1, trace=True)
    runs_dynamically(output)


@on_processes
@given(data=st.data())
@settings(UNHURRIED, max_examples=40)
@pytest.mark.timeout(240)
def test_random_dags_mean_the_same_on_processes(actors: list[Any], data: st.DataObject) -> None:
    output = data.draw(outputs(actors[: data.draw(st.integers(1, 3))]))
    means_the_same(output, 3)
    means_the_same(output, 3, order="free")
    runs_dynamically(output)


@on_processes
@given(data=st.data())
@settings(UNHURRIED, max_examples=40)
@pytest.mark.timeout(240)
def test_random_dags_whose_messages_meet_mean_the_same(actors: list[Any], data: st.DataObject) -> None:
    output = data.draw(outputs(actors[: data.draw(st.integers(2, 4))]))
    for call in collect(output.nodes).calls:
        if isinstance(call, BoundCall) and data.draw(st.booleans()):
            call.with_tensor_transport(OwnTransport())
    means_the_same(output, 3)
    means_the_same(output, 3, order="free")


# ---- the verdict ----


def shuffled(graph: Graph, plan: Plan, chance: random.Random, slots: list[int]) -> Plan:
    """The plan with the ops of each actor in another order that its values allow, and with other slots."""
    schedule = {DRIVER: plan.schedule[DRIVER]}
    for party, ops in plan.schedule.items():
        if party == DRIVER:
            continue
        left, done, order = list(ops), set[str](), list[Op]()
        while left:
            # The first receive is what an execution begins with; it stays first.
            possible = [op for op in left if _possible(graph, op, party, done)] if order else [left[0]]
            op = chance.choice(possible)
            left.remove(op)
            order.append(op)
            done.update(op.target if op.kind is not OpKind.RUN else value for value in _made(graph, op))
        schedule[party] = tuple(order)
    channels = tuple(channel._replace(slots=chance.choice(slots)) for channel in plan.channels)
    return Plan(plan.name, channels, schedule, max_inflight=plan.max_inflight)


def _possible(graph: Graph, op: Op, party: str, done: set[str]) -> bool:
    if op.kind is OpKind.RECV:
        return True
    if op.kind is OpKind.SEND:
        return op.target in done
    return {use for name in op.calls for use in graph.by_name[name].uses} <= done | {*_made(graph, op)}


def _made(graph: Graph, op: Op) -> tuple[str, ...]:
    if op.kind is not OpKind.RUN:
        return (op.target,)
    return tuple(value for call in graph.calls if call.name in op.calls for value in graph.values_of(call))


def finishes(graph: Graph, plan: Plan, executions: int, patience: float) -> bool:
    """Whether `executions` of the plan finish when it really runs; if not within `patience`, it is stopped."""
    engine, options = current.engine(), CompileOptions(name=plan.name, max_inflight=plan.max_inflight)
    lowered = lower(plan, graph)
    compiled = CompiledGraph(
        graph,
        plan,
        locate(graph, engine),
        lowered.driver,
        install(plan, lowered, graph.actors, (), engine, options),
        engine,
        options,
    )
    done = threading.Event()

    def drive() -> None:
        try:
            for refs in [
                compiled.execute(*ARGUMENTS(compiled)[0], **ARGUMENTS(compiled)[1]) for _ in range(executions)
            ]:
                for ref in refs:
                    ref.get()
        except (dagc.GraphClosedError, ChannelBroken):
            return
        except Boom:
            pass
        done.set()

    driver = threading.Thread(target=drive)
    driver.start()
    finished = done.wait(patience)
    compiled._ending.fail(dagc.GraphClosedError("stopped"))
    driver.join(WATCHDOG)
    compiled.teardown()
    assert not driver.is_alive()
    return finished


def ARGUMENTS(compiled: CompiledGraph) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: N802
    return given_for(compiled._driver.positional, compiled._driver.keywords, 1)


@on_threads
@given(data=st.data())
@settings(UNHURRIED, max_examples=150)
@pytest.mark.timeout(300)
def test_the_verdict_of_the_simulator_is_what_really_happens(actors: list[Any], data: st.DataObject) -> None:
    output = data.draw(outputs(actors))
    graph = build_graph(output)
    assume(not fails(graph))
    inflight = data.draw(st.sampled_from([1, 2, 4]))
    placement = locate(graph, current.engine())
    plan = make_plan(graph, placement, CompileOptions(name="random", max_inflight=inflight))
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    plan = shuffled(graph, plan, chance, data.draw(st.sampled_from([[1], [1, 2], [4]])))
    try:
        simulate(plan.schedule, plan.channels, ahead=inflight)
    except DeadlockError:
        event("deadlock")
        # A deadlock never ends, however long one waits: waiting shortly can only miss that it did.
        assert not finishes(graph, plan, inflight + 1, patience=0.2), f"it finished\n{plan}"
    else:
        assert finishes(graph, plan, inflight + 1, patience=WATCHDOG), f"it did not finish\n{plan}"
