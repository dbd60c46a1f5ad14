from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any, NamedTuple

import pytest

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.errors import GraphError, InputPartError
from runtime.calls import ActorHandle, BoundReturn, methods_of
from runtime.ids import ActorId
from runtime.refs import ObjectRef
from tests.fakes import Stage, actor, actors


class Point(NamedTuple):
    x: Any
    y: Any


def refused(output: Any) -> str:
    with pytest.raises(GraphError) as caught:
        build_graph(output)
    return str(caught.value)


def test_the_same_key_twice_is_an_equal_part() -> None:
    x = InputNode()
    assert x[0] == x[0]
    assert x["k"] == x.k
    assert hash(x["k"]) == hash(x.k)
    assert x[0] != x[1]
    assert x[0] != InputNode()[0]


def test_the_input_is_itself_in_a_with_block() -> None:
    node = InputNode()
    with node as x:
        assert x is node


@pytest.mark.parametrize("key", [-1, True, 1.5, None, "two words", "", slice(0, 1)])
def test_a_key_that_execute_cannot_take_is_refused(key: Any) -> None:
    with pytest.raises(GraphError, match=r"expected the index of a positional argument of execute, as input\[0\]"):
        InputNode()[key]


def test_parts_of_parts_are_refused_with_what_to_write() -> None:
    x = InputNode()
    for deeper in (lambda: x[0][1], lambda: x.k["j"], lambda: x[0].shape):
        with pytest.raises(InputPartError, match="take the part inside the method"):
            deeper()
    assert not hasattr(x[0], "shape")


def test_tools_that_look_for_special_names_find_none() -> None:
    x = InputNode()
    for node in (x, x[0]):
        assert not hasattr(node, "__array__")
        assert not hasattr(node, "_repr_html_")


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x[0], lambda x: actor().forward.bind(x)])
def test_nodes_are_not_pickled(make: Any) -> None:
    node = make(InputNode())
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(GraphError, match="cannot be pickled"):
            attempt(node)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "expected at least one node"),
        ("ab", "expected a list or a tuple of nodes"),
        (InputNode(), "expected a list or a tuple of nodes"),
        ([3], "element 0 of MultiOutputNode is 3; expected a node"),
        ([MultiOutputNode([InputNode()])], "element 0 of MultiOutputNode is a MultiOutputNode"),
        ([(InputNode(),)], "element 0 of MultiOutputNode is a tuple of nodes; put them into one list"),
    ],
)
def test_several_outputs_are_a_list_of_nodes(nodes: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        MultiOutputNode(nodes)


def test_several_outputs_do_not_change_with_the_list() -> None:
    x = InputNode()
    nodes: list[Any] = [x]
    outputs = MultiOutputNode(nodes)
    nodes.append(x)
    assert outputs.nodes == (x,)


def test_names_say_actor_method_and_how_often() -> None:
    a, b = actors(2)
    x = InputNode()
    first = a.forward.bind(x)
    second = a.forward.bind(first)
    graph = build_graph(b.update.bind(second, first))
    assert [node.name for node in graph.nodes] == [
        "input",
        "Stage_0.forward",
        "Stage_0.forward#1",
        "Stage_1.update",
        "output",
    ]
    assert list(graph.actors.values()) == [a, b]


def test_names_are_words_whatever_the_label() -> None:
    graph = build_graph(actor("my stage #1").forward.bind(1))
    assert [node.name for node in graph.calls] == ["my_stage__1_0.forward"]


def test_nodes_are_found_in_lists_tuples_named_tuples_and_dict_values() -> None:
    x = InputNode()
    call = actor().update.bind([x[0], (x[1], {"k": x.k})], Point(x[2], 0), key=[x.j])
    graph = build_graph(call)
    assert graph.calls[0].uses == ("input[0]", "input[1]", "input.k", "input[2]", "input.j")
    assert str(graph).splitlines()[5] == (
        "Stage_0.update = Stage_0.update([input[0], (input[1], {'k': input.k})], Point(input[2], 0), key=[input.j])"
    )


def test_a_list_of_constants_is_kept_and_a_list_with_nodes_is_copied() -> None:
    x = InputNode()
    constants, nodes = [1, 2], [x]
    graph = build_graph(actor().update.bind(constants, nodes))
    assert graph.calls[0].args[0] is constants
    nodes.append(x)
    assert len(graph.calls[0].args[1]) == 1


def test_a_call_used_twice_is_one_node() -> None:
    a, b = actors(2)
    shared = a.forward.bind(InputNode())
    assert len(build_graph(MultiOutputNode([b.update.bind(shared, shared), shared, shared])).calls) == 2


def test_only_the_used_values_of_a_call_are_nodes() -> None:
    a, b = actors(2)
    _, second = a.split.bind(InputNode())
    graph = build_graph(MultiOutputNode([b.forward.bind(second), BoundReturn(second.call, 1)]))
    assert [node.name for node in graph.nodes] == [
        "input",
        "Stage_0.split",
        "Stage_0.split[1]",
        "Stage_1.forward",
        "output",
    ]


def test_building_twice_gives_the_same_text() -> None:
    a = actor()
    output = a.forward.bind(a.forward.bind(InputNode()))
    assert str(build_graph(output)) == str(build_graph(output))


def test_positions_may_have_gaps() -> None:
    x = InputNode()
    graph = build_graph(actor().update.bind(x[2], x[0], x.k))
    assert [node.name for node in graph.inputs] == ["input[0]", "input[2]", "input.k"]


def test_a_chain_of_ten_thousand_calls_is_built() -> None:
    a = actor()
    node: Any = InputNode()
    for _ in range(10_000):
        node = a.forward.bind(node)
    assert len(build_graph(node).calls) == 10_000


@pytest.mark.parametrize("output", [None, 3, "x", actor(), actor().forward])
def test_an_output_that_is_no_node_is_refused(output: Any) -> None:
    assert "expected a node of a DAG" in refused(output)


@pytest.mark.parametrize("output", [[], [InputNode()], actor().split.bind(1)])
def test_a_list_of_outputs_is_a_multi_output_node(output: Any) -> None:
    assert "write MultiOutputNode([a, b])" in refused(output)


@pytest.mark.parametrize("output", [InputNode(), InputNode()[0], MultiOutputNode([InputNode()])])
def test_an_output_without_a_call_is_refused(output: Any) -> None:
    assert "contains no call" in refused(output)


def test_two_inputs_are_refused() -> None:
    a = actor()
    assert "of a second InputNode" in refused(a.update.bind(InputNode(), InputNode()))
    assert "of a second InputNode" in refused(a.update.bind(InputNode()[0], InputNode()[1]))


def test_the_whole_input_beside_its_parts_is_refused() -> None:
    a, x = actor(), InputNode()
    for output in (a.update.bind(x, x[0]), a.update.bind(x[0], x), MultiOutputNode([a.forward.bind(x), x[0]])):
        assert "use parts everywhere" in refused(output)


def test_a_cycle_through_a_bound_list_is_shown() -> None:
    a, b = actor("A"), actor("B")
    arguments: list[Any] = []
    first = a.forward.bind(arguments)
    second = b.forward.bind(first)
    arguments.append(second)
    assert refused(second) == (
        "A_0.forward: the graph has a cycle: by after(...), or by a list or dict that was changed after it was bound, "
        "a call needs its own result\n"
        "  A_0.forward needs B_0.forward needs A_0.forward\n"
        "to carry state from one execution to the next keep it in an actor\n"
        "\n"
        "  A_0.forward = A_0.forward([B_0.forward])  <-- here\n"
        "  B_0.forward = B_0.forward(A_0.forward)"
    )


def test_a_long_cycle_is_shortened() -> None:
    a = actor()
    arguments: list[Any] = []
    node = a.forward.bind(arguments)
    for _ in range(100):
        node = a.forward.bind(node)
    arguments.append(node)
    assert "... 91 more ..." in refused(node)


def test_a_list_that_contains_itself_is_refused() -> None:
    knot: list[Any] = []
    knot.append([knot])
    assert "a list that contains itself" in refused(actor().forward.bind(knot))


def test_a_container_may_stand_in_several_places() -> None:
    x = InputNode()
    shared = [x]
    assert build_graph(actor().update.bind(shared, [shared, shared])).calls[0].uses == ("input",)


class _Nodes(list[Any]):
    pass


@pytest.mark.parametrize(
    ("hide", "where"),
    [
        (lambda x: {x}, "in a set"),
        (lambda x: frozenset([(x, 1)]), "in a frozenset"),
        (lambda x: {x: 1}, "as a dict key"),
        (lambda x: [{(1, x): 1}], "as a dict key"),
        (lambda x: OrderedDict(a=[x]), "in a OrderedDict"),
        (lambda x: _Nodes([x]), "in a _Nodes"),
    ],
)
def test_a_node_where_no_value_can_be_put_is_refused(hide: Any, where: str) -> None:
    message = refused(actor().update.bind(1, k=hide(InputNode())))
    assert message.startswith("Stage_0.update: argument 'k' of Stage.update.bind(...) has input")
    assert where in message
    assert message.endswith("  <-- here")


@pytest.mark.parametrize("hide", [lambda ref: ref, lambda ref: [ref], lambda ref: {"k": (ref,)}])
def test_a_ref_among_the_arguments_is_refused(hide: Any) -> None:
    ref = ObjectRef.__new__(ObjectRef)
    ref._future, ref._label = Future(), "f"
    assert "bind dagc.get(ref)" in refused(actor().forward.bind(hide(ref)))


def test_all_values_of_a_call_at_once_are_refused() -> None:
    first, _ = actor().split.bind(1)
    assert "returns 2 values; use the tuple that bind returned" in refused(first.call)


def test_several_outputs_as_an_argument_are_refused() -> None:
    assert "it can only be the output itself" in refused(actor().forward.bind(MultiOutputNode([InputNode()])))


def test_an_actor_with_a_name_of_its_own_is_called_by_it() -> None:
    kind = methods_of(Stage)
    handles = [
        ActorHandle(ActorId("a"), "embed der", kind, None, True),
        ActorHandle(ActorId("b"), "Stage", kind),
        ActorHandle(ActorId("c"), "Stage_0", kind, None, True),
        ActorHandle(ActorId("d"), "driver", kind, None, True),
    ]
    node: Any = InputNode()
    for handle in handles:
        node = handle.forward.bind(node)
    assert list(build_graph(node).actors) == ["embed_der", "Stage_1", "Stage_0", "driver_0"]
