"""The session of this process: init and shutdown, and what is done with refs and handles in between."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_futures
from typing import TYPE_CHECKING, Any, NoReturn

from channels.serialize import pack
from runtime import current
from runtime.calls import ActorHandle
from runtime.embedded.engine import EmbeddedEngine
from runtime.errors import GetTimeoutError, GraphError, WrongArgumentsError
from runtime.outcomes import open_value
from runtime.planning import PlanningEngine
from runtime.refs import ObjectRef
from runtime.testing import ThreadEngine
from runtime.timeouts import check_timeout

if TYPE_CHECKING:
    from runtime.engine import Engine

__all__ = ["get", "get_until", "init", "kill", "put", "shutdown", "wait"]

#: How long a process that was killed may take to go: one in the middle of a system call that cannot be interrupted.
GONE_SECONDS = 5.0


def init(
    engine: str = "embedded",
    *,
    num_cpus: float | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    **unknown: NoReturn,
) -> None:
    """Start the engine of this process: "embedded" (actors are processes), "threads" (for debuggers), or "plan".

    With "plan" nothing is ever started: graphs that this machine has no room for can be planned and looked at.

    num_cpus, num_gpus, resources: what actors may ask for; by default what the machine has, and no custom resources;
    with "plan" whatever they ask for. About num_cpus tasks, which are functions called with `.remote()`, run at once.
    Raises EngineError if one is running already, GraphError for an engine or an option that does not exist.
    """
    if unknown:
        raise GraphError(
            f"init has no option {next(iter(unknown))!r}; its options are: engine, num_cpus, num_gpus, resources"
        )
    starts: dict[str, Callable[..., Engine]] = {
        "embedded": EmbeddedEngine.start,
        "threads": ThreadEngine.start,
        "plan": PlanningEngine.start,
    }
    if engine not in starts:
        raise GraphError(f"engine={engine!r}; the engines are: {', '.join(starts)}")
    start = starts[engine]
    current.install(lambda: start(num_cpus, num_gpus, resources))


def shutdown() -> None:
    """End the engine and everything that it started. Without an engine, or a second time, it does nothing.

    Raises EngineError inside an actor: the session belongs to the process that called init.
    """
    engine = current.started()
    if engine is not None:
        engine.shutdown()
        current.clear(engine)


def get(refs: Any, timeout: float | None = None) -> Any:
    """The value of an ObjectRef, or the values of a list of them; raises what the method raised.

    `timeout`: seconds, for all of them together; then GetTimeoutError, after which `get` may be repeated.
    """
    check_timeout(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    if isinstance(refs, ObjectRef):
        return get_until(refs, timeout, deadline)
    return [get_until(ref, timeout, deadline) for ref in _checked(refs, "get")]


def put(value: Any) -> ObjectRef:
    """A ref of a value that is there already, to be passed to many calls. The value is copied."""
    if isinstance(value, ObjectRef):
        raise WrongArgumentsError(f"put({value!r}): it is a ref already; pass it as it is")
    current.engine()
    future: Future[Any] = Future()
    future.set_result(open_value(pack(value)))
    return ObjectRef(future, "put")


def wait(
    refs: Sequence[ObjectRef], num_returns: int = 1, timeout: float | None = None
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Wait until `num_returns` of the refs are ready, or for `timeout` seconds: (ready, pending), each in their order.

    At most `num_returns` are given as ready, as on Ray, so that one more `wait` for the pending ones loses nothing.
    A ref that failed is ready. Raises GraphError for num_returns out of range or a ref that is given twice.
    """
    check_timeout(timeout)
    checked = _checked(refs, "wait")
    if len(set(checked)) < len(checked):
        raise GraphError("wait: the same ref is given twice")
    if not 1 <= num_returns <= len(checked):
        raise GraphError(f"wait: num_returns={num_returns}; expected 1 to {len(checked)}, the number of refs")
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        pending = [ref.future() for ref in checked if not ref.future().done()]
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if len(checked) - len(pending) >= num_returns or left == 0:
            break
        current.check_thread("wait")
        wait_futures(pending, left, FIRST_COMPLETED)
    ready = [ref for ref in checked if ref.future().done()][:num_returns]
    taken = set(ready)
    return ready, [ref for ref in checked if ref not in taken]


def kill(handle: ActorHandle) -> None:
    """End an actor at once, without a chance to clean up: what it was asked fails with ActorDiedError.

    Returns when it is gone, so that nothing asked from then on is answered; or after GONE_SECONDS.
    """
    if not isinstance(handle, ActorHandle):
        raise WrongArgumentsError(f"kill({handle!r}): expected the handle of an actor")
    gone = threading.Event()
    engine = current.engine()
    if current.thread.own:  # which hears of the death: it cannot wait for it
        engine.kill(handle)
        return
    watch = engine.watch([handle], lambda *_: gone.set())
    try:
        engine.kill(handle)
        gone.wait(GONE_SECONDS)
    finally:
        watch.cancel()


def get_until(ref: ObjectRef, timeout: float | None, deadline: float | None) -> Any:
    """`get`, until a deadline of time.monotonic; `timeout`: what to tell of it."""
    if not ref.future().done():
        current.check_thread(f"get({ref!r})")
    try:
        error = ref.future().exception(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except FutureTimeoutError:
        raise GetTimeoutError(f"{ref!r} was not there within {timeout} s; it may be got again") from None
    if error is not None:
        # The same exception is raised by every get: without this, each would add its frames to it.
        raise error.with_traceback(None)
    return ref.future().result()


def _checked(refs: Any, what: str) -> list[ObjectRef]:
    if not isinstance(refs, (list, tuple)):
        raise WrongArgumentsError(f"{what}({refs!r}): expected an ObjectRef or a list of them")
    for index, ref in enumerate(refs):
        if not isinstance(ref, ObjectRef):
            raise WrongArgumentsError(f"{what}: element {index} is {ref!r}; expected an ObjectRef")
    return list(refs)


current.set_default(EmbeddedEngine.start)
atexit.register(shutdown)
