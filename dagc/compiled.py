"""CompiledGraph: what `dagc.compile` returns. Drives executions: writes the inputs, hands out refs, ends it all.

    execute     number it -> write each input channel -> a ref for each output
    ref.get     the receiver of the output's channel reads until the ref is resolved (dagc/receive.py)

`execute` may be called by several threads; executions run in the order in which they got their numbers.
"""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, final

import numpy as np
import numpy.typing as npt

from channels import ChannelBroken, ChannelClosed, ChannelStatistics, Failure, empty
from channels.shm import trim
from dagc.errors import ActorDiedError, GetTimeoutError, GraphClosedError, GraphError
from dagc.graph import Graph
from dagc.inflight import Window
from dagc.inputs import check_inputs, take
from dagc.install import Installation
from dagc.options import CompileOptions
from dagc.plan import Plan
from dagc.program import DriverProgram, InputAccess
from dagc.progress import explain_wait, positions
from dagc.receive import Receiver
from dagc.refs import ResultRef
from runtime.engine import Engine
from runtime.ids import ActorId

__all__ = ["CompiledGraph", "GraphStatistics", "open_graphs"]

#: Every graph of this process that was not torn down; `dagc.shutdown` tears them down first.
open_graphs: weakref.WeakSet[CompiledGraph] = weakref.WeakSet()


#: How long the report of a loop that failed may take to arrive after its channels have ended.
REASON_SECONDS = 5.0
#: The input as a whole, or its first part: both are the first argument.
_WHOLE, _FIRST = InputAccess(None), InputAccess(0)


@dataclass(frozen=True)
class GraphStatistics:
    """What a graph has done so far, at one moment."""

    name: str
    #: Executions that were begun, and those whose every result has been received.
    executions: int
    finished: int
    max_inflight: int
    channels: tuple[ChannelStatistics, ...]

    @property
    def in_flight(self) -> int:
        return self.executions - self.finished


class _Given:
    """In place of a receiver, for an output that is a part of the input: there is nothing to wait for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def wait(self, _execution: int, _timeout: float | None) -> None:
        """Never called: the ref has its value from the beginning."""

    def wait_async(self, _execution: int) -> Generator[Any, None, None]:
        """Never called: the ref has its value from the beginning."""
        yield from ()


@final
class CompiledGraph:
    """A graph that is installed on its actors. Made by `dagc.compile`; a context manager that tears itself down.

    Every method may be called from any thread.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        driver: DriverProgram,
        installation: Installation,
        engine: Engine,
        options: CompileOptions,
    ) -> None:
        self.name = options.name
        self._graph = graph
        self._plan = plan
        self._driver = driver
        self._installation = installation
        self._timeout = options.timeout
        self._submit = threading.Lock()
        self._teardown = threading.Lock()
        self._torn_down = False
        self._state = threading.Lock()
        #: Why nothing can be executed any more, and whether the channels were broken for it; set under _state.
        self._end: BaseException | None = None
        self._failed = threading.Event()
        self._writes: list[tuple[Callable[[Any, int], None], InputAccess | None]] = [
            (installation.writers[name].write, _WHOLE if access in (_WHOLE, _FIRST) else access)
            for name, access in driver.sends.items()
        ]
        channels = list(installation.readers)
        self._window = Window(len(channels), options.max_inflight)
        self._receivers = [
            Receiver(
                reader, self._window, index, options.timeout, self._explain_wait, self._fault, self._taken_of(name)
            )
            for index, (name, reader) in enumerate(installation.readers.items())
        ]
        #: For each output: the index of its channel, or the part of the input that it is.
        self._outputs: list[tuple[int, InputAccess | None, _Given]] = [
            (-1 if output.channel is None else channels.index(output.channel), output.access, _Given(output.name))
            for output in driver.outputs
        ]
        #: One argument in, by one channel, and one value out.
        self._plain = (
            list(driver.sends.values()) in ([_WHOLE], [_FIRST])
            and driver.positional == len(channels) == len(self._outputs) == 1
            and not driver.multi
        )
        self._write, _ = self._writes[0]  # there is one: the input, or a tick
        self._labels = {handle._actor_id: name for name, handle in graph.actors.items()}
        self._watch = engine.watch(list(graph.actors.values()), _weak_on_death(weakref.ref(self)))
        for actor, loop in installation.loops.items():
            loop.done.add_done_callback(_weak_on_loop_end(weakref.ref(self), actor))
        open_graphs.add(self)

    # ---- executing ----

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Start an execution. Returns a ResultRef, or with a MultiOutputNode a list of them, one for each output.

        Waits only while `max_inflight` executions are under way, and receives results meanwhile. Raises
        WrongArgumentsError, GetTimeoutError (no place within the graph's timeout), GraphClosedError or ActorDiedError;
        MessageTooLargeError, SerializationError or ArenaFullError for an argument that cannot be sent. The graph is
        as usable as before after all of them but GraphClosedError and ActorDiedError.
        """
        while True:
            with self._submit:
                if not self._window.full:
                    return self._begin(args, kwargs)
            # Outside the lock: who waits for a place must not keep others from ending the graph.
            self._wait_for_place()

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """As `execute`, for a coroutine: awaits a place among the executions under way. Await the refs, too."""
        while True:
            with self._submit:
                if not self._window.full:
                    return self._begin(args, kwargs)
            needed = self._window.needed
            for receiver in self._receivers:
                await receiver.delivered_async(needed)

    def map(self, inputs: Iterable[Any], *, progress: bool = False) -> Iterator[Any]:
        """The results of many executions, in the order of `inputs`, with at most `max_inflight` under way or unread.

        An input is the argument of `execute`; for a graph with several positional arguments, a tuple of them. Yields a
        value, or with a MultiOutputNode a list of them; raises what an execution raised, at its turn. `progress` draws
        a bar on standard error; it needs the package rich.
        """
        several = self._driver.positional > 1
        under_way: deque[Any] = deque()
        for item in _with_bar(inputs, self.name) if progress else inputs:
            if len(under_way) >= self._window.limit:
                yield _get_all(under_way.popleft())
            under_way.append(self.execute(*item) if several else self.execute(item))
        while under_way:
            yield _get_all(under_way.popleft())

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        """An uninitialised array in shared memory. Filled and passed to `execute`, it travels without a copy.

        Passing it hands it over: it becomes read-only here. C order. Raises ArenaFullError.
        """
        return empty(shape, dtype)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Number an execution and write its inputs; the submit lock is held."""
        if self._end is not None:
            raise self._fault()
        driver, window = self._driver, self._window
        if len(args) != driver.positional or kwargs or driver.keywords:
            check_inputs(self.name, driver.positional, driver.keywords, args, kwargs)
        execution = window.begun + 1
        try:
            if self._plain:
                # One argument in, one value out, without lists: half of what an echo costs its caller.
                ref = ResultRef(self._receivers[0], execution)
                window.begin_one(ref)
                self._write(args[0], execution)
                return ref
            refs = [ResultRef(receiver, execution) for receiver in self._receivers]
            window.begin(refs)
            for write, access in self._writes:
                write(args[0] if access is _WHOLE else take(access, args, kwargs), execution)
        except BaseException as error:
            refused = self._refuse(execution, error)
            if refused is error:
                raise
            raise refused from None
        results = [
            refs[index] if access is None else ResultRef(given, execution, take(access, args, kwargs))
            for index, access, given in self._outputs
        ]
        return results if driver.multi else results[0]

    def _refuse(self, execution: int, error: BaseException) -> BaseException:
        """An input was not sent; returns what to raise. Who has a part of this execution already must get the others,
        as failures that nobody reads; if nobody has one, it never began."""
        if isinstance(error, (ChannelClosed, ChannelBroken)):
            return self._fault(error)
        writers = self._installation.writers
        counted = self._channel_statistics()
        unsent = [name for name in writers if counted[name].messages < execution]
        if len(unsent) == len(writers):
            self._window.cancel(execution)
        else:
            for name in unsent:
                writers[name].write(Failure(error), execution)
        return error

    def _wait_for_place(self) -> None:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        needed = self._window.needed
        for receiver in self._receivers:
            receiver.wait(needed, None if deadline is None else max(0.0, deadline - time.monotonic()))

    # ---- looking ----

    def explain(self) -> str:
        """The graph and its plan as text: channels, and what each actor does in every execution."""
        return f"graph {self.name}:\n{self._graph}\n\n{self._plan}"

    def statistics(self) -> GraphStatistics:
        """How much was executed, and what each channel has carried."""
        return GraphStatistics(
            name=self.name,
            executions=self._window.begun,
            finished=self._window.finished,
            max_inflight=self._window.limit,
            channels=tuple(channel.statistics() for channel in self._installation.channels.values()),
        )

    @property
    def plan(self) -> Plan:
        """The schedule that the actors run."""
        return self._plan

    def __repr__(self) -> str:
        state = "running" if self._end is None else f"ended: {self._end}"
        return f"CompiledGraph({self.name}, {len(self._graph.actors)} actors, {state})"

    def _taken_of(self, name: str) -> Callable[[], int]:
        channel, index = self._installation.channels[name], self._driver.reads[name]
        return lambda: channel.statistics().read[index]

    def _channel_statistics(self) -> dict[str, ChannelStatistics]:
        return {name: channel.statistics() for name, channel in self._installation.channels.items()}

    def _explain_wait(self, execution: int) -> str:
        return explain_wait(self._plan, self._channel_statistics(), execution)

    # ---- ending ----

    def teardown(self, timeout: float = 30.0) -> None:
        """End the graph; its actors live on and may be in other graphs. May be called twice.

        Executions under way are finished, and their refs can still be got. An actor whose method does not return within
        `timeout` seconds is named in a RuntimeWarning; its results fail with GraphClosedError. A graph that failed
        before has nothing to finish: then no busy actor is waited for, for longer than a second.
        """
        with self._teardown:
            if self._torn_down:
                return
            with self._state:
                if self._end is None:
                    self._end = GraphClosedError(f"graph {self.name} was torn down")
            installation = self._installation
            try:
                # Whoever is in the middle of an execute writes it to the end; more can begin no more.
                if self._submit.acquire(timeout=timeout):
                    self._submit.release()
                    for writer in installation.writers.values():
                        writer.close()
                    self._wait_for_loops({actor: loop.done for actor, loop in installation.loops.items()}, timeout)
                else:
                    self._fail(GraphClosedError(f"graph {self.name} was torn down in the middle of an execute"))
                for receiver in self._receivers:
                    # Everything has been delivered or has failed; another thread may be about to take it.
                    with suppress(GetTimeoutError):
                        receiver.wait(self._window.begun, REASON_SECONDS)
            finally:
                self._watch.cancel()
                installation.break_(f"graph {self.name} was torn down")
                installation.destroy()
                self._torn_down = True
                open_graphs.discard(self)
                trim()

    def _wait_for_loops(self, loops: dict[str, Future[Any]], timeout: float) -> None:
        failed = self._failed.is_set()
        _, pending = wait(loops.values(), min(timeout, 1.0) if failed else timeout)
        if failed or not pending:
            return
        late = [actor for actor, done in loops.items() if done in pending]
        where = self._explain_wait(self._window.finished + 1)
        self._fail(GraphClosedError(f"graph {self.name} was torn down before {', '.join(late)} had finished"))
        warnings.warn(
            f"graph {self.name}: {', '.join(late)} did not finish within {timeout} s and may still be busy; {where}",
            RuntimeWarning,
            stacklevel=4,
        )

    def __enter__(self) -> CompiledGraph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # With an error on its way up, half a minute of patience with a busy actor would only hide it.
        self.teardown(1.0 if error is not None else 30.0)

    def __del__(self) -> None:
        if getattr(self, "_torn_down", True):
            return
        self._watch.cancel()
        self._installation.break_(f"graph {self.name} was dropped without a teardown")
        self._installation.destroy()
        warnings.warn(f"graph {self.name} was dropped without a teardown", ResourceWarning, stacklevel=2, source=self)

    def _fault(self, found: BaseException | None = None) -> BaseException:
        """The error for whoever wants something of a graph that has ended; `found`: what its channel raised."""
        # A loop that fails closes its channels first and reports why a moment later: wait for the reason.
        if self._end is None and not self._failed.wait(REASON_SECONDS):
            unknown = GraphClosedError(f"graph {self.name}: its channels ended unexpectedly: {found}")
            unknown.__cause__ = found
            self._fail(unknown)
        end = self._end
        assert end is not None
        # A copy: one exception object raised in several threads would mix up their tracebacks.
        copied = type(end)(end.actor, end.pid, end.reason) if isinstance(end, ActorDiedError) else type(end)(*end.args)
        copied.__cause__ = end.__cause__
        return copied

    def _fail(self, error: BaseException) -> None:
        """It cannot go on: stop every loop where it waits. Also while it is torn down: the dead pass nothing on."""
        with self._state:
            if self._failed.is_set():
                return
            if self._end is None or isinstance(error, ActorDiedError):
                self._end = error
            self._failed.set()
        self._installation.break_(str(error))

    def _on_death(self, actor_id: ActorId, death: ActorDiedError) -> None:
        actor = self._labels[actor_id]
        execution = self._window.finished + 1
        reason = f"{death.reason}; in graph {self.name} it was {actor}"
        if self._window.under_way:
            reason += f", {self._where(actor, execution)}"
        named = ActorDiedError(death.actor, death.pid, reason)
        named.__cause__ = death.__cause__
        self._fail(named)

    def _where(self, actor: str, execution: int) -> str:
        index = positions(self._plan, self._channel_statistics(), execution)[actor]
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
        if error is not None or (self._end is None and all(loop.done.done() for loop in loops)):
            self._fail(_loop_ended(self.name, actor, error))


def _loop_ended(graph: str, actor: str, error: BaseException | None) -> GraphClosedError:
    ended = GraphClosedError(f"graph {graph}: {actor} left it: {error or 'its loop ended'}")
    ended.__cause__ = error
    return ended


def _weak_on_death(graph: weakref.ref[CompiledGraph]) -> Callable[[ActorId, ActorDiedError], None]:
    """The engine must not keep a graph alive that its user has dropped."""

    def on_death(actor_id: ActorId, death: ActorDiedError) -> None:
        alive = graph()
        if alive is not None:
            alive._on_death(actor_id, death)

    return on_death


def _weak_on_loop_end(graph: weakref.ref[CompiledGraph], actor: str) -> Callable[[Future[Any]], None]:
    def on_loop_end(done: Future[Any]) -> None:
        alive = graph()
        if alive is not None:
            alive._on_loop_end(actor, done)

    return on_loop_end


def _get_all(refs: Any) -> Any:
    return [ref.get() for ref in refs] if isinstance(refs, list) else refs.get()


def _with_bar(inputs: Iterable[Any], name: str) -> Iterable[Any]:
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        raise GraphError(
            "map(progress=True) draws with the package rich, which is not here: pip install rich"
        ) from None
    return track(inputs, description=name, console=Console(stderr=True))
