"""The actor's side of a compiled graph: link a Program with the instance once, then run its loop until it ends.

A value is dropped after its last use, so that shared memory goes back while later steps run. A method that raises makes
Failures of its values, which pass through every later step as they are: each execution reports the first exception on
its way, and the graph goes on.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NamedTuple

from channels import Alarm, ChannelBroken, ChannelClosed, ChannelSpec, Failure, Reader, Writer, open_reader, open_writer
from channels.communicators import Communicator, Transport
from channels.shm import trim
from channels.transfer import TensorReader, sharing, tensor_ends
from dagc.ahead import FirstReady, run_ahead
from dagc.emit import emit, names_of, segments
from dagc.errors import GraphError
from dagc.joining import joiner
from dagc.program import Invoke, Join, Post, Program, Recv, Run, Send, Step
from dagc.timing.ranges import in_range
from dagc.timing.recorder import Recorder, Rows
from runtime.engine import ActorContext
from runtime.errors import add_note, formatted

__all__ = ["Membership", "TraceKey", "link", "recorded", "run_program"]


class Membership(NamedTuple):
    """How to join a group; the rank stands in the program."""

    transport: Transport
    group_id: bytes
    size: int


class TraceKey(NamedTuple):
    """Which recorder of a process is meant: that of an actor in one compiled graph."""

    graph: str
    actor: str


#: The recorders of the loops of this process; with the thread engine, of all actors.
_recorders: dict[TraceKey, Recorder] = {}

Loop = Callable[[Iterable[int]], None]

#: Of the loops of this process: graphs may have the same name.
_numbers = itertools.count()


def run_program(
    context: ActorContext,
    program: Program,
    specs: Mapping[str, ChannelSpec],
    memberships: Mapping[str, Membership],
    trace: TraceKey | None = None,
    ranges: bool = False,
) -> Generator[None, None, Rows | None]:
    """A LoopFunction: open the ends and link, yield, then run executions until the driver closes the graph.

    An orderly close arrives through the input and is passed on through the outputs, after every execution under way
    has gone through. A break (a death, a kill, an impatient teardown) stops it where it waits: ChannelBroken. With
    `trace` it returns the Rows that it has recorded, which `recorded` gives meanwhile; `ranges`: dagc/timing/ranges.py.
    """
    recorder = None
    with ExitStack() as ends:
        if trace is not None:
            recorder = _recorders[trace] = Recorder(_shape(program))
            ends.callback(_recorders.__delitem__, trace)
        readers: dict[str, Reader] = {}
        writers: dict[str, Writer] = {}
        for name, index in program.reads.items():
            readers[name] = open_reader(specs[name], index)
            ends.callback(readers[name].close)
        for name in program.writes:
            writers[name] = open_writer(specs[name])
            ends.callback(writers[name].close)
        communicators: dict[str, Communicator] = {}
        for name, rank in program.ranks.items():
            transport, group_id, size = memberships[name]
            communicators[name] = transport.join(group_id, rank, size)
            ends.callback(communicators[name].destroy)
        ends.enter_context(sharing(communicators.values()))
        readers, writers = tensor_ends(program.tensors, readers, writers, communicators)
        loop = ends.enter_context(link(program, context, readers, writers, communicators, recorder, ranges=ranges))
        yield
        # Closed: the driver ended the stream. A ChannelBroken goes up, for the driver may not know of it.
        with suppress(ChannelClosed):
            loop(itertools.count(1))
    del loop, readers, writers, communicators
    trim()
    return None if recorder is None else recorder.rows()


def recorded(_context: ActorContext, trace: TraceKey, execution: int) -> Rows | None:
    """What a loop of this process has recorded, up to `execution` at least, whose results the driver has had.

    None if the loop has ended, and its rows are on their way.
    """
    recorder = _recorders.get(trace)
    if recorder is None:
        return None
    recorder.settle(execution)
    return recorder.rows()


@contextmanager
def link(
    program: Program,
    context: ActorContext,
    readers: Mapping[str, Reader],
    writers: Mapping[str, Writer],
    communicators: Mapping[str, Communicator],
    recorder: Recorder | None = None,
    *,
    ranges: bool = False,
) -> Iterator[Loop]:
    """The program as a function of the execution numbers; everything that it needs is looked up here, once.

    Raises GraphError for a method that cannot run in a compiled graph, or without the package that `ranges` needs.
    """
    emitted = emit(program, trace=recorder is not None)
    names: dict[str, Any] = {
        **emitted.constants,
        "turn": context.turn,
        "Failure": Failure,
        "Ended": (ChannelClosed, ChannelBroken),
    }
    if recorder is not None:
        names.update(clock=time.perf_counter_ns, cpu_clock=time.thread_time_ns, record=recorder.record)
    for index, step in enumerate(program.steps):
        if isinstance(step, Recv):
            names[f"recv_{index}"] = readers[step.channel].read
        elif isinstance(step, Post):
            reader = readers[step.channel]
            assert isinstance(reader, TensorReader), "only the channels of communicators are received early"
            names[f"post_{index}"] = reader.post
        elif isinstance(step, Send):
            names[f"send_{index}"] = writers[step.channel].write
            names[f"unsent_{index}"] = _reporter(f"raised on sending {step.channel}, execution")
        elif isinstance(step, Join):
            note = f"raised in {step.group} by {context.label}, execution"
            names[f"join_{index}"] = joiner(step, communicators[step.communicator], _reporter(note))
        else:
            for name, call in names_of(index, step):
                function = _function(call, context)
                names[f"call_{name}"] = in_range(call.node, function) if ranges else function
                names[f"parts_{name}"] = _unpacker(call, context)
                names[f"fail_{name}"] = _reporter(f"raised by {_where(call, context)}, execution", context)
    # Registered under its file name, so that tracebacks and debuggers show the lines.
    file = f"<loop {next(_numbers)} of {program.actor} in graph {program.graph}>"
    linecache.cache[file] = len(emitted.source), None, emitted.source.splitlines(keepends=True), file
    exec(compile(emitted.source, file, "exec"), names)
    try:
        if "loop" in names:
            yield names["loop"]
        else:
            with closing(Alarm()) as alarm:
                yield _ahead(program, names, readers, alarm)
    finally:
        # The function and its namespace refer to each other, and the namespace to the ends: without this the memory of
        # the channels would wait for the garbage collector.
        names.clear()
        del linecache.cache[file]


def _ahead(program: Program, names: Mapping[str, Any], readers: Mapping[str, Reader], alarm: Alarm) -> Loop:
    found = segments(program)
    functions = [names[f"segment_{number}"] for number in range(len(found))]
    leading = [list(_leading(program.steps[steps.start : steps.stop])) for steps in found]
    assert all(leading), "an actor waits for something before its first call; the tick sees to that"
    first_ready = FirstReady([[readers[channel] for channel in channels] for channels in leading], alarm)
    return lambda executions: run_ahead(functions, first_ready, executions)


def _leading(steps: Sequence[Step]) -> Iterator[str]:
    """The channels of the receives before anything else."""
    for step in steps:
        if not isinstance(step, Recv):
            return
        yield step.channel


def _shape(program: Program) -> list[tuple[int, list[int]]]:
    """Of each segment: how many ops it has, and which of these are calls."""
    return [
        (len(steps), [i - steps.start for i in steps if isinstance(program.steps[i], Run)])
        for steps in segments(program)
    ]


def _where(call: Invoke, context: ActorContext) -> str:
    name = call.method if call.function is not None else f"{context.label}.{call.method}"
    beside = f" beside {context.label}" if call.function is not None else ""
    return f"{name}{beside} as {call.node}"


def _function(call: Invoke, context: ActorContext) -> Callable[..., Any]:
    made: Callable[..., Any] = (
        getattr(context.instance, call.method) if call.function is None else call.function.__wrapped__
    )
    function = getattr(made, "__func__", made)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise GraphError(
            f"{call.node} is a generator; a compiled method gives its values at once: return a list, "
            "or bind one call for each value"
        )
    if not inspect.iscoroutinefunction(function):
        return made

    def to_the_end(*args: Any, **kwargs: Any) -> Any:
        return context.run_coroutine(made(*args, **kwargs))

    return to_the_end


def _unpacker(call: Invoke, context: ActorContext) -> Callable[[Any], Sequence[Any]]:
    expected = len(call.out)

    def parts(result: Any) -> Sequence[Any]:
        if isinstance(result, (tuple, list)) and len(result) == expected:
            return result
        found = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
        raise GraphError(
            f"{_where(call, context)} returned {found}; "
            f"num_returns={expected} expects a tuple or list of that many values"
        )

    return parts


def _reporter(note: str, context: ActorContext | None = None) -> Callable[[BaseException, int], Failure]:
    """What makes a Failure of an exception, with a note that says where it was raised."""

    def report(error: BaseException, execution: int) -> Failure:
        if context is not None and isinstance(error, SystemExit):  # what it means in a script: this process ends
            context.exit(error)
        if isinstance(error, StopIteration):  # may not leave a generator, as `map` and `await` are (PEP 479)
            replaced = RuntimeError(f"the method raised StopIteration({error.value!r})")
            replaced.__cause__, replaced.__traceback__ = error, error.__traceback__
            error = replaced
        trace = error.__traceback__
        text = formatted(error, trace.tb_next if trace is not None else None)
        add_note(error, f"{note} {execution}")
        return Failure(error.with_traceback(None), text)

    return report
