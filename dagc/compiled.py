"""CompiledGraph: what `dagc.compile` returns. Drives executions: writes the inputs, hands out refs, ends it all.

    execute     number it -> write each input channel -> a ref for each output
    ref.get     the receiver of the output's channel reads until the ref is resolved (dagc/receive.py)

`execute` may be called by several threads; executions run in the order in which they got their numbers.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn, final

import numpy as np
import numpy.typing as npt

from channels import ChannelBroken, ChannelClosed, Failure, empty
from channels.shm import trim
from dagc.draw import svg_text, visualize
from dagc.ending import REASON_SECONDS, Ending
from dagc.errors import GetTimeoutError, GraphClosedError, GraphError, WrongArgumentsError
from dagc.explain import explain
from dagc.graph import Graph
from dagc.inflight import Window
from dagc.inputs import check_inputs, take
from dagc.install import Installation
from dagc.mapping import of_items, results_of, with_bar
from dagc.open_graphs import end_soon, register
from dagc.options import CompileOptions
from dagc.placement import Placement
from dagc.plan import Plan
from dagc.prediction.predict import Prediction, predict
from dagc.program import DriverProgram, InputAccess
from dagc.receive import Receiver
from dagc.refs import PENDING, ResultRef
from dagc.report import write_report
from dagc.self_wait import self_wait
from dagc.statistics import GraphStatistics
from dagc.timing.collect import collect_trace
from dagc.timing.costs import Costs
from dagc.timing.trace import Trace
from runtime.engine import Engine
from runtime.timeouts import check_timeout

__all__ = ["CompiledGraph"]

#: The input as a whole, or its first part: both are the first argument.
_WHOLE, _FIRST = InputAccess(None), InputAccess(0)


class _Given:
    """In place of a receiver, for an output that is a part of the input: there is nothing to wait for."""

    #: Seconds, of the graph; it has nothing to wait for.
    timeout: float | None = None

    def __init__(self, name: str) -> None:
        self.name = name

    def wait(self, _execution: int, _timeout: float | None, _said: float | None) -> None:
        """Never called: the ref has its value from the beginning."""

    def wait_async(self, _execution: int, _since: float) -> Generator[Any, None, None]:
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
        placement: Placement,
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
        self._engine = engine
        self._timeout = options.timeout
        self._pid = os.getpid()
        self._submit = threading.RLock()
        # What interrupts an execute must not wait for it. As threading.Condition asks.
        self._in_execute: Callable[[], bool] = self._submit._is_owned  # type: ignore[attr-defined]
        self._teardown = threading.RLock()  # for a signal handler that tears down in the middle of a teardown
        self._tearing_down = False
        self._writes: list[tuple[Callable[[Any, int], None], InputAccess | None]] = [
            (installation.writers[name].write, _WHOLE if access in (_WHOLE, _FIRST) else access)
            for name, access in driver.sends.items()
        ]
        channels = {name: index for index, name in enumerate(installation.readers)}
        self._window = Window(len(channels), options.max_inflight)
        self._ending = ending = Ending(plan, installation, self._window, graph.actors, engine)
        self._guard = self_wait(graph, plan, placement, ending.channel_statistics, ending.failed.is_set)
        self._receivers = [
            Receiver(
                reader,
                self._window,
                index,
                options.timeout,
                ending.explain_wait,
                ending.fault,
                self._taken_of(name),
                self._guard,
            )
            for index, (name, reader) in enumerate(installation.readers.items())
        ]
        #: For each output: the index of its channel, or the part of the input that it is.
        self._outputs: list[tuple[int, InputAccess | None, _Given]] = [
            (-1 if output.channel is None else channels[output.channel], output.access, _Given(output.name))
            for output in driver.outputs
        ]
        #: The indices of the channels that tell of the ends of leaves.
        self._leaves = [channels[name] for name in driver.leaves]
        #: One argument in, by one channel, and one value out.
        self._plain = (
            list(driver.sends.values()) in ([_WHOLE], [_FIRST])
            and driver.positional == len(channels) == len(self._outputs) == 1
            and not driver.multi
            and driver.outputs[0].channel is not None
        )
        self._write, _ = self._writes[0]  # there is one: the input, or a tick
        self._unregister = register(self)
        self._torn_down = False  # last: from here on __del__ has something to end

    # ---- executing ----

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Start an execution. Returns a ResultRef, or with a MultiOutputNode a list of them, one for each output.

        Waits only while `max_inflight` executions are under way, and receives results meanwhile. Raises
        WrongArgumentsError, GetTimeoutError (no place within the graph's timeout), GraphClosedError or ActorDiedError;
        GraphError in a signal handler or `__del__` that interrupts this thread's own execute;
        MessageTooLargeError, SerializationError or ArenaFullError for an argument that cannot be sent. The graph is
        as usable as before after all of them but GraphClosedError and ActorDiedError.
        """
        while True:
            if self._in_execute():
                raise self._interrupting()
            with self._submit:
                if not self._window.full:
                    return self._begin(args, kwargs)
                # Inside it: another thread may begin one and take it back, which nobody would deliver.
                needed = self._window.needed
            # Outside the lock: who waits for a place must not keep others from ending the graph.
            self._wait_for_place(needed)

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """As `execute`, for a coroutine: awaits a place among the executions under way. Await the refs, too."""
        while True:
            if self._in_execute():
                raise self._interrupting()
            with self._submit:
                if not self._window.full:
                    return self._begin(args, kwargs)
                needed, since = self._window.needed, time.monotonic()
            for receiver in self._receivers:
                await receiver.delivered_async(needed, since)

    def _interrupting(self) -> GraphError:
        return GraphError(
            f"graph {self.name}: a signal handler, or a __del__, calls execute in the middle of this thread's own; let "
            "it set a flag, or start a thread"
        )

    def map(self, inputs: Iterable[Any], *, progress: bool = False) -> Iterator[Any]:
        """The results of many executions, in the order of `inputs`, with at most `max_inflight` under way or unread.

        An input is the argument of `execute`; for a graph with several positional arguments, a tuple of them; for one
        with keyword arguments alone, a dict of them. Yields a value, or with a MultiOutputNode a list of them; raises
        what an execution raised, at its turn, and WrongArgumentsError for an input of another kind. `progress` draws a
        bar on standard error; it needs the package rich.
        """
        execute = of_items(self.name, self._driver.positional, self._driver.keywords, self.execute)
        return results_of(execute, with_bar(inputs, self.name) if progress else inputs, self._window.limit)

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        """An uninitialised array in shared memory. Filled and passed to `execute`, it travels without a copy.

        Passing it hands it over: it becomes read-only here. C order. Raises ArenaFullError.
        """
        return empty(shape, dtype)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Number an execution and write its inputs; the submit lock is held."""
        if self._ending.reason is not None:
            raise self._ending.fault()
        driver, window = self._driver, self._window
        if len(args) != driver.positional or kwargs or driver.keywords:
            check_inputs(self.name, driver.positional, driver.keywords, args, kwargs)
        execution = window.begun + 1
        try:
            if self._plain:
                # One argument in, one value out, without lists: half of what an echo costs its caller.
                ref = ResultRef(self._receivers[0], execution, PENDING, self)
                window.begin_one(ref)
                self._write(args[0], execution)
                return ref
            refs = [ResultRef(receiver, execution, PENDING, self) for receiver in self._receivers]
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
        if self._leaves:
            leaves = tuple(refs[index] for index in self._leaves)
            for result in results:
                result.leaves = leaves
        return results if driver.multi else results[0]

    def _refuse(self, execution: int, error: BaseException) -> BaseException:
        """An input was not sent; returns what to raise. Who has a part of this execution already must get the others,
        as failures that nobody reads; if nobody has one, it never began."""
        if isinstance(error, (ChannelClosed, ChannelBroken)):
            return self._ending.fault(error)
        writers = self._installation.writers
        counted = self._ending.channel_statistics()
        unsent = [name for name in writers if counted[name].messages < execution]
        if len(unsent) == len(writers):
            self._window.cancel(execution)
        else:
            for name in unsent:
                writers[name].write(Failure(error), execution)
        return error

    def _wait_for_place(self, needed: int) -> None:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        for receiver in self._receivers:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            receiver.wait(needed, left, self._timeout)

    # ---- looking ----

    def explain(self) -> str:
        """The graph and its plan as text: channels, what each actor does in every execution, and what strikes."""
        return explain(self._graph, self._plan)

    def visualize(self, path: str | os.PathLike[str]) -> None:
        """Draw the graph: to a file that ends in .svg, .png (needs pillow) or .dot. Raises GraphError for another."""
        visualize(self._graph, self._plan, path)

    def trace(self, path: str | os.PathLike[str] | None = None) -> Trace:
        """What was timed so far, of a graph that was compiled with trace=True: a span for each op of the last
        executions that are finished. With `path` it is also written there, for ui.perfetto.dev or chrome://tracing.

        Raises GraphError without trace=True; ActorDiedError, or GraphClosedError, if the graph has failed.
        """
        recorder = self._installation.recorder
        if recorder is None:
            raise GraphError(f"graph {self.name} was compiled without a trace; write dagc.compile(dag, trace=True)")
        try:
            found = collect_trace(self._plan, recorder, self._installation.loops, self._graph.actors, self._engine)
        except (ChannelBroken, ChannelClosed) as error:
            raise self._ending.fault(error) from error
        if path is not None:
            found.save(path)
        return found

    def predict(
        self, costs: Costs | float | Mapping[str, float] | None = None, *, cores: int | None = None
    ) -> Prediction:
        """What latency, throughput and idle shares the plan would have with these costs, on so many cores.

        costs: by default those of the trace; or seconds, of every call or by the names of the calls. cores: by default
        those that this process may use. Raises GraphError for costs of calls that there are not, or without any
        executions to learn from.
        """
        return predict(self._plan, self.trace().costs() if costs is None else costs, cores=cores)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write one page of HTML about what ran: the graph, the schedule as it was and as predicted, ops, channels.

        Of a graph that was compiled with trace=True; before its first execution the page says what to do. Raises
        GraphError without trace=True, and for a path that ends neither in .html nor in .htm.
        """
        trace = self.trace()
        executed = all(len(party.executions) for party in trace.parties.values())
        write_report(
            path,
            graph=self._graph,
            plan=self._plan,
            trace=trace,
            statistics=self.statistics(),
            prediction=predict(self._plan, trace.costs()) if executed else None,
            drawing=svg_text(self._graph, self._plan, prefix="graph"),
        )

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
        reason = self._ending.reason
        state = "running" if reason is None else f"ended: {reason}"
        return f"CompiledGraph({self.name}, {len(self._graph.actors)} actors, {state})"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} cannot be pickled: a compiled graph belongs to the process that compiled it; pass values, "
            "or compile it inside the actor"
        )

    def _taken_of(self, name: str) -> Callable[[], int]:
        channel, index = self._installation.channels[name], self._driver.reads[name]
        return lambda: channel.statistics().read[index]

    # ---- ending ----

    def teardown(self, timeout: float = 30.0, **unknown: NoReturn) -> None:
        """End the graph; its actors live on and may be in other graphs. May be called twice.

        Executions under way are finished, and their refs can still be got. An actor whose method does not return within
        `timeout` seconds is named in a RuntimeWarning; its results fail with GraphClosedError. A graph that failed
        before has nothing to finish: then no busy actor is waited for, for longer than a second. Nor has one that a
        signal handler, or a `__del__`, tears down in the middle of this thread's own `execute`, which may have sent
        half of its inputs: it is stopped at once, and what is not there yet fails with GraphClosedError.

        In a process that was forked from the one that compiled the graph it does nothing: it is not its graph to end.
        Raises WrongArgumentsError for a timeout that is no number of seconds.
        """
        if unknown:
            raise WrongArgumentsError(
                f"teardown has no option {next(iter(unknown))!r}; it takes timeout. Actors live on: write "
                "dagc.kill(actor) for each that shall end"
            )
        check_timeout(timeout, for_ever=False)
        if os.getpid() != self._pid:
            return
        with self._teardown:
            if self._tearing_down or self._torn_down:
                return
            self._tearing_down = True
            try:
                self._tear_down(timeout)
            finally:
                self._tearing_down = False

    def _tear_down(self, timeout: float) -> None:
        ending, installation = self._ending, self._installation
        ending.close(GraphClosedError(f"graph {self.name} was torn down"))
        try:
            # Whoever is in the middle of an execute writes it to the end, unless this is what interrupts it; more can
            # begin no more.
            if not self._in_execute() and self._submit.acquire(timeout=timeout):
                self._submit.release()
                for writer in installation.writers.values():
                    writer.close()
                self._stop_if_it_waits_for_this_thread()
                ending.wait_for_loops(timeout)
            else:
                ending.fail(GraphClosedError(f"graph {self.name} was torn down in the middle of an execute"))
            for receiver in self._receivers:
                # Everything has been delivered or has failed; another thread may be about to take it. So may this one,
                # if a signal handler tears down: it hears of the end when the handler returns.
                if not receiver.leads_here:
                    with suppress(GetTimeoutError):
                        receiver.wait(self._window.begun, REASON_SECONDS, REASON_SECONDS)
        finally:
            ending.unwatch()
            installation.break_(f"graph {self.name} was torn down")
            installation.destroy(self._engine)
            self._torn_down = True
            self._unregister()
            trim()

    def _stop_if_it_waits_for_this_thread(self) -> None:
        """A teardown by a method that executions under way still need: they can never be finished."""
        try:
            if self._guard is not None:
                for name in self._driver.reads:
                    self._guard(self._window.begun, name)
        except GraphError as error:
            self._ending.fail(GraphClosedError(f"graph {self.name} was torn down with executions under way: {error}"))

    def __enter__(self) -> CompiledGraph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # With an error on its way up, half a minute of patience with a busy actor would only hide it.
        self.teardown(1.0 if error is not None else 30.0)

    def __del__(self) -> None:
        if getattr(self, "_torn_down", True) or os.getpid() != self._pid:
            return
        end_soon(self._ending.drop)
        warnings.warn(f"graph {self.name} was dropped without a teardown", ResourceWarning, stacklevel=2, source=self)
