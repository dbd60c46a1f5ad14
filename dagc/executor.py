"""The actor's side of a compiled graph: link a Program with the instance once, then run its loop until it ends.

A value is dropped after its last use, so that shared memory goes back while later steps run. A method that raises makes
Failures of its values, which pass through every later step as they are: each execution reports the first exception on
its way, and the graph goes on.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from channels import ChannelBroken, ChannelClosed, ChannelSpec, Failure, Reader, Writer, open_reader, open_writer
from channels.shm import trim
from dagc.emit import emit
from dagc.errors import GraphError
from dagc.program import Program, Recv, Run, Send
from runtime.engine import ActorContext
from runtime.errors import add_note

__all__ = ["link", "run_program"]

Loop = Callable[[Iterable[int]], None]

#: Of the loops of this process: graphs may have the same name.
_numbers = itertools.count()


def run_program(context: ActorContext, program: Program, specs: Mapping[str, ChannelSpec]) -> Iterator[None]:
    """A LoopFunction: open the ends and link, yield, then run executions until the driver closes the graph.

    An orderly close arrives through the input and is passed on through the outputs, after every execution under way
    has gone through. A break (a death, a kill, an impatient teardown) stops it where it waits: ChannelBroken.
    """
    with ExitStack() as ends:
        readers, writers = {}, {}
        for name, index in program.reads.items():
            readers[name] = open_reader(specs[name], index)
            ends.callback(readers[name].close)
        for name in program.writes:
            writers[name] = open_writer(specs[name])
            ends.callback(writers[name].close)
        loop = ends.enter_context(link(program, context, readers, writers))
        yield
        # Closed: the driver ended the stream. A ChannelBroken goes up, for the driver may not know of it.
        with suppress(ChannelClosed):
            loop(itertools.count(1))
    del loop, readers, writers
    trim()


@contextmanager
def link(
    program: Program, context: ActorContext, readers: Mapping[str, Reader], writers: Mapping[str, Writer]
) -> Iterator[Loop]:
    """The program as a function of the execution numbers; everything that it needs is looked up here, once.

    Raises GraphError for a method that cannot run in a compiled graph.
    """
    emitted = emit(program)
    names: dict[str, Any] = {
        **emitted.constants,
        "turn": context.turn,
        "Failure": Failure,
        "Ended": (ChannelClosed, ChannelBroken),
    }
    for index, step in enumerate(program.steps):
        if isinstance(step, Recv):
            names[f"recv_{index}"] = readers[step.channel].read
        elif isinstance(step, Send):
            names[f"send_{index}"] = writers[step.channel].write
            names[f"unsent_{index}"] = _reporter(f"raised on sending {step.channel}, execution")
        else:
            names[f"call_{index}"] = _method(step, context)
            names[f"parts_{index}"] = _unpacker(step, context)
            names[f"fail_{index}"] = _reporter(
                f"raised by {context.label}.{step.method} as {step.node}, execution", context
            )
    # Registered under its file name, so that tracebacks and debuggers show the lines.
    file = f"<loop {next(_numbers)} of {program.actor} in graph {program.graph}>"
    linecache.cache[file] = len(emitted.source), None, emitted.source.splitlines(keepends=True), file
    exec(compile(emitted.source, file, "exec"), names)
    try:
        yield names["loop"]
    finally:
        # The function and its namespace refer to each other, and the namespace to the ends: without this the memory of
        # the channels would wait for the garbage collector.
        names.clear()
        del linecache.cache[file]


def _method(step: Run, context: ActorContext) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(context.instance, step.method)
    function = getattr(method, "__func__", method)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise GraphError(
            f"{step.node} is a generator; a compiled method gives its values at once: return a list, "
            "or bind one call for each value"
        )
    if not inspect.iscoroutinefunction(function):
        return method

    def to_the_end(*args: Any, **kwargs: Any) -> Any:
        return context.run_coroutine(method(*args, **kwargs))

    return to_the_end


def _unpacker(step: Run, context: ActorContext) -> Callable[[Any], Sequence[Any]]:
    expected = len(step.out)

    def parts(result: Any) -> Sequence[Any]:
        if isinstance(result, (tuple, list)) and len(result) == expected:
            return result
        found = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
        raise GraphError(
            f"{context.label}.{step.method} returned {found}; "
            f"num_returns={expected} expects a tuple or list of that many values"
        )

    return parts


def _reporter(note: str, context: ActorContext | None = None) -> Callable[[BaseException, int], Failure]:
    """What makes a Failure of an exception, with a note that says where it was raised."""

    def report(error: BaseException, execution: int) -> Failure:
        if context is not None and isinstance(error, SystemExit):  # what it means in a script: this process ends
            context.exit(error)
        trace = error.__traceback__
        text = "".join(traceback.format_exception(type(error), error, trace.tb_next if trace is not None else None))
        add_note(error, f"{note} {execution}")
        return Failure(error.with_traceback(None), text)

    return report
