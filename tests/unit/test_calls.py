"""Handles, methods and the record of a call."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

from runtime.calls import ActorHandle, BoundCall, BoundReturn, method, methods_of
from runtime.errors import GraphError, NoSuchMethodError, WrongArgumentsError
from runtime.ids import ActorId


class Base:
    def inherited(self, x: int) -> int:
        return x


class Stage(Base):
    limit = 3
    Nested = int

    def forward(self, x: Any, *, scale: float = 1.0, default: Any = object()) -> Any:  # noqa: B008
        return x, scale, default

    @method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return 1, 2

    @staticmethod
    def static(x: int) -> int:
        return x

    @classmethod
    def of_class(cls, x: int) -> int:
        return x

    @property
    def value(self) -> int:
        raise AssertionError("a property is not looked at")

    def __call__(self, x: int) -> int:
        return x

    def _private(self) -> None:
        pass


def make() -> ActorHandle:
    return ActorHandle(ActorId("a1"), "Stage", methods_of(Stage))


def test_methods() -> None:
    assert set(methods_of(Stage)) == {"__call__", "forward", "inherited", "of_class", "pair", "static"}
    assert {name: str(info.signature) for name, info in methods_of(Stage).items()} == {
        "__call__": "(x)",
        "forward": "(x, *, scale=1.0, default=...)",
        "inherited": "(x)",
        "of_class": "(x)",
        "pair": "()",
        "static": "(x)",
    }


def test_method_of_c() -> None:
    assert "append" in methods_of(list)
    assert methods_of(list)["append"].signature.bind(1)
    assert methods_of(dict)["update"].signature.bind({}, a=1)


def test_handle_pickles_without_its_class() -> None:
    handle = make()
    again = pickle.loads(pickle.dumps(handle))
    assert again == handle
    assert hash(again) == hash(handle)
    assert str(again.forward.bind(1).method.signature) == "(x, *, scale=1.0, default=...)"


def test_bind() -> None:
    call = make().forward.bind(1, scale=2)
    assert isinstance(call, BoundCall)
    assert (call.method.name, call.args, call.kwargs) == ("forward", (1,), {"scale": 2})
    assert repr(call) == "Stage.forward.bind(...)"


def test_several_returns() -> None:
    first, second = make().pair.bind()
    assert isinstance(first, BoundReturn)
    assert first.call is second.call
    assert [first.index, second.index] == [0, 1]
    assert len(make().forward.options(num_returns=3).bind(1)) == 3


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "2"])
def test_wrong_num_returns(count: Any) -> None:
    with pytest.raises(GraphError, match="at least 1"):
        make().forward.options(num_returns=count)
    with pytest.raises(GraphError, match="at least 1"):
        method(num_returns=count)(lambda self: None)


def test_no_such_method() -> None:
    with pytest.raises(
        NoSuchMethodError, match="actor Stage has no method 'backward'; its methods are: __call__, forw"
    ):
        make().backward  # noqa: B018
    assert not hasattr(make(), "_private")


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2), {}), ((1,), {"wrong": 1})])
def test_wrong_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(WrongArgumentsError, match=r"its signature is Stage.forward\(x, \*, scale=1.0, default=...\)"):
        make().forward.bind(*args, **kwargs)


def test_direct_call() -> None:
    with pytest.raises(WrongArgumentsError, match=r"write Stage\.forward\.remote"):
        make().forward(1)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("experimental_compile", r"write dagc\.compile\(node\)"),
        ("execute", r"write graph = dagc\.compile\(node\), then graph\.execute\(\.\.\.\); or dagc\.run"),
        ("aftr", "did you mean after"),
        ("shape", "it has: after, .*with_tensor_transport"),
    ],
)
def test_what_a_node_has_not(name: str, advice: str) -> None:
    call = make().forward.bind(1)
    with pytest.raises(NoSuchMethodError, match=rf"Stage\.forward\.bind\(\.\.\.\), a node.*no '{name}'; {advice}"):
        getattr(call, name)
    assert not hasattr(call, name)
    assert not hasattr(call, "__array__")


def test_what_a_method_has_not() -> None:
    with pytest.raises(NoSuchMethodError, match=r"Stage\.forward has no 'bnd'; did you mean bind\?"):
        make().forward.bnd  # noqa: B018
    found = pickle.loads(pickle.dumps(copy.copy(make().forward)))
    assert repr(found) == repr(make().forward)


@pytest.mark.parametrize(
    ("compute", "shown"),
    [
        (lambda call: call + 1, "{} + 1"),
        (lambda call: 2.0 * call, "2.0 * {}"),
        (lambda call: call @ call, "{} @ {}"),
        (lambda call: -call, "-{}"),
        (lambda call: call > 0, "{} > 0"),
    ],
)
def test_a_value_of_a_dag_cannot_be_computed_with(compute: Callable[[Any], Any], shown: str) -> None:
    call = make().forward.bind(1)
    found = re.escape(shown.replace("{}", repr(call)))
    with pytest.raises(
        GraphError, match=rf"^{found}: .*a value of a DAG that is not known yet.*function that is bound"
    ):
        compute(call)


@pytest.mark.parametrize("option", ["_static_shape", "_direct_return", "devise"])
def test_an_option_of_tensors_that_there_is_not(option: str) -> None:
    with pytest.raises(
        WrongArgumentsError, match=rf"no option '{option}'.*write spec=dagc\.TensorSpec\(shape, dtype\)"
    ):
        make().forward.bind(1).with_tensor_transport("nccl", **{option: True})


def test_a_value_of_a_dag_is_no_value() -> None:
    call = make().forward.bind(1)
    with pytest.raises(GraphError, match=r"^Stage\.forward\.bind\(\.\.\.\)\[0\]: .*bind a method with num_returns=k"):
        call[0]
    with pytest.raises(GraphError, match="cannot be unpacked"):
        _, _ = call
    with pytest.raises(GraphError, match="not known yet"):
        bool(call)
    with pytest.raises(GraphError, match="cannot be pickled"):
        pickle.dumps(call)
