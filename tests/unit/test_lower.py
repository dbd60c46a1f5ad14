from __future__ import annotations

import pickle
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.bind import InputNode, InputPart, MultiOutputNode
from dagc.build import build_graph
from dagc.containers import map_leaves
from dagc.graph import verify
from dagc.options import CompileOptions
from dagc.passes.lower import Lowered, lower
from dagc.passes.simulate import simulate
from dagc.planner import make_plan
from dagc.program import DriverProgram, InputAccess, Invoke, Output, Recv, Run, Send, Slot
from runtime.calls import ActorHandle, BoundCall, BoundReturn
from tests.fakes import actor, actors, placed
from tests.interpreter import interpret


def lowered(output: Any) -> Lowered:
    graph = build_graph(output)
    return lower(make_plan(graph, placed(graph), CompileOptions(name="test")), graph)


def test_a_program_is_steps_over_slots() -> None:
    a = actor()
    x = InputNode()
    programs, _, _ = lowered(a.forward.bind(a.forward.bind(x), scale=[x, 2]))
    program = programs["Stage_0"]
    assert program.steps == (
        Recv("input", 0),
        Run(
            (
                Invoke("Stage_0.forward", "forward", (Slot(0),), {}, out=(1,)),
                Invoke("Stage_0.forward#1", "forward", (Slot(1),), {"scale": [Slot(0), 2]}, out=(2,)),
            ),
            last=(0, 1),
        ),
        Send("Stage_0.forward#1", 2, last=(2,)),
    )
    assert (program.graph, program.actor) == ("test", "Stage_0")
    assert (program.slots, dict(program.reads), program.writes) == (3, {"input": 0}, ("Stage_0.forward#1",))


def test_programs_are_picklable_and_equal_after_it() -> None:
    a, b = actors(2)
    first, _ = a.split.bind(InputNode())
    result = lowered(b.update.bind([first, {"k": (first,)}]))
    assert pickle.loads(pickle.dumps(result)) == result


def test_slots_are_used_again_lowest_first() -> None:
    a = actor()
    node: Any = InputNode()
    for _ in range(100):
        node = a.forward.bind(node)
    assert lowered(node).programs["Stage_0"].slots == 2


def test_a_value_that_is_read_again_later_keeps_its_slot() -> None:
    a, x = actor(), InputNode()
    steps = lowered(a.update.bind(a.forward.bind(x), x)).programs["Stage_0"].steps
    assert [step.last for step in steps] == [(), (0, 1), (2,)]


def test_several_values_are_unpacked_and_the_unused_ones_freed_at_once() -> None:
    a, b = actors(2)
    _, second = a.split.bind(InputNode())
    run, send = lowered(b.forward.bind(second)).programs["Stage_0"].steps[1:]
    split = Invoke("Stage_0.split", "split", (Slot(0),), {}, out=(1, 2), unpack=True)
    assert run == Run((split,), last=(0, 1))
    assert send == Send("Stage_0.split[1]", 2, last=(2,))


def test_the_tick_is_taken_and_forgotten() -> None:
    programs, driver, _ = lowered(actor().update.bind(1))
    assert programs["Stage_0"].steps[0] == Recv("tick", 0, last=(0,))
    assert dict(driver.sends) == {"tick": None}
    assert (driver.positional, driver.keywords) == (0, ())


def test_the_driver_of_a_whole_input_takes_one_argument() -> None:
    x = InputNode()
    assert lowered(actor().forward.bind(x)).driver == DriverProgram(
        graph="test",
        sends={"input": InputAccess(None)},
        outputs=(Output("Stage_0.forward", "Stage_0.forward"),),
        leaves=(),
        reads={"Stage_0.forward": 0},
        positional=1,
        keywords=(),
        multi=False,
    )


def test_the_driver_of_parts_takes_positions_and_keywords() -> None:
    a, b = actors(2)
    x = InputNode()
    first = a.forward.bind(x[2])
    second = b.forward.bind(first, scale=x.scale)
    driver = lowered(MultiOutputNode([second, first, x.other, second])).driver
    assert dict(driver.sends) == {"input[2]": InputAccess(2), "input.scale": InputAccess("scale")}
    assert driver.outputs == (
        Output("Stage_1.forward", "Stage_1.forward"),
        Output("Stage_0.forward", "Stage_0.forward"),
        Output("input.other", None, InputAccess("other")),
        Output("Stage_1.forward", "Stage_1.forward"),
    )
    assert dict(driver.reads) == {"Stage_0.forward": 1, "Stage_1.forward": 0}
    assert (driver.positional, driver.keywords, driver.multi) == (3, ("scale", "other"), True)


def test_readers_have_different_indices() -> None:
    a, b = actors(2)
    x = InputNode()
    programs, _, _ = lowered(MultiOutputNode([a.forward.bind(x), b.forward.bind(x)]))
    assert [dict(program.reads) for program in programs.values()] == [{"input": 0}, {"input": 1}]


class Pair(NamedTuple):
    left: Any
    right: Any


SHAPES = [
    lambda nodes: nodes,
    lambda nodes: [nodes],
    lambda nodes: [tuple(nodes), 7],
    lambda nodes: [{"k": nodes, 3: "three"}],
    lambda nodes: [Pair(nodes, {"deep": [(node,) for node in nodes]})],
]


@st.composite
def random_dags(draw: st.DrawFn) -> Any:
    """The output of a DAG, each call of which has a number of its own as its first argument."""
    stages = actors(draw(st.integers(1, 4)))
    x = InputNode()
    inputs: list[Any] = draw(st.sampled_from([[], [x], [x[0], x.k], [x[1], x[0]]]))
    values: list[Any] = list(inputs)
    calls: list[Any] = []
    for number in range(draw(st.integers(1, 9))):
        stage: ActorHandle = draw(st.sampled_from(stages))
        shape = draw(st.sampled_from(SHAPES))
        picked = draw(st.lists(st.sampled_from(values), max_size=3)) if values else []
        kwargs = {"last": draw(st.sampled_from(values))} if values and draw(st.booleans()) else {}
        returns = draw(st.integers(1, 3))
        made = stage.update.options(num_returns=returns).bind(number, *shape(picked), **kwargs)
        calls += [made] if returns == 1 else list(made)
        values += [made] if returns == 1 else list(made)
    if draw(st.booleans()):
        return draw(st.sampled_from(calls))
    outputs = [draw(st.sampled_from(calls)), *draw(st.lists(st.sampled_from(values), max_size=4))]
    return MultiOutputNode(draw(st.permutations(outputs)))


def call_method(args: Any, kwargs: Any, returns: int) -> Any:
    """A value that says all that went in."""
    value = ("called", repr(args), repr(dict(kwargs)))
    return value if returns == 1 else [(i, value) for i in range(returns)]


def evaluate(output: Any, args: Any, kwargs: Any) -> Any:
    """The value of a DAG, by recursion over the user's records."""
    done: dict[int, Any] = {}

    def value_of(leaf: Any) -> Any:
        if isinstance(leaf, InputNode):
            return args[0]
        if isinstance(leaf, InputPart):
            return kwargs[leaf.key] if isinstance(leaf.key, str) else args[leaf.key]
        if isinstance(leaf, BoundReturn):
            return made_by(leaf.call)[leaf.index]
        return made_by(leaf) if isinstance(leaf, BoundCall) else leaf

    def made_by(call: BoundCall) -> Any:
        if id(call) not in done:
            known = map_leaves(call.args, value_of), map_leaves(dict(call.kwargs), value_of)
            done[id(call)] = call_method(*known, call.method.num_returns)
        return done[id(call)]

    if isinstance(output, MultiOutputNode):
        return [value_of(node) for node in output.nodes]
    return value_of(output)


@given(random_dags())
@settings(derandomize=True, max_examples=200, deadline=None)
def test_programs_give_what_the_dag_means(output: Any) -> None:
    graph = build_graph(output)
    verify(graph)
    plan = make_plan(graph, placed(graph), CompileOptions(name="test"))
    assert simulate(plan.schedule, plan.channels) >= 3  # a send, a run and a recv, at least
    returns = {(call.actor, call.args[0]): call.num_returns for call in graph.calls}
    calls = [((f"a{i}", f"b{i}"), {"k": f"k{i}"}) for i in range(3)]
    got = interpret(lower(plan, graph), lambda a, _, args, kw: call_method(args, kw, returns[a, args[0]]), calls)
    assert got == [evaluate(output, *call) for call in calls]
