"""init, shutdown and get, for both kinds of refs: what the runtime does, plus the compiled graphs."""

from __future__ import annotations

import atexit
import time
from typing import Any

import runtime
from dagc import open_graphs
from dagc.refs import ResultRef
from runtime.errors import WrongArgumentsError
from runtime.refs import ObjectRef
from runtime.session import get_until
from runtime.timeouts import check_timeout

__all__ = ["get", "shutdown"]

#: How long a graph that was left open may take to finish what is under way when the process ends.
SHUTDOWN_SECONDS = 5.0


def get(refs: Any, timeout: float | None = None) -> Any:
    """The value of a ref, or the values of a list of them; ResultRefs of graphs and ObjectRefs of calls, also mixed.

    `timeout`: seconds for all of them together, then GetTimeoutError, after which `get` may be repeated. None: as long
    as it takes, or for a ResultRef the timeout of its graph. Raises what the method raised.
    """
    check_timeout(timeout)
    return _get(refs, timeout, None if timeout is None else time.monotonic() + timeout)


def _get(refs: Any, timeout: float | None, deadline: float | None) -> Any:
    """`get`, until a deadline of time.monotonic; `timeout`: what to tell of it."""
    if isinstance(refs, ResultRef):
        return refs.get() if deadline is None else refs.get_within(max(0.0, deadline - time.monotonic()), timeout)
    if isinstance(refs, ObjectRef):
        return get_until(refs, timeout, deadline)
    if not isinstance(refs, (list, tuple)):
        raise WrongArgumentsError(f"get({refs!r}): expected a ref or a list of refs")
    return [_get(ref, timeout, deadline) for ref in refs]


def shutdown() -> None:
    """Tear down every compiled graph, then end the engine and everything that it started. May be called twice."""
    try:
        for graph in open_graphs.open_graphs():
            graph.teardown(SHUTDOWN_SECONDS)
        open_graphs.stop()
    finally:
        runtime.shutdown()


# Registered after the runtime's own, hence run before it.
atexit.register(shutdown)
