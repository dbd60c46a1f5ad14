"""The actor's side of a compiled graph: link a Program with the instance once, then run its steps until it ends.

    link(program, ...)        one callable a step, everything looked up already
    for step in steps:        the loop; a step is step(slots, execution)
        step(slots, execution)

A value is dropped from its slot after its last use, so that shared memory goes back while later steps run. A method
that raises makes Failures of its values, which pass through every later step as they are: each execution reports the
first exception on its way, and the graph goes on.
"""

from __future__ import annotations

import inspect
import itertools
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from channels import ChannelBroken, ChannelClosed, ChannelSpec, Failure, Reader, Writer, open_reader, open_writer
from channels.shm import trim
from dagc.containers import leaves, map_leaves
from dagc.errors import GraphError
from dagc.program import Program, Recv, Run, Send, Slot
from runtime.engine import ActorContext
from runtime.errors import add_note

__all__ = ["link", "run_program"]

Slots = list[Any]
Step = Callable[[Slots, int], None]


def run_program(context: ActorContext, program: Program, specs: Mapping[str, ChannelSpec]) -> Iterator[None]:
    """A LoopFunction: open the ends and link, yield, then run executions until the driver closes the graph.

    An orderly close arrives through the input and is passed on through the outputs, after every execution under way
    has gone through. A break (a death, a kill, an impatient teardown) stops it where it waits: ChannelBroken.
    """
    with ExitStack() as ends:
        readers = {name: open_reader(specs[name], index) for name, index in program.reads.items()}
        writers = {name: open_writer(specs[name]) for name in program.writes}
        for reader in readers.values():
            ends.callback(reader.close)
        for writer in writers.values():
            ends.callback(writer.close)
        steps = link(program, context, readers, writers)
        yield
        slots: Slots = [None] * program.slots
        try:
            for execution in itertools.count(1):
                for step in steps:
                    step(slots, execution)
        except ChannelClosed:
            pass  # the driver ended the stream; a ChannelBroken goes up, for the driver may not know of it
        finally:
            slots.clear()
    trim()


def link(
    program: Program, context: ActorContext, readers: Mapping[str, Reader], writers: Mapping[str, Writer]
) -> list[Step]:
    """The steps of a program as callables. Raises GraphError for a method that cannot run in a compiled graph."""
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Recv):
            steps.append(_recv(readers[step.channel], step.slot))
        elif isinstance(step, Send):
            steps.append(_send(writers[step.channel], step.slot))
        else:
            steps.append(_run(step, context))
        if step.last:
            steps.append(_drop(step.last))
    return steps


def _recv(reader: Reader, slot: int) -> Step:
    read = reader.read

    def recv(slots: Slots, execution: int) -> None:
        slots[slot] = read(execution)

    return recv


def _send(writer: Writer, slot: int) -> Step:
    write = writer.write
    name = writer.spec.name

    def send(slots: Slots, execution: int) -> None:
        try:
            write(slots[slot], execution)
        except (ChannelClosed, ChannelBroken):
            raise
        except Exception as error:  # noqa: BLE001 - too large, not picklable, no memory: this execution's, not the graph's end
            write(_failure(error, f"raised on sending {name}, execution {execution}"), execution)

    return send


def _drop(last: Sequence[int]) -> Step:
    def drop(slots: Slots, execution: int) -> None:  # noqa: ARG001 - the shape of a step
        for slot in last:
            slots[slot] = None

    return drop


def _run(step: Run, context: ActorContext) -> Step:
    """The call of a method. One positional argument, the usual case, goes without building argument lists."""
    call = _method(step, context)
    templates = [*step.args, *step.kwargs.values()]
    used = tuple(dict.fromkeys(leaf.index for leaf in leaves(templates) if isinstance(leaf, Slot)))
    turn = context.turn
    out, unpack = step.out, step.unpack
    first = out[0]
    where = f"raised by {context.label}.{step.method} as {step.node}, execution"

    def give(slots: Slots, result: Any) -> None:
        for slot, part in zip(out, _parts(step, context, result), strict=True):
            slots[slot] = part

    def fail(slots: Slots, error: BaseException, execution: int) -> None:
        if isinstance(error, SystemExit):  # what it means in a script: this process ends
            context.exit(error)
        failure = _failure(error, f"{where} {execution}")
        for slot in out:
            slots[slot] = failure

    def passes_failure(slots: Slots) -> bool:
        for index in used:
            if type(slots[index]) is Failure:
                for slot in out:
                    slots[slot] = slots[index]
                return True
        return False

    def run_one(slots: Slots, execution: int) -> None:
        value = slots[used[0]]
        if type(value) is Failure and passes_failure(slots):
            return
        try:
            with turn:
                result = call(value)
            if unpack:
                give(slots, result)
            else:
                slots[first] = result
        except BaseException as error:  # noqa: BLE001 - whatever a method raises belongs to the caller of execute
            fail(slots, error, execution)

    def run(slots: Slots, execution: int) -> None:
        if passes_failure(slots):
            return
        args, kwargs = _fill(step.args, slots), _fill(step.kwargs, slots)
        try:
            with turn:
                result = call(*args, **kwargs)
            if unpack:
                give(slots, result)
            else:
                slots[first] = result
        except BaseException as error:  # noqa: BLE001 - as above
            fail(slots, error, execution)

    return run_one if len(step.args) == 1 and isinstance(step.args[0], Slot) and not step.kwargs else run


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


def _fill(template: Any, slots: Slots) -> Any:
    return map_leaves(template, lambda leaf: slots[leaf.index] if type(leaf) is Slot else leaf)


def _parts(step: Run, context: ActorContext, result: Any) -> Sequence[Any]:
    expected = len(step.out)
    if isinstance(result, (tuple, list)) and len(result) == expected:
        return result
    found = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
    raise GraphError(
        f"{context.label}.{step.method} returned {found}; "
        f"num_returns={expected} expects a tuple or list of that many values"
    )


def _failure(error: BaseException, note: str) -> Failure:
    trace = error.__traceback__
    text = "".join(traceback.format_exception(type(error), error, trace.tb_next if trace is not None else None))
    add_note(error, note)
    return Failure(error.with_traceback(None), text)
