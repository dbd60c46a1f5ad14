"""Ending: how a compiled graph ends. Why it did, who is told, and that it is one reason for everybody.

A graph ends by teardown, by the death of one of its actors, or because a loop left it. Whatever comes first is the
reason, but that a death is always told: it explains what else was seen. Afterwards every channel is broken, which
stops each loop where it waits. This object does not know the CompiledGraph: what the engine calls back keeps none
alive.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any

from channels import ChannelBroken, ChannelStatistics
from dagc.errors import ActorDiedError, GraphClosedError
from dagc.halted import Halted
from dagc.inflight import Window
from dagc.install import DEATH_SECONDS, Installation
from dagc.plan import Plan
from dagc.progress import explain_wait, positions
from runtime.calls import ActorHandle
from runtime.engine import Engine
from runtime.errors import EngineError
from runtime.ids import ActorId

__all__ = ["REASON_SECONDS", "Ending"]

#: How long the report of a loop that failed may take to arrive after its channels have ended.
REASON_SECONDS = 5.0


class Ending:
    """Watches the actors and loops of one graph from the moment it is made."""

    def __init__(
        self,
        plan: Plan,
        installation: Installation,
        window: Window,
        handles: Mapping[str, ActorHandle],
        engine: Engine,
    ) -> None:
        self._plan = plan
        self._pid = os.getpid()
        self._installation = installation
        self._engine = engine
        # Weakly: refs that wait in it hold the CompiledGraph.
        self._window = weakref.ref(window)
        self._lock = threading.RLock()  # a signal handler may end what it interrupts the end of
        #: Why nothing can be executed any more.
        self.reason: BaseException | None = None
        #: Set once the channels have been broken for it.
        self.failed = threading.Event()
        #: Reports a loop whose group broke, unless a death explains it meanwhile.
        self._broken: threading.Timer | None = None
        self._halted = Halted(handles, engine)
        self._labels = {handle._actor_id: name for name, handle in handles.items()}
        self._watch = engine.watch(list(handles.values()), self._on_death)
        for actor, loop in installation.loops.items():
            loop.done.add_done_callback(partial(self._on_loop_end, actor))

    def close(self, reason: BaseException) -> None:
        """Nothing can be begun any more, unless that is so already; what is under way goes on."""
        with self._lock:
            if self.reason is None:
                self.reason = reason

    def fail(self, error: BaseException) -> None:
        """It cannot go on: stop every loop where it waits. Also while it is torn down: the dead pass nothing on."""
        with self._lock:
            if self._broken is not None:
                self._broken.cancel()
            if self.failed.is_set():
                return
            if self.reason is None or isinstance(error, ActorDiedError):
                self.reason = error
            self.failed.set()
        self._installation.break_(str(error))

    def fault(self, found: BaseException | None = None) -> BaseException:
        """The error for whoever wants something of a graph that has ended; `found`: what its channel raised."""
        if os.getpid() != self._pid:
            forked = GraphClosedError(
                f"graph {self._plan.name} was compiled in process {self._pid}, of which this one is a fork; "
                "start the process with spawn instead, and compile there"
            )
            forked.__cause__ = found
            return forked
        # A loop that fails closes its channels first and reports why a moment later: wait for the reason.
        if self.reason is None and not self.failed.wait(REASON_SECONDS):
            unknown = GraphClosedError(f"graph {self._plan.name}: its channels ended unexpectedly: {found}")
            unknown.__cause__ = found
            self.fail(unknown)
        reason = self.reason
        assert reason is not None
        # A copy: one exception object raised in several threads would mix up their tracebacks.
        copied = (
            type(reason)(reason.actor, reason.pid, reason.reason)
            if isinstance(reason, ActorDiedError)
            else type(reason)(*reason.args)
        )
        copied.__cause__ = reason.__cause__
        return copied

    def wait_for_loops(self, timeout: float) -> None:
        """Until every loop has ended. One that is late is named in a RuntimeWarning; a graph that failed before has
        nothing to finish, and its loops have a second at most."""
        loops = {actor: loop.done for actor, loop in self._installation.loops.items()}
        failed = self.failed.is_set()
        _, pending = wait(loops.values(), min(timeout, 1.0) if failed else timeout)
        if failed or not pending:
            return
        actors = [actor for actor, done in loops.items() if done in pending]
        late, where = ", ".join(actors), self.explain_wait(self._oldest_of(actors))
        self.fail(GraphClosedError(f"graph {self._plan.name} was torn down before {late} had finished"))
        warnings.warn(
            f"graph {self._plan.name}: {late} did not finish within {timeout} s and may still be busy; {where}",
            RuntimeWarning,
            stacklevel=4,
        )

    def _oldest_of(self, actors: Sequence[str]) -> int:
        """The first execution that one of these actors is not through with."""
        counted = self.channel_statistics()
        window = self._window()
        assert window is not None, "the graph waits for its loops"
        for execution in range(window.finished + 1, window.begun):
            reached = positions(self._plan, counted, execution)
            if any(reached[actor] < len(self._plan.schedule[actor]) for actor in actors):
                return execution
        return window.begun

    def drop(self) -> None:
        """End a graph that nobody has any more, and nobody is to be told of."""
        self.unwatch()
        self.fail(GraphClosedError(f"graph {self._plan.name} was dropped without a teardown"))
        with suppress(EngineError):  # it has ended meanwhile, and the graph's workers with it
            self._installation.destroy(self._engine, wait=False)

    def unwatch(self) -> None:
        self._watch.cancel()
        with self._lock:
            if self._broken is not None:
                self._broken.cancel()

    def channel_statistics(self) -> dict[str, ChannelStatistics]:
        return {name: channel.statistics() for name, channel in self._installation.channels.items()}

    def explain_wait(self, execution: int) -> str:
        return explain_wait(self._plan, self.channel_statistics(), execution, self._halted)

    def _on_death(self, actor_id: ActorId, death: ActorDiedError) -> None:
        actor = self._labels[actor_id]
        window = self._window()
        if window is None:
            return  # the graph was dropped a moment ago
        execution = window.finished + 1
        reason = f"{death.reason}; in graph {self._plan.name} it was {actor}"
        if window.under_way:
            reason += f", {self._where(actor, execution)}"
        named = ActorDiedError(death.actor, death.pid, reason)
        named.__cause__ = death.__cause__
        self.fail(named)

    def _where(self, actor: str, execution: int) -> str:
        index = positions(self._plan, self.channel_statistics(), execution)[actor]
        ops = self._plan.schedule[actor]
        return (
            f"in execution {execution} at {ops[index]}" if index < len(ops) else f"through with execution {execution}"
        )

    def _on_loop_end(self, actor: str, done: Future[Any]) -> None:
        error = done.exception()
        if isinstance(error, ActorDiedError):
            return  # the watch's to report: it knows more
        # Without an error it ended because the graph is torn down, or because a loop before it failed, whose report
        # says why and is on its way; unless there is none left to report.
        loops = self._installation.loops.values()
        if error is not None or (self.reason is None and all(loop.done.done() for loop in loops)):
            ended = GraphClosedError(f"graph {self._plan.name}: {actor} left it: {error or 'its loop ended'}")
            ended.__cause__ = error
            if isinstance(error, ChannelBroken):
                self._fail_soon(ended)
            else:
                self.fail(ended)

    def _fail_soon(self, ended: GraphClosedError) -> None:
        """Stop every loop, but let a death be the reason: the survivors of a group may hear of it before the engine."""
        with self._lock:
            if self.failed.is_set() or self._broken is not None:
                return
            self._broken = threading.Timer(DEATH_SECONDS, self.fail, [ended])
            self._broken.daemon = True
            self._broken.start()
        self._installation.break_(str(ended))
