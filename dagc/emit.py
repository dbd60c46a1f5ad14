"""emit: a Program becomes the source of one Python function, the actor's loop with every step written out.

    program of Stage_0, 2 slots                     def loop(executions):
      %0 = recv input                                   for n in executions:
      %1 = run Stage_0.forward: forward(%0); ...            v0 = recv_0(n)
      send Stage_0.forward %1; drop %1                      if type(v0) is Failure:
                                                                v1 = v0
                                                            ...

Slots are local variables; constants and the functions of the steps are names of the namespace. Closures called one
after another did the same in twice the time, and an actor that only passes a number on spends most of its time there.
The source stays readable in a debugger and in tracebacks (dagc/executor.py registers it).

A program that is free to begin the next execution while it waits becomes several functions, cut where it may wait:

    def segment_0(n):         what comes before the wait; returns what the next one needs
    def segment_1(held):      takes it from the left end of a deque, and goes on

With `trace` a clock is read after each step, and that of the CPU around each call: `record(segment, (n, time, ...))`.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dagc.containers import is_container, leaves
from dagc.program import Invoke, Join, Post, Program, Recv, Run, Send, Slot, Step

__all__ = ["Emitted", "emit", "names_of", "segments"]


class Emitted(NamedTuple):
    """Source of `loop(executions)`, or of `segment_0(n)` and so on, and the names in it that are constants.

    The namespace must also have, for step number i: recv_i(n); post_i(n); join_i(value, n); send_i(value, n) and
    unsent_i(error, n); for each of its calls c, as `names_of` says, call_c(...), parts_c(result) and fail_c(error, n);
    and `turn`, `Failure`, and `Ended`, the errors of a channel that has ended; for a trace `clock`, `cpu_clock` and
    `record`.
    """

    source: str
    constants: dict[str, Any]


def names_of(index: int, step: Run) -> Iterator[tuple[str, Invoke]]:
    """The calls of step number `index`, each with its name in the namespace."""
    for k, call in enumerate(step.calls):
        yield (f"{index}_{k}" if len(step.calls) > 1 else str(index)), call


def segments(program: Program) -> list[range]:
    """The steps between which another execution may run; one range if it is not free. Each but the first begins with a
    receive, and a call comes before it."""
    starts = [0]
    called = False
    for index, step in enumerate(program.steps):
        if isinstance(step, Run):
            called = True
        elif isinstance(step, Recv) and called and program.free:
            starts.append(index)
            called = False
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(program.steps)], strict=True)]


def emit(program: Program, *, trace: bool = False) -> Emitted:
    """The loop of a program. Pure: the same program gives the same source."""
    constants: dict[str, Any] = {}
    found = segments(program)
    lines: list[str] = []
    live: set[int] = set()
    for number, steps in enumerate(found):
        held = ", ".join(["n", *(f"v{slot}" for slot in sorted(live))])
        head = ["def loop(executions):", "    for n in executions:"]
        if len(found) > 1:
            head = [f"def segment_{number}({'held' if number else 'n'}):"]
        indent = "    " * len(head)
        # Taken here and not by the caller, whose arguments would live until the segment ends.
        body = [f"{held}, = held.popleft()"] if number else []
        body += _segment(number, steps, program.steps, constants, trace)
        for step in program.steps[steps.start : steps.stop]:
            live |= _filled(step)
            live -= set(step.last)
        if number + 1 < len(found):
            body.append(f"return n,{','.join(f' v{slot}' for slot in sorted(live))}")
        lines += [*head, *(f"{indent}{line}" for line in body)]
    return Emitted("\n".join(lines) + "\n", constants)


def _segment(
    number: int, indices: range, steps: Sequence[Step], constants: dict[str, Any], trace: bool
) -> Iterator[str]:
    if trace:
        yield "t0 = clock()"
    stamps = ["t0"]
    for index in indices:
        yield from _step(index, steps[index], constants, trace)
        if trace:
            stamps.append(f"t{index - indices.start + 1}")
            yield f"{stamps[-1]} = clock()"
    if trace:
        calls = [f"q{index} - p{index}" for index in indices if isinstance(steps[index], Run)]
        yield f"record({number}, (n, {', '.join([*stamps, *calls])}))"


def _step(index: int, step: Step, constants: dict[str, Any], trace: bool) -> Iterator[str]:
    if isinstance(step, Recv):
        yield f"v{step.slot} = recv_{index}(n)"
    elif isinstance(step, Post):
        yield f"post_{index}(n)"
    elif isinstance(step, Join):
        yield f"v{step.slot} = join_{index}(v{step.value}, n)"
    elif isinstance(step, Send):
        yield "try:"
        yield f"    send_{index}(v{step.slot}, n)"
        yield "except Ended:"
        yield "    raise"
        yield "except Exception as error:"
        yield f"    send_{index}(unsent_{index}(error, n), n)"
    else:
        if trace:
            yield f"p{index} = cpu_clock()"
        yield from _run(index, step, constants)
        if trace:
            yield f"q{index} = cpu_clock()"
    if step.last:
        yield " = ".join(f"v{slot}" for slot in step.last) + " = None"


def _run(index: int, step: Run, constants: dict[str, Any]) -> Iterator[str]:
    first = step.calls[0]
    templates = [*first.args, *first.kwargs.values()]
    used = dict.fromkeys([*(leaf.index for leaf in leaves(templates) if isinstance(leaf, Slot)), *first.after])
    results = list(dict.fromkeys(f"v{slot}" for call in step.calls for slot in call.results))
    indent = ""
    for word, slot in zip(("if", *["elif"] * len(used)), used, strict=False):
        yield f"{word} type(v{slot}) is Failure:"
        others = [result for result in results if result != f"v{slot}"]
        yield f"    {' = '.join([*others, f'v{slot}'])}" if others else "    pass"
    if used:
        yield "else:"
        indent = "    "
    if len(step.calls) > 1:
        yield f"{indent}made = 0"
    yield f"{indent}try:"
    yield f"{indent}    with turn:"
    for k, (name, call) in enumerate(names_of(index, step), start=1):
        for line in _call(name, call, constants):
            yield f"{indent}        {line}"
        if k < len(step.calls):
            yield f"{indent}        made = {k}"
            if call.last:
                yield f"{indent}        {' = '.join(f'v{slot}' for slot in call.last)} = None"
    yield f"{indent}except BaseException as error:"
    if len(step.calls) == 1:
        yield f"{indent}    {' = '.join(results)} = fail_{index}(error, n)"
    else:
        # Flat, not a chain of elifs: each of these is a level of recursion for Python's compiler.
        failers = ", ".join(f"fail_{name}" for name, _ in names_of(index, step))
        yield f"{indent}    failure = ({failers})[made](error, n)"
        for k, call in enumerate(step.calls):
            yield f"{indent}    if made <= {k}: {' = '.join(f'v{slot}' for slot in call.results)} = failure"
        yield f"{indent}    failure = None"


def _call(name: str, call: Invoke, constants: dict[str, Any]) -> Iterator[str]:
    made = f"call_{name}({', '.join(_arguments(call, constants))})"
    out = [f"v{slot}" for slot in call.out]
    yield f"{', '.join(out)}, = parts_{name}({made})" if call.unpack else f"{out[0]} = {made}"
    if call.done is not None:
        yield f"v{call.done} = None"


def _filled(step: Step) -> set[int]:
    if isinstance(step, Run):
        return {slot for call in step.calls for slot in call.results}
    return {step.slot} if isinstance(step, (Recv, Join)) else set()


def _arguments(call: Invoke, constants: dict[str, Any]) -> Iterator[str]:
    for argument in call.args:
        yield _value(argument, constants)
    for name, argument in call.kwargs.items():
        value = _value(argument, constants)
        if name.isidentifier() and not keyword.iskeyword(name):
            yield f"{name}={value}"
        else:
            yield f"**{{{_constant(name, constants)}: {value}}}"


def _value(template: Any, constants: dict[str, Any]) -> str:
    if isinstance(template, Slot):
        return f"v{template.index}"
    # What holds no value of the graph is one constant, however deep: the method gets the very object that was bound.
    if not is_container(template) or not any(isinstance(leaf, Slot) for leaf in leaves(template)):
        return _constant(template, constants)
    if isinstance(template, dict):
        items = [f"{_constant(key, constants)}: {_value(item, constants)}" for key, item in template.items()]
        return f"{{{', '.join(items)}}}"
    items = [_value(item, constants) for item in template]
    if isinstance(template, list):
        return f"[{', '.join(items)}]"
    made = f"({', '.join(items)},)"
    return made if type(template) is tuple else f"{_constant(type(template)._make, constants)}({made})"


def _constant(value: Any, constants: dict[str, Any]) -> str:
    # A very large int has no repr: Python refuses to write more than 4,300 digits.
    if value is None or type(value) is bool or (type(value) is int and abs(value) < 2**63):
        return repr(value)
    name = f"c{len(constants)}"
    constants[name] = value
    return name
