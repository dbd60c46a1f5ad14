"""`@remote`, and what is done with refs; on actors that are threads."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import runtime
from channels.base import RemoteTraceback
from channels.errors import SerializationError
from runtime.errors import (
    ActorDiedError,
    EngineError,
    GetTimeoutError,
    GraphError,
    NoSuchMethodError,
    WrongArgumentsError,
)
from runtime.refs import ObjectRef, new_result


class Plain:
    """Does things."""

    def __init__(self, start: int, *, step: int = 1) -> None:
        self.value = start
        self.step = step

    def add(self) -> int:
        self.value += self.step
        return self.value

    def echo(self, value: Any) -> Any:
        return value

    def fail(self) -> None:
        raise LookupError("no")

    def stop(self) -> None:
        raise StopIteration(3)

    def unpicklable(self) -> Any:
        return threading.Lock()

    def fail_unpicklable(self) -> None:
        error = LookupError("with a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    @runtime.method(num_returns=2)
    def pair(self) -> list[int]:
        return [1, 2]


Remote = runtime.remote(Plain)


@pytest.fixture(scope="module")
def _threads() -> Iterator[None]:
    runtime.init(engine="threads", num_gpus=1)
    yield
    runtime.shutdown()


@pytest.fixture
def actor(_threads: None) -> Iterator[Any]:
    handle = Remote.remote(1)
    yield handle
    runtime.kill(handle)


def test_decorated_class() -> None:
    assert isinstance(Remote, runtime.ActorClass)
    assert (Remote.__name__, Remote.__doc__, Remote.__module__) == ("Plain", "Does things.", __name__)
    assert repr(Remote) == "ActorClass(Plain)"
    assert Remote.__wrapped__ is Plain


def test_direct_instantiation() -> None:
    with pytest.raises(GraphError, match=r"write Plain.remote\(...\) instead of Plain\(...\)"):
        Remote(1)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("bind", r"make an actor, actor = Plain\.remote\(\.\.\.\), and bind its methods"),
        (
            "echo",
            r"its actors have: write actor = Plain\.remote\(\.\.\.\), then actor\.echo; or Plain\.__wrapped__\.echo",
        ),
        ("optoins", r"did you mean options\?"),
    ],
)
def test_what_an_actor_class_has_not(name: str, advice: str) -> None:
    with pytest.raises(NoSuchMethodError, match=rf"the actor class Plain has no '{name}'; {advice}"):
        getattr(Remote, name)
    assert not hasattr(Remote, name)
    assert not hasattr(Remote, "__file__")


def test_inheritance() -> None:
    with pytest.raises(GraphError, match="cannot be a base"):

        class Child(Remote):  # type: ignore[misc, valid-type]
            pass


def test_two_targets() -> None:
    with pytest.raises(GraphError, match="takes one class or function, found 2"):
        runtime.remote(Plain, Plain)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cpus": -1}, "num_cpus=-1; expected a number of at least 0"),
        ({"num_cpus": float("nan")}, "num_cpus=nan"),
        ({"num_gpus": 1.5}, "expected a whole number, or a share"),
        ({"max_concurrency": 0}, "max_concurrency=0; expected a whole number of at least 1"),
        ({"max_concurrency": True}, "max_concurrency=True"),
        ({"name": ""}, "name=''; expected a string"),
        ({"resources": {"disk": "much"}}, "expected a dict of names and numbers"),
        ({"runtime_env": {"pip": []}}, 'expected a dict {"env_vars"'),
        ({"runtime_env": {"env_vars": {"A": 1}}}, "of strings"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError) as raised:
        runtime.remote(**options)
    assert message in str(raised.value)
    with pytest.raises(GraphError):
        Remote.options(**options)


def test_unknown_options() -> None:
    with pytest.raises(GraphError, match="unknown option 'max_restarts'; the options of an actor are: name, num_cpus"):
        runtime.remote(max_restarts=1)
    with pytest.raises(GraphError, match="unknown actor option 'max_restarts'; the options are: name, num_cpus"):
        Remote.options(max_restarts=1)
    with pytest.raises(GraphError, match="unknown actor option 'num_returns'; the options are: name, num_cpus"):
        runtime.remote(num_returns=2)(Plain)


#: Cannot be pickled: a class that were sent with what it uses of its module could not travel.
_lock = threading.Lock()


@runtime.remote
class Decorated:
    def locked(self) -> bool:
        return _lock.locked()


def test_decorated_class_with_options_travels_by_name() -> None:
    assert pickle.loads(pickle.dumps(Decorated)) is Decorated
    again = pickle.loads(pickle.dumps(Decorated.options(num_cpus=0)))
    assert again.__wrapped__ is Decorated.__wrapped__
    assert again._options.num_cpus == 0


@pytest.mark.usefixtures("_threads")
def test_constructor_arguments() -> None:
    with pytest.raises(WrongArgumentsError, match=r"Plain.remote: .*'start'; its signature is \(start: "):
        Remote.remote()
    handle = Remote.options(name="counter").remote(5, step=2)
    assert repr(handle).startswith("counter(")
    assert runtime.get(handle.add.remote()) == 7
    runtime.kill(handle)


@pytest.mark.usefixtures("_threads")
def test_constructor_takes_refs() -> None:
    handle = Remote.remote(runtime.put(5))
    assert runtime.get(handle.add.remote()) == 6
    failed = Remote.remote(handle.fail.remote())
    with pytest.raises(ActorDiedError, match="an argument of its constructor failed") as raised:
        runtime.get(failed.add.remote())
    assert isinstance(raised.value.__cause__, LookupError)
    runtime.kill(handle)


def test_get_list_and_put(actor: Any) -> None:
    refs = [actor.echo.remote(i) for i in range(3)]
    assert runtime.get(refs) == [0, 1, 2]
    value = [1]
    ref = runtime.put(value)
    value.append(2)
    assert runtime.get(actor.echo.remote(ref)) == [1]
    with pytest.raises(WrongArgumentsError, match="it is a ref already"):
        runtime.put(ref)


def test_num_returns(actor: Any) -> None:
    refs = actor.pair.remote()
    assert runtime.get(refs) == [1, 2]
    assert repr(refs[1]).startswith("ObjectRef(Plain(")


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("what", [1, "ref", None, [1]])
def test_get_of_something_else(what: Any) -> None:
    with pytest.raises(WrongArgumentsError, match="expected an ObjectRef"):
        runtime.get(what)


def test_get_timeout_may_be_repeated() -> None:
    future = new_result()
    ref = ObjectRef(future, "Stage(a).forward")
    with pytest.raises(GetTimeoutError, match=r"ObjectRef\(Stage\(a\).forward, pending\) was not there within 0.0 s"):
        runtime.get([ref], timeout=0.0)
    future.set_result(4)
    assert runtime.get(ref, timeout=0) == 4


def test_exceptions_do_not_grow(actor: Any) -> None:
    ref = actor.fail.remote()
    seen = set()
    for _ in range(3):
        with pytest.raises(LookupError) as raised:
            runtime.get(ref)
        seen.add("".join(traceback.format_exception(type(raised.value), raised.value, raised.value.__traceback__)))
        assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert len(seen) == 1
    (text,) = seen
    assert text.count("raised in Plain(") == 1
    assert "raise LookupError" in text


def test_awaited_exceptions_do_not_grow(actor: Any) -> None:
    ref = actor.fail.remote()

    async def depths() -> set[int]:
        found = set()
        for _ in range(3):
            with pytest.raises(LookupError) as raised:
                await ref
            found.add(len(traceback.extract_tb(raised.value.__traceback__)))
        return found

    assert len(asyncio.run(depths())) == 1


def test_stop_iteration(actor: Any) -> None:
    async def wait() -> Any:
        return await actor.stop.remote()

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(wait())


def test_what_cannot_be_pickled(actor: Any) -> None:
    with pytest.raises(
        SerializationError, match=r"\.echo, positional argument 1: a value of type lock cannot be pickled"
    ):
        actor.echo.remote(threading.Lock())
    with pytest.raises(SerializationError):
        runtime.get(actor.unpicklable.remote())
    with pytest.raises(LookupError, match="lock was not sent") as raised:
        runtime.get(actor.fail_unpicklable.remote())
    assert "in fail_unpicklable" in str(raised.value.__cause__)
    assert runtime.get(actor.echo.remote(1)) == 1


def test_refs_do_not_travel(actor: Any) -> None:
    ref = actor.echo.remote(1)
    with pytest.raises(SerializationError, match="pass it as an argument of its own"):
        actor.echo.remote([ref])
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(ref)
    with pytest.raises(GraphError, match="value of a DAG"):
        actor.echo.remote(actor.echo.bind(1))


def test_cancelling_who_awaits_leaves_the_result(actor: Any) -> None:
    future = new_result()
    ref = ObjectRef(future, "slow")

    async def one() -> Any:
        return await ref

    async def main() -> Any:
        first, second = asyncio.ensure_future(one()), asyncio.ensure_future(one())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not future.cancelled()
        future.set_result(8)
        return await second

    assert asyncio.run(main()) == 8
    assert runtime.get(ref) == 8
    assert not future.cancel()


def test_failure_that_nobody_awaits_is_quiet(actor: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(_await(actor.fail.remote()))
        with pytest.raises(LookupError):
            await task

    asyncio.run(main())
    gc.collect()
    assert caplog.records == []


async def _await(ref: ObjectRef) -> Any:
    return await ref


def test_wait() -> None:
    futures = [new_result() for _ in range(3)]
    refs = [ObjectRef(future, str(i)) for i, future in enumerate(futures)]
    assert runtime.wait(refs, timeout=0) == ([], refs)
    futures[2].set_result(1)
    futures[1].set_exception(LookupError())
    assert runtime.wait(refs) == ([refs[1]], [refs[0], refs[2]])
    assert runtime.wait(refs, num_returns=2) == (refs[1:], refs[:1])
    assert runtime.wait(refs, num_returns=3, timeout=0) == (refs[1:], refs[:1])
    with pytest.raises(GraphError, match="expected 1 to 3"):
        runtime.wait(refs, num_returns=4)
    with pytest.raises(GraphError, match="twice"):
        runtime.wait([refs[0], refs[0]])


def test_arrays_come_back_whole(actor: Any) -> None:
    array = np.arange(100_000.0)
    assert np.array_equal(runtime.get(actor.echo.remote(array)), array)


@pytest.mark.usefixtures("_threads")
def test_second_init() -> None:
    with pytest.raises(EngineError, match=r"call dagc.shutdown\(\) before init"):
        runtime.init()


def test_unknown_engine() -> None:
    with pytest.raises(GraphError, match="the engines are: embedded, threads, plan"):
        runtime.init(engine="spark")


@pytest.mark.usefixtures("_threads")
def test_an_option_of_init_that_there_is_not() -> None:
    with pytest.raises(GraphError, match="init has no option 'address'; its options are: engine, num_cpus"):
        runtime.init(address="auto")  # type: ignore[arg-type]


def test_kill_of_something_else() -> None:
    with pytest.raises(WrongArgumentsError, match="expected the handle of an actor"):
        runtime.kill(3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_threads")
def test_resources_come_back() -> None:
    first = Remote.options(num_gpus=1).remote(1)
    with pytest.raises(GraphError, match="1 GPUs of which 0 are free"):
        Remote.options(num_gpus=1).remote(1)
    runtime.kill(first)
    runtime.kill(Remote.options(num_gpus=1).remote(1))
