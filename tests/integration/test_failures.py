"""Exceptions of a program's own classes, raised in actors: caught by their type, compiled and dynamically."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dagc
from dagc import InputNode

WATCHDOG = 30.0
Group: Any = getattr(builtins, "ExceptionGroup", None)


class Refused(ValueError):
    """What it is made of is not what `super().__init__` gets."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class HttpError(Exception):
    def __init__(self, message: str, *, response: Any) -> None:
        super().__init__(message)
        self.response = response


class BadReduce(ValueError):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Fails:
    """An actor whose methods raise."""

    def echo(self, x: Any) -> Any:
        return x

    def refused(self, code: int) -> None:
        raise Refused(code, "no room")

    def http(self, code: int) -> None:
        raise HttpError("busy", response={"code": code})

    def http_with_lock(self, code: int) -> None:
        error = HttpError("busy", response=threading.Lock())
        error.code = code  # type: ignore[attr-defined]
        raise error

    def bad_reduce(self, code: int) -> None:
        raise BadReduce(code)

    def unsendable(self, code: int) -> None:
        lock = threading.Lock()

        class Local(ValueError):
            def held(self) -> bool:
                return lock.locked()

        raise Local(f"local {code}")

    def group(self, code: int) -> None:
        raise Group("several", [KeyError(code), Refused(code, "no room"), HttpError("busy", response=threading.Lock())])


@pytest.fixture(scope="module", params=["threads", "embedded"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    dagc.init(engine=request.param)
    yield request.param
    dagc.shutdown()


@pytest.fixture(scope="module")
def actors(engine: str) -> list[Any]:
    kind = dagc.remote(Fails)
    return [kind.remote() for _ in range(2)]


def compiled(actors: list[Any], method: str, x: Any) -> Any:
    """The failure passes through another actor, which sends it on."""
    with InputNode() as given:
        value = actors[1].echo.bind(getattr(actors[0], method).bind(given))
    with dagc.compile(value, timeout=WATCHDOG) as graph:
        return graph.execute(x).get()


def dynamically(actors: list[Any], method: str, x: Any) -> Any:
    return dagc.get(actors[1].echo.remote(getattr(actors[0], method).remote(x)), timeout=WATCHDOG)


Caller = Callable[[list[Any], str, Any], Any]
both = pytest.mark.parametrize("call", [compiled, dynamically])


@both
def test_an_exception_is_caught_by_its_type_and_has_its_attributes(actors: list[Any], call: Caller) -> None:
    with pytest.raises(Refused, match="no room") as caught:
        call(actors, "refused", 7)
    error = caught.value
    assert (error.code, error.reason, error.args, str(error)) == (7, "no room", ("no room (7)",), "no room (7)")
    assert "in refused" in str(error.__cause__)
    assert any("refused" in note for note in error.__notes__)  # type: ignore[attr-defined]
    with pytest.raises(HttpError, match="busy") as also:
        call(actors, "http", 429)
    assert also.value.response == {"code": 429}


@both
def test_what_cannot_be_sent_of_an_exception_is_left_out(actors: list[Any], call: Caller) -> None:
    with pytest.raises(HttpError, match="busy") as caught:
        call(actors, "http_with_lock", 429)
    error: Any = caught.value
    assert error.code == 429
    assert not hasattr(error, "response")
    assert [note for note in error.__notes__ if note.startswith("HttpError.response was not sent")]


@both
def test_an_exception_whose_own_methods_raise(actors: list[Any], call: Caller) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text raises
        call(actors, "bad_reduce", 7)
    assert type(caught.value) is BadReduce
    assert caught.value.args == (7,)
    assert call(actors, "echo", 5) == 5


@both
def test_of_a_class_that_cannot_be_sent_the_text_arrives(actors: list[Any], call: Caller) -> None:
    with pytest.raises(dagc.SerializationError, match=r"Local: local 7 .*its class cannot be pickled") as caught:
        call(actors, "unsendable", 7)
    assert "in unsendable" in str(caught.value.__cause__)


@both
@pytest.mark.skipif(Group is None, reason="ExceptionGroup came with Python 3.11")
def test_the_members_of_a_group(actors: list[Any], call: Caller) -> None:
    with pytest.raises(Group, match="several") as caught:
        call(actors, "group", 7)
    key, refused, http = caught.value.exceptions
    assert (type(key), type(refused), type(http)) == (KeyError, Refused, HttpError)
    assert refused.code == 7
    assert "HttpError.response was not sent" in http.__notes__[0]


def test_a_compiled_graph_is_no_argument(actors: list[Any]) -> None:
    with InputNode() as x:
        value = actors[0].echo.bind(x)
    with dagc.compile(value, name="inner", timeout=WATCHDOG) as graph:
        for given in (graph, [graph]):
            with pytest.raises(
                dagc.SerializationError, match="belongs to the process that compiled it; pass values, or"
            ):
                actors[1].echo.remote(given)
            with pytest.raises(dagc.SerializationError, match=r"CompiledGraph\(inner, 1 actors, running\) cannot be"):
                graph.execute(given)
        assert graph.execute(5).get() == 5


class Pair:
    def both(self, x: Any, other: Any) -> Any:
        return x, other


def identity(x: Any) -> Any:
    return x


def test_what_was_bound_and_cannot_be_sent_is_named(engine: str) -> None:
    stage = dagc.remote(Pair).remote()
    with InputNode() as x:
        constant = stage.both.bind(stage.both.bind(x, 1), other=[threading.Lock()])
    with pytest.raises(dagc.SerializationError, match=r"^Pair_0\.both#1, argument other=: a value of type list cannot"):
        dagc.compile(constant)
    with pytest.raises(
        dagc.SerializationError, match=r"\.both, argument other=: a value of type list cannot be pickled"
    ):
        dagc.run(constant, 1)
    with pytest.raises(dagc.SerializationError, match=r"^identity, positional argument 1: a value of type lock cannot"):
        dagc.remote(identity).remote(threading.Lock())
    with InputNode() as x:
        fine = stage.both.bind(x, 1)
    with dagc.compile(fine) as graph:
        assert graph.execute(2).get(timeout=WATCHDOG) == (2, 1)
