"""check_engine: what every engine does, as code. The numbers are those of the rules in runtime/engine.py.

Import it from runtime.testing. It needs no pytest; the classes here are its actors, at the top of a module because an
actor's process imports them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from channels.base import RemoteTraceback
from runtime.engine import ActorContext, ActorOptions, Engine
from runtime.errors import ActorDiedError, EngineError, GraphError
from runtime.refs import ObjectRef

if TYPE_CHECKING:
    from runtime.calls import ActorHandle
    from runtime.ids import ActorId

__all__ = ["check_engine"]

#: A watchdog: an engine that needs this long hangs.
_LIMIT_S = 30.0
#: Of the actors in this process: a thread cannot be killed, so what waits there is let go at the end.
_gates: list[threading.Event] = []


class Subject:
    """An actor that does what the checks need."""

    def __init__(self, start: int = 0) -> None:
        if start < 0:
            raise LookupError("start below 0")
        self.seen: list[Any] = []
        self.start = start
        self.gate = threading.Event()
        _gates.append(self.gate)
        self.inside = 0
        self.most_inside = 0

    def echo(self, value: Any) -> Any:
        return value

    def keep(self, value: Any, also: Any = None) -> int:
        self.seen.append(value if also is None else (value, also))
        return len(self.seen)

    def all_seen(self) -> list[Any]:
        return self.seen

    def fail(self, text: str) -> None:
        raise LookupError(text)

    def three(self) -> tuple[int, int, int]:
        return 1, 2, 3

    def generate(self) -> Iterator[int]:
        yield 1

    def block(self) -> str:
        if not self.gate.wait(_LIMIT_S):
            raise TimeoutError("nobody opened the gate")
        return "opened"

    def open(self) -> None:
        self.gate.set()

    def meet(self, count: int) -> int:
        """Return once `count` calls are inside at the same time."""
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if self.inside >= count:
            self.gate.set()
        self.gate.wait(_LIMIT_S)
        return self.most_inside

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    async def fail_later(self) -> None:
        await asyncio.sleep(0)
        raise LookupError("later")

    def exit(self, code: int) -> None:
        raise SystemExit(code)


def open_gate(context: ActorContext) -> str:
    context.instance.gate.set()
    return context.label


def refuse(context: ActorContext, text: str) -> None:
    raise LookupError(f"{context.label} {text}")


def loop_until_gate(context: ActorContext, value: int) -> Generator[str, None, str]:
    if value < 0:
        raise LookupError("not set up")
    yield f"ready {value}"
    context.instance.gate.wait(_LIMIT_S)
    if value == 0:
        raise LookupError("broke")
    return f"done {value}"


def check_engine(start: Callable[[], Engine]) -> None:
    """Raise AssertionError if the engine that `start` makes breaks a rule. Starts one, and shuts it down."""
    engine = start()
    try:
        for check in _CHECKS:
            check(engine)
    finally:
        engine.shutdown()
        for gate in _gates:
            gate.set()
        _gates.clear()
    _check_shut_down(engine)


def _new(engine: Engine, *args: Any, **options: Any) -> ActorHandle:
    return engine.create_actor(Subject, args, {}, ActorOptions(**options))


def _get(ref: ObjectRef | Sequence[ObjectRef]) -> Any:
    if not isinstance(ref, ObjectRef):
        return [_get(one) for one in ref]
    return ref.future().result(_LIMIT_S)


def _error(ref: ObjectRef) -> BaseException:
    error = ref.future().exception(_LIMIT_S)
    assert error is not None, f"{ref} has a value; expected an exception"
    return error


def _check_constructor_failure(engine: Engine) -> None:
    """1: everybody who waits gets ActorDiedError with the constructor's exception as its cause."""
    handle = _new(engine, -1)
    error = _error(_submit(engine, handle, "echo", 1))
    assert isinstance(error, ActorDiedError), error
    assert isinstance(error.__cause__, LookupError), error.__cause__
    assert isinstance(error.__cause__.__cause__, RemoteTraceback)
    (info,) = engine.describe([handle])
    assert info.death is not None


def _check_order(engine: Engine) -> None:
    """2: submit order, also where an argument is still on its way."""
    slow, fast = _new(engine), _new(engine)
    pending = _submit(engine, slow, "block")
    refs = [_submit(engine, fast, "keep", pending), *(_submit(engine, fast, "keep", i) for i in range(50))]
    engine.call(slow, open_gate).result(_LIMIT_S)
    assert _get(refs) == list(range(1, 52))
    assert _get(_submit(engine, fast, "all_seen")) == ["opened", *range(50)]


def _check_concurrency(engine: Engine) -> None:
    """2: as many at the same time as max_concurrency says, async methods on the actor's event loop."""
    handle = _new(engine, max_concurrency=3)
    assert max(_get([_submit(engine, handle, "meet", 3) for _ in range(3)])) == 3
    assert _get([_submit(engine, handle, "later", i) for i in range(10)]) == list(range(10))
    assert isinstance(_error(_submit(engine, handle, "fail_later")), LookupError)


def _check_results(engine: Engine) -> None:
    """3: values any number of times; exceptions of their own type, with traceback and note; the actor lives on."""
    handle = _new(engine)
    ref = _submit(engine, handle, "echo", {"a": [1, 2]})
    assert _get(ref) == _get(ref) == {"a": [1, 2]}
    error = _error(_submit(engine, handle, "fail", "no such thing"))
    assert type(error) is LookupError
    assert error.args == ("no such thing",)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in fail" in str(error.__cause__)
    assert any("Subject" in note and "fail" in note for note in getattr(error, "__notes__", ()))
    returned = _get(_submit(engine, handle, "echo", LookupError("a value")))
    assert isinstance(returned, LookupError), "a returned exception is a value"
    failed = _submit(engine, handle, "fail", "upstream")
    assert isinstance(_error(_submit(engine, handle, "echo", failed)), LookupError), "a failed argument fails the call"
    assert isinstance(_error(_submit(engine, handle, "generate")), GraphError)
    assert _get(_submit(engine, handle, "echo", 1)) == 1


def _check_num_returns(engine: Engine) -> None:
    """3: k values are k refs; a wrong count fails each of them."""
    handle = _new(engine)
    method = handle.three.options(num_returns=3)
    assert _get(engine.submit(method.bind()[0].call)) == [1, 2, 3]
    wrong = engine.submit(handle.three.options(num_returns=2).bind()[0].call)
    assert isinstance(wrong, list)
    assert [type(_error(ref)) for ref in wrong] == [GraphError, GraphError]


def _check_isolation(engine: Engine) -> None:
    """4: nobody shares writable memory."""
    handle = _new(engine)
    array, items = np.zeros(1000), [1]
    kept = [_submit(engine, handle, "keep", array), _submit(engine, handle, "keep", items)]
    array[:] = 7
    items.append(2)
    _get(kept)
    seen = _get(_submit(engine, handle, "all_seen"))
    assert not seen[0].any()
    assert seen[1] == [1]
    seen[1].append(3)
    assert _get(_submit(engine, handle, "all_seen"))[1] == [1]


def _check_call_and_loop(engine: Engine) -> None:
    """5: a busy actor can still be asked, and run loops."""
    handle = _new(engine)
    blocked = _submit(engine, handle, "block")
    loop = engine.start_loop(handle, loop_until_gate, 5)
    broken = engine.start_loop(handle, loop_until_gate, 0)
    assert loop.ready.result(_LIMIT_S) == "ready 5"
    assert broken.ready.result(_LIMIT_S) == "ready 0"
    refused = engine.start_loop(handle, loop_until_gate, -1)
    for future in (refused.ready, refused.done):
        assert isinstance(future.exception(_LIMIT_S), LookupError)
    asked = engine.call(handle, refuse, "nothing").exception(_LIMIT_S)
    assert isinstance(asked, LookupError)
    assert "nothing" in str(asked)
    assert "Subject" in engine.call(handle, open_gate).result(_LIMIT_S)
    assert _get(blocked) == "opened"
    assert loop.done.result(_LIMIT_S) == "done 5"
    assert isinstance(broken.done.exception(_LIMIT_S), LookupError)


def _check_deaths(engine: Engine) -> None:
    """6: whoever waits, watches or calls later hears of a death, once."""
    killed, exits = _new(engine, name="victim"), _new(engine)
    infos = engine.describe([killed, exits])
    assert [info.death for info in infos] == [None, None]
    assert infos[0].label.startswith("victim(")
    assert infos[0].node == engine.here()
    heard: dict[ActorId, list[ActorDiedError]] = {}
    both = threading.Semaphore(0)

    def on_death(actor: ActorId, death: ActorDiedError) -> None:
        heard.setdefault(actor, []).append(death)
        both.release()

    watch = engine.watch([killed, exits], on_death)
    blocked, loop = _submit(engine, killed, "block"), engine.start_loop(killed, loop_until_gate, 1)
    assert loop.ready.result(_LIMIT_S) == "ready 1"
    engine.kill(killed)
    for error in (_error(blocked), loop.done.exception(_LIMIT_S), _error(_submit(engine, killed, "echo", 1))):
        assert isinstance(error, ActorDiedError), error
        assert error.reason == "killed by dagc.kill", error
        assert error.actor == infos[0].label
        assert error.pid == infos[0].pid
    left = _error(_submit(engine, exits, "exit", 3))
    assert isinstance(left, ActorDiedError), left
    assert left.reason == "exited with code 3 while executing exit", left
    assert "exited with code 3" in left.reason
    assert "exit" in left.reason
    assert both.acquire(timeout=_LIMIT_S)
    assert both.acquire(timeout=_LIMIT_S)
    assert {actor: len(deaths) for actor, deaths in heard.items()} == {killed._actor_id: 1, exits._actor_id: 1}
    watch.cancel()
    late = engine.watch([killed], on_death)
    assert both.acquire(timeout=_LIMIT_S), "a watch of a dead actor tells at once"
    late.cancel()
    engine.kill(killed)
    deaths = [info.death for info in engine.describe([killed, exits])]
    assert all(isinstance(death, ActorDiedError) for death in deaths)
    _new(engine, name="victim")  # the name is free again


def _check_options(engine: Engine) -> None:
    """create_actor refuses a name that is taken and what the session does not have."""
    handle = _new(engine, name="unique")
    for options in ({"name": "unique"}, {"resources": {"unobtainium": 1}}, {"num_cpus": 1e6}, {"num_gpus": 1e6}):
        try:
            _new(engine, **options)
        except GraphError:
            continue
        raise AssertionError(f"create_actor took {options}")
    assert _get(_submit(engine, handle, "echo", 1)) == 1


def _check_shut_down(engine: Engine) -> None:
    """7: shutdown twice is allowed; afterwards there is an error, not a hang."""
    engine.shutdown()
    try:
        _new(engine)
    except EngineError:
        return
    raise AssertionError("create_actor works on an engine that was shut down")


def _submit(engine: Engine, handle: ActorHandle, method: str, *args: Any) -> ObjectRef:
    ref = engine.submit(getattr(handle, method).bind(*args))
    assert isinstance(ref, ObjectRef)
    return ref


_CHECKS = (
    _check_constructor_failure,
    _check_order,
    _check_concurrency,
    _check_results,
    _check_num_returns,
    _check_isolation,
    _check_call_and_loop,
    _check_deaths,
    _check_options,
)
