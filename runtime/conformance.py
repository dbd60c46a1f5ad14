"""check_engine: what every engine does, as code. The numbers are those of the rules in runtime/engine.py.

Import it from runtime.testing. It needs no pytest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from channels.base import RemoteTraceback
from runtime.calls import BoundCall
from runtime.conformance_subject import (
    LIMIT_S,
    Waiting,
    collect,
    error_of,
    fail,
    gates,
    get,
    later,
    leave,
    loop_until_gate,
    new,
    open_gate,
    pair,
    refuse,
    run,
    submit,
    twice,
)
from runtime.engine import ActorOptions, Engine
from runtime.errors import ActorDiedError, EngineError, GetTimeoutError, GraphError

if TYPE_CHECKING:
    from runtime.ids import ActorId

__all__ = ["check_engine"]


def check_engine(start: Callable[[], Engine]) -> None:
    """Raise AssertionError if the engine that `start` makes breaks a rule. Starts one, and shuts it down."""
    engine = start()
    try:
        for check in _CHECKS:
            check(engine)
    finally:
        engine.shutdown()
        for gate in gates:
            gate.set()
        gates.clear()
    _check_shut_down(engine)


def _check_constructor_failure(engine: Engine) -> None:
    """1: everybody who waits gets ActorDiedError with the constructor's exception as its cause."""
    handle = new(engine, -1)
    error = error_of(submit(engine, handle, "echo", 1))
    assert isinstance(error, ActorDiedError), error
    assert isinstance(error.__cause__, LookupError), error.__cause__
    assert isinstance(error.__cause__.__cause__, RemoteTraceback)
    (info,) = engine.describe([handle])
    assert info.death is not None


def _check_order(engine: Engine) -> None:
    """2: submit order, also where an argument is still on its way."""
    slow, fast = new(engine), new(engine)
    pending = submit(engine, slow, "block")
    refs = [submit(engine, fast, "keep", pending), *(submit(engine, fast, "keep", i) for i in range(50))]
    engine.call(slow, open_gate).result(LIMIT_S)
    assert get(refs) == list(range(1, 52))
    assert get(submit(engine, fast, "all_seen")) == ["opened", *range(50)]


def _check_concurrency(engine: Engine) -> None:
    """2: as many at the same time as max_concurrency says, async methods on the actor's event loop."""
    handle = new(engine, max_concurrency=3)
    assert max(get([submit(engine, handle, "meet", 3) for _ in range(3)])) == 3
    assert get([submit(engine, handle, "later", i) for i in range(10)]) == list(range(10))
    assert isinstance(error_of(submit(engine, handle, "fail_later")), LookupError)
    waiter = new(engine)
    waiting = submit(engine, waiter, "never")
    assert engine.call(waiter, collect).result(LIMIT_S)
    assert not waiting.future().done(), "the garbage collector took a method that waits"
    engine.kill(waiter)


def _check_results(engine: Engine) -> None:
    """3: values any number of times; exceptions of their own type, with traceback and note; the actor lives on."""
    handle = new(engine)
    ref = submit(engine, handle, "echo", {"a": [1, 2]})
    assert get(ref) == get(ref) == {"a": [1, 2]}
    error = error_of(submit(engine, handle, "fail", "no such thing"))
    assert type(error) is LookupError
    assert error.args == ("no such thing",)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in fail" in str(error.__cause__)
    assert any("Subject" in note and "fail" in note for note in getattr(error, "__notes__", ()))
    returned = get(submit(engine, handle, "echo", LookupError("a value")))
    assert isinstance(returned, LookupError), "a returned exception is a value"
    failed = submit(engine, handle, "fail", "upstream")
    assert isinstance(error_of(submit(engine, handle, "echo", failed)), LookupError), "a failed argument fails the call"
    assert isinstance(error_of(submit(engine, handle, "generate")), GraphError)
    assert get(submit(engine, handle, "echo", 1)) == 1


def _check_num_returns(engine: Engine) -> None:
    """3: k values are k refs; a wrong count fails each of them."""
    handle = new(engine)
    method = handle.three.options(num_returns=3)
    assert get(engine.submit(method.bind()[0].call)) == [1, 2, 3]
    wrong = engine.submit(handle.three.options(num_returns=2).bind()[0].call)
    assert isinstance(wrong, list)
    assert [type(error_of(ref)) for ref in wrong] == [GraphError, GraphError]


def _check_isolation(engine: Engine) -> None:
    """4: nobody shares writable memory."""
    handle = new(engine)
    array, items = np.zeros(1000), [1]
    kept = [submit(engine, handle, "keep", array), submit(engine, handle, "keep", items)]
    array[:] = 7
    items.append(2)
    get(kept)
    seen = get(submit(engine, handle, "all_seen"))
    assert not seen[0].any()
    assert seen[1] == [1]
    seen[1].append(3)
    assert get(submit(engine, handle, "all_seen"))[1] == [1]


def _check_call_and_loop(engine: Engine) -> None:
    """5: a busy actor can still be asked, and run loops."""
    handle = new(engine)
    blocked = submit(engine, handle, "block")
    loop = engine.start_loop(handle, loop_until_gate, 5)
    broken = engine.start_loop(handle, loop_until_gate, 0)
    assert loop.ready.result(LIMIT_S) == "ready 5"
    assert broken.ready.result(LIMIT_S) == "ready 0"
    refused = engine.start_loop(handle, loop_until_gate, -1)
    for future in (refused.ready, refused.done):
        assert isinstance(future.exception(LIMIT_S), LookupError)
    asked = engine.call(handle, refuse, "nothing").exception(LIMIT_S)
    assert isinstance(asked, LookupError)
    assert "nothing" in str(asked)
    assert "Subject" in engine.call(handle, open_gate).result(LIMIT_S)
    assert get(blocked) == "opened"
    assert loop.done.result(LIMIT_S) == "done 5"
    assert isinstance(broken.done.exception(LIMIT_S), LookupError)


def _check_deaths(engine: Engine) -> None:
    """6: whoever waits, watches or calls later hears of a death, once."""
    killed, exits = new(engine, name="victim"), new(engine)
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
    blocked, loop = submit(engine, killed, "block"), engine.start_loop(killed, loop_until_gate, 1)
    assert loop.ready.result(LIMIT_S) == "ready 1"
    engine.kill(killed)
    for error in (error_of(blocked), loop.done.exception(LIMIT_S), error_of(submit(engine, killed, "echo", 1))):
        assert isinstance(error, ActorDiedError), error
        assert error.reason == "killed by dagc.kill", error
        assert error.actor == infos[0].label
        assert error.pid == infos[0].pid
    left = error_of(submit(engine, exits, "exit", 3))
    assert isinstance(left, ActorDiedError), left
    assert left.reason == "exited with code 3 while executing exit", left
    assert "exited with code 3" in left.reason
    assert "exit" in left.reason
    assert both.acquire(timeout=LIMIT_S)
    assert both.acquire(timeout=LIMIT_S)
    assert {actor: len(deaths) for actor, deaths in heard.items()} == {killed._actor_id: 1, exits._actor_id: 1}
    watch.cancel()
    late = engine.watch([killed], on_death)
    assert both.acquire(timeout=LIMIT_S), "a watch of a dead actor tells at once"
    late.cancel()
    engine.kill(killed)
    deaths = [info.death for info in engine.describe([killed, exits])]
    assert all(isinstance(death, ActorDiedError) for death in deaths)
    new(engine, name="victim")  # the name is free again


def _check_functions(engine: Engine) -> None:
    """7: functions run somewhere; what they return and raise arrives as from a method, and names them."""
    assert get([run(engine, twice, run(engine, twice, i)) for i in range(5)]) == [0, 4, 8, 12, 16]
    handle = new(engine)
    blocked = submit(engine, handle, "block")
    waiting = [run(engine, later, blocked) for _ in range(20)]
    assert get(run(engine, twice, 1)) == 2, "tasks that wait for arguments are in nobody's way"
    engine.call(handle, open_gate).result(LIMIT_S)
    assert get(waiting) == ["opened"] * 20
    error = error_of(run(engine, fail))
    assert type(error) is LookupError
    assert isinstance(error.__cause__, RemoteTraceback)
    assert any("the failing one" in note for note in getattr(error, "__notes__", ()))
    assert isinstance(error_of(run(engine, twice, run(engine, fail))), LookupError), "a failed argument fails the task"
    values = engine.submit(BoundCall(None, pair._info, ((1, 2),), {}, function=pair))
    assert get(values) == [1, 2]
    wrong = engine.submit(BoundCall(None, pair._info, (3,), {}, function=pair))
    assert isinstance(wrong, list)
    assert ["pair returned a int" in str(error_of(ref)) for ref in wrong] == [True, True]
    left = error_of(run(engine, leave, 3))
    assert isinstance(left, ActorDiedError), left
    assert "exited with code 3" in left.reason
    assert "leave" in left.reason
    too_much = error_of(run(engine, twice.options(resources={"unobtainium": 1}), 1))
    assert isinstance(too_much, GraphError), too_much
    assert get(run(engine, twice, 1)) == 2, "a worker that is dead is replaced"


def _check_describe_timeout(engine: Engine) -> None:
    """`describe` gives up when it is told to, and says who has not started."""
    ready, waiting = new(engine), engine.create_actor(Waiting, (), {}, ActorOptions())
    assert get(submit(engine, ready, "echo", 1)) == 1
    late: GetTimeoutError | None = None
    try:
        engine.describe([ready, waiting], timeout=1.0)
    except GetTimeoutError as error:
        late = error
    assert late is not None, "describe did not wait for an actor to start"
    assert repr(waiting) in str(late), late
    assert repr(ready) not in str(late), late
    engine.kill(waiting)
    assert [info.death is None for info in engine.describe([ready, waiting], timeout=LIMIT_S)] == [True, False]


def _check_options(engine: Engine) -> None:
    """create_actor refuses a name that is taken and what the session does not have."""
    handle = new(engine, name="unique")
    for options in ({"name": "unique"}, {"resources": {"unobtainium": 1}}, {"num_cpus": 1e6}, {"num_gpus": 1e6}):
        try:
            new(engine, **options)
        except GraphError:
            continue
        raise AssertionError(f"create_actor took {options}")
    assert get(submit(engine, handle, "echo", 1)) == 1


def _check_shut_down(engine: Engine) -> None:
    """8: shutdown twice is allowed; afterwards there is an error, not a hang."""
    engine.shutdown()
    try:
        new(engine)
    except EngineError:
        return
    raise AssertionError("create_actor works on an engine that was shut down")


_CHECKS = (
    _check_constructor_failure,
    _check_order,
    _check_concurrency,
    _check_results,
    _check_num_returns,
    _check_isolation,
    _check_call_and_loop,
    _check_deaths,
    _check_functions,
    _check_describe_timeout,
    _check_options,
)
