"""`@remote` on functions, and the tasks that they make; on workers that are threads."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

import runtime
from channels.base import RemoteTraceback
from channels.errors import MessageTooLargeError, SerializationError
from channels.serialize import pack, unpack
from runtime import current
from runtime.calls import BoundCall, BoundReturn
from runtime.engine import ActorOptions
from runtime.errors import ActorDiedError, EngineError, GraphError, NoSuchMethodError, WrongArgumentsError
from runtime.functions import RemoteFunction

#: A watchdog: whoever needs this long hangs.
LIMIT = 30.0
#: Cannot be pickled: a function that were sent with what it uses of its module could not be sent.
_lock = threading.Lock()


@runtime.remote
def square(x: int, *, plus: int = 0) -> int:
    """Squares things."""
    return x * x + plus


@runtime.remote(num_cpus=0.5, num_returns=2)
def uses_lock(x: Any) -> tuple[Any, bool]:
    return x, _lock.locked()


@runtime.remote(name="a name")
def fail(text: str) -> None:
    raise LookupError(text)


@runtime.remote
def echo(*values: Any, **more: Any) -> Any:
    return values, more


@runtime.remote
def fibonacci(n: int) -> int:
    return n if n < 2 else sum(runtime.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))


@runtime.remote
def leave() -> None:
    raise SystemExit(3)


@runtime.remote
def generate() -> Iterator[int]:
    yield 1


@runtime.remote
async def generate_later() -> AsyncIterator[int]:
    yield 1


@runtime.remote
class Actor:
    def __init__(self) -> None:
        self.gate = threading.Event()

    def wait(self) -> str:
        assert self.gate.wait(LIMIT)
        return "open"

    def tasks(self, x: int) -> int:
        return runtime.get(square.remote(square.remote(x)))

    def call_back(self, other: Any, x: int) -> int:
        return runtime.get(through.remote(other, x))


@runtime.remote
def through(actor: Any, x: int) -> int:
    return runtime.get(actor.tasks.remote(x))


def open_gate(context: Any) -> None:
    context.instance.gate.set()


def plain(x: int) -> int:
    return x + 1


@pytest.fixture(scope="module")
def _threads() -> Iterator[None]:
    runtime.init(engine="threads", num_cpus=2, num_gpus=1)
    yield
    runtime.shutdown()


@pytest.fixture
def actor(_threads: None) -> Iterator[Any]:
    handle = Actor.remote()
    yield handle
    current.engine().call(handle, open_gate).result(LIMIT)
    runtime.kill(handle)


threads = pytest.mark.usefixtures("_threads")


# ---- what `remote` makes of a function ----


def test_decorated_function() -> None:
    assert isinstance(square, runtime.RemoteFunction)
    assert (square.__name__, square.__doc__, square.__module__) == ("square", "Squares things.", __name__)
    assert square.__qualname__ == "square"
    assert repr(square) == "RemoteFunction(square)"
    assert square.__wrapped__(3) == 9
    assert list(inspect.signature(square).parameters) == ["x", "plus"]


def test_direct_call() -> None:
    with pytest.raises(
        WrongArgumentsError, match=r"write square.remote\(...\) or square.bind\(...\), or square.__wrapped__\(...\)"
    ):
        square(3)


def test_what_a_function_has_not() -> None:
    with pytest.raises(NoSuchMethodError, match=r"the remote function square has no 'remot'; did you mean remote\?"):
        square.remot  # noqa: B018


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        (3, "@remote on 3: expected a class or a function"),
        (None, "@remote on None: expected a class or a function"),
        (len, "expected a class or a function written in Python; write remote(lambda"),
        (np.sin, "written in Python"),
        (functools.partial(plain, 1), "written in Python"),
        (staticmethod(plain), "a method cannot be remote alone"),
        (Actor.__wrapped__().wait, "a method cannot be remote without its object"),
        (square, r"it is remote already; write .options(...)"),
        (Actor, "it is remote already"),
    ],
)
def test_what_cannot_be_remote(target: Any, advice: str) -> None:
    for decorate in (runtime.remote, runtime.remote(num_cpus=1)):
        with pytest.raises(GraphError) as raised:
            decorate(target)
        assert advice in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_concurrency": 2}, "unknown function option 'max_concurrency'; the options are: name, num_returns, num_"),
        ({"max_retries": 2}, "unknown function option 'max_retries'"),
        ({"num_returns": 0}, "num_returns=0; expected a whole number of at least 1"),
        ({"num_returns": True}, "num_returns=True"),
        ({"num_gpus": 1.5}, "expected a whole number, or a share"),
        ({"num_cpus": None}, "num_cpus=None; expected a number of at least 0"),
        ({"runtime_env": {"pip": []}}, 'expected a dict {"env_vars"'),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError) as raised:
        square.options(**options)
    assert message in str(raised.value)
    with pytest.raises(GraphError):
        runtime.remote(**options)(plain)


def test_wrong_options_before_the_function() -> None:
    with pytest.raises(GraphError, match=r"unknown option 'max_retries'; the options of an actor are: .*function are:"):
        runtime.remote(max_retries=1)


@pytest.mark.parametrize(
    ("options", "asks", "of_actor"),
    [
        ({}, False, ActorOptions()),
        ({"name": "f", "num_returns": 2}, False, ActorOptions()),
        ({"num_cpus": 1}, True, ActorOptions()),
        ({"num_cpus": 0}, True, ActorOptions(num_cpus=0)),
        ({"num_gpus": 2}, True, ActorOptions(num_gpus=2)),
        ({"resources": {"disk": 1}}, True, ActorOptions(resources={"disk": 1})),
        ({"runtime_env": {}}, True, ActorOptions()),
    ],
)
def test_asks_for_resources(options: dict[str, Any], asks: bool, of_actor: ActorOptions) -> None:
    function = runtime.remote(**options)(plain)
    assert function.asks_for_resources is asks
    assert function.actor_options == of_actor
    assert function.options(name="other").asks_for_resources is asks


# ---- bind ----


def test_bind() -> None:
    call = square.bind(3, plus=1)
    assert isinstance(call, BoundCall)
    assert (call.handle, call.function, call.args, call.kwargs) == (None, square, (3,), {"plus": 1})
    assert repr(call) == "square.bind(...)"
    values = square.options(num_returns=2).bind(3)
    assert [type(value) for value in values] == [BoundReturn, BoundReturn]
    assert values[1].call.function.__wrapped__ is square.__wrapped__


@pytest.mark.parametrize("ask", [square.bind, square.remote])
def test_wrong_arguments(ask: Callable[..., Any]) -> None:
    with pytest.raises(WrongArgumentsError, match=r"square: .*'x'; its signature is square\(x, \*, plus=0\)"):
        ask()
    with pytest.raises(WrongArgumentsError, match="unexpected keyword argument 'times'"):
        ask(1, times=2)


@pytest.mark.parametrize("function", [generate, generate_later, runtime.remote(lambda: (yield))])
def test_generators(function: RemoteFunction) -> None:
    assert function._info.generator
    for ask in (function.bind, function.remote):
        with pytest.raises(GraphError, match="is a generator; a function returns its values at once: return a list"):
            ask()


# ---- sending ----


def test_travels_by_name() -> None:
    assert pickle.loads(pickle.dumps(square)) is square
    assert copy.deepcopy(uses_lock) is uses_lock
    assert unpack(pack([uses_lock]))[0] is uses_lock
    again = unpack(pack(uses_lock.options(num_returns=3)))
    assert again.__wrapped__ is uses_lock.__wrapped__
    assert again._options.num_returns == 3
    assert again._options.num_cpus == 0.5


def test_undecorated_function_travels_by_name() -> None:
    again = pickle.loads(pickle.dumps(runtime.remote(num_cpus=2)(plain)))
    assert again.__wrapped__ is plain
    assert again.actor_options.num_cpus == 2


def test_travels_by_value() -> None:
    captured = [1]
    function = runtime.remote(num_gpus=1)(lambda x: [*captured, x])
    again = unpack(pack(function))
    assert again.__wrapped__ is not function.__wrapped__
    assert again.__wrapped__(2) == [1, 2]
    assert again.actor_options == function.actor_options
    captured.append(5)
    assert unpack(pack(function)) is again, "captured when it is first sent, opened once"


def test_large_functions_are_not_kept() -> None:
    captured = np.zeros(2**18)
    function = runtime.remote(lambda: captured.sum())
    first, second = (unpack(pack(function)) for _ in range(2))
    assert first is not second
    assert second.__wrapped__() == 0


def test_functions_that_use_each_other() -> None:
    @runtime.remote
    def even(n: int) -> bool:
        return n == 0 or odd.__wrapped__(n - 1)

    @runtime.remote
    def odd(n: int) -> bool:
        return n != 0 and even.__wrapped__(n - 1)

    again = unpack(pack([even, odd]))
    assert [f.__wrapped__(7) for f in again] == [False, True]


def test_what_cannot_be_sent() -> None:
    lock = threading.Lock()
    function = runtime.remote(name="locks")(lambda: lock)
    with pytest.raises(SerializationError, match="the function locks cannot be sent: "):
        pack(function)
    with pytest.raises(SerializationError, match="the function locks cannot be sent: "):
        pack([function])


# ---- tasks ----


@threads
def test_remote() -> None:
    assert runtime.get([square.remote(i, plus=1) for i in range(20)]) == [i * i + 1 for i in range(20)]
    assert runtime.get(runtime.remote(lambda x: x + 1).remote(2)) == 3
    assert repr(square.remote(1)).startswith("ObjectRef(square, ")


@threads
def test_async_function() -> None:
    @runtime.remote
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return await square.remote(x)

    async def main() -> int:
        return await later.remote(3)

    assert runtime.get([later.remote(i) for i in range(5)]) == [0, 1, 4, 9, 16]
    assert asyncio.run(main()) == 9
    two = later.options(num_returns=2).remote(2)
    with pytest.raises(GraphError, match="later returned a int; num_returns=2 expects a tuple or list of as many"):
        runtime.get(two[1])


@threads
def test_arguments_of_any_name() -> None:
    assert runtime.get(echo.remote(1, function=2, self=3, call=4)) == ((1,), {"function": 2, "self": 3, "call": 4})


@threads
def test_num_returns() -> None:
    refs = uses_lock.remote(3)
    assert runtime.get(refs) == [3, False]
    assert repr(refs[1]).startswith("ObjectRef(uses_lock[1], ")
    wrong = echo.options(num_returns=3).remote(1)
    for ref in wrong:
        with pytest.raises(
            GraphError, match="echo returned 2 values; num_returns=3 expects a tuple or list of as many"
        ):
            runtime.get(ref)
    with pytest.raises(GraphError, match=r"<lambda> returned a generator; .* return a list"):
        runtime.get(runtime.remote(lambda: (x for x in "ab")).remote())


@threads
def test_exception() -> None:
    with pytest.raises(LookupError, match="nothing") as raised:
        runtime.get(fail.remote("nothing"))
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert "raise LookupError(text)" in str(raised.value.__cause__)
    (note,) = raised.value.__notes__
    assert note.startswith("raised in the function a name, in FunctionWorker(")


@threads
def test_death_of_another_is_the_functions_own_exception(actor: Any) -> None:
    victim = Actor.remote()
    runtime.kill(victim)

    @runtime.remote
    def ask(handle: Any) -> Any:
        return runtime.get(handle.wait.remote())

    with pytest.raises(ActorDiedError) as raised:
        runtime.get(ask.remote(victim))
    assert raised.value.actor == repr(victim)
    assert raised.value.reason == "killed by dagc.kill"
    assert "ask" in raised.value.__notes__[0]


@threads
def test_exit() -> None:
    for ref in [leave.remote() for _ in range(4)]:
        with pytest.raises(ActorDiedError) as raised:
            runtime.get(ref, timeout=LIMIT)
        assert raised.value.reason == "exited with code 3 while executing call; it had the function leave to run"
    assert runtime.get([square.remote(i) for i in range(8)]) == [i * i for i in range(8)]


@threads
def test_arguments_are_copied_at_once(actor: Any) -> None:
    blocked, items = actor.wait.remote(), [1]
    ref = echo.remote(blocked, items)
    items.append(2)
    current.engine().call(actor, open_gate).result(LIMIT)
    assert runtime.get(ref) == (("open", [1]), {})


@threads
def test_refs_as_arguments(actor: Any) -> None:
    assert runtime.get(square.remote(square.remote(2), plus=runtime.put(1))) == 17
    with pytest.raises(LookupError, match="upstream"):
        runtime.get(square.remote(fail.remote("upstream")))
    blocked = actor.wait.remote()
    waiting = [echo.remote(blocked) for _ in range(50)]
    assert runtime.get(square.remote(2)) == 4, "they are in nobody's way"
    current.engine().call(actor, open_gate).result(LIMIT)
    assert runtime.get(waiting) == [(("open",), {})] * 50


@threads
def test_long_chains() -> None:
    first, ref = square.remote(1), square.remote(0)
    for _ in range(500):
        ref = square.remote(ref)
    assert runtime.get(ref, timeout=LIMIT) == 0
    assert runtime.get(first) == 1


@threads
def test_failure_at_the_head_of_a_long_chain(actor: Any) -> None:
    """It is passed on without a recursion, through calls of actors, too."""
    blocked = actor.wait.remote()
    first = runtime.remote(lambda _: 1 / 0).remote(blocked)
    echoes = Actor.remote()
    task, call = first, first
    for _ in range(3000):
        task, call = square.remote(task), echoes.tasks.remote(call)
    current.engine().call(actor, open_gate).result(LIMIT)
    for ref in (task, call):
        with pytest.raises(ZeroDivisionError):
            runtime.get(ref, timeout=LIMIT)
    runtime.kill(echoes)


@threads
def test_value_that_cannot_be_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.messages.MAX_MESSAGE_BYTES", 20_000)
    half = runtime.put(np.zeros(1500))
    with pytest.raises(MessageTooLargeError, match="echo: its arguments take 2"):
        runtime.get(echo.remote(half, half))
    with pytest.raises(MessageTooLargeError, match="echo: its arguments"):
        echo.remote(np.zeros(3000))
    assert runtime.get(square.remote(2)) == 4


@threads
def test_what_is_no_value() -> None:
    with pytest.raises(GraphError, match=r"square: square.bind\(...\) is a value of a DAG"):
        square.remote(square.bind(1))
    with pytest.raises(SerializationError, match="pass it as an argument of its own"):
        echo.remote([square.remote(1)])
    with pytest.raises(SerializationError):
        echo.remote(threading.Lock())


@threads
def test_what_the_session_does_not_have() -> None:
    for options in ({"num_cpus": 3}, {"num_gpus": 2}, {"resources": {"disk": 1}}):
        (name,) = options
        with pytest.raises(
            GraphError, match=r"the function square cannot run: actor FunctionWorker.* asks for"
        ) as raised:
            runtime.get(square.options(**options).remote(1), timeout=LIMIT)
        assert ("disk" if name == "resources" else name) in str(raised.value)
    assert runtime.get(square.remote(2)) == 4


@threads
def test_gpu_is_free_when_the_result_is_there() -> None:
    for _ in range(3):
        assert runtime.get([square.options(num_gpus=1).remote(i) for i in range(3)]) == [0, 1, 4]
        runtime.kill(Actor.options(num_gpus=1).remote())


@threads
@pytest.mark.parametrize("depth", [1, 7])
def test_nested_tasks(depth: int) -> None:
    assert runtime.get(fibonacci.remote(depth), timeout=LIMIT) == {1: 1, 7: 13}[depth]


@threads
def test_tasks_through_actors(actor: Any) -> None:
    """A task asks an actor, which submits tasks: more of them at a time than there are workers."""
    others = [Actor.remote() for _ in range(6)]
    refs = [through.remote(other, 2) for other in others]
    assert runtime.get(refs, timeout=LIMIT) == [16] * 6
    assert runtime.get(actor.call_back.remote(others[0], 2), timeout=LIMIT) == 16
    for other in others:
        runtime.kill(other)


def test_shutdown_fails_what_waits() -> None:
    aside = current.started()
    assert aside is not None
    current.clear(aside)
    try:
        runtime.init(engine="threads", num_cpus=1)
        engine, actor = current.engine(), Actor.remote()
        blocked = actor.wait.remote()
        refs = [echo.remote(blocked), *(wait_for.remote(actor) for _ in range(5))]
        runtime.shutdown()
        for ref in refs:
            with pytest.raises((EngineError, ActorDiedError)):
                runtime.get(ref, timeout=LIMIT)
        with pytest.raises(EngineError, match="was shut down"):
            engine.submit(square.bind(1))
    finally:
        runtime.shutdown()
        if aside is not None:
            current.install(lambda: aside)


@runtime.remote
def wait_for(actor: Any) -> Any:
    return runtime.get(actor.wait.remote())
