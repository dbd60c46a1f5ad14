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
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from typing import Any, NamedTuple

from dagc.containers import is_container, leaves
from dagc.program import Program, Recv, Run, Send, Slot, Step

__all__ = ["Emitted", "emit"]


class Emitted(NamedTuple):
    """Source of `loop(executions)`, and the names in it that are constants.

    The namespace must also have, for step number i: recv_i(n); call_i(...), parts_i(result) and fail_i(error, n);
    send_i(value, n) and unsent_i(error, n); and `turn`, `Failure`, and `Ended`, the errors of a channel that has ended.
    """

    source: str
    constants: dict[str, Any]


def emit(program: Program) -> Emitted:
    """The loop of a program. Pure: the same program gives the same source."""
    constants: dict[str, Any] = {}
    lines = ["def loop(executions):", "    for n in executions:"]
    for index, step in enumerate(program.steps):
        lines += [f"        {line}" for line in _step(index, step, constants)]
    return Emitted("\n".join(lines) + "\n", constants)


def _step(index: int, step: Step, constants: dict[str, Any]) -> Iterator[str]:
    if isinstance(step, Recv):
        yield f"v{step.slot} = recv_{index}(n)"
    elif isinstance(step, Send):
        yield "try:"
        yield f"    send_{index}(v{step.slot}, n)"
        yield "except Ended:"
        yield "    raise"
        yield "except Exception as error:"
        yield f"    send_{index}(unsent_{index}(error, n), n)"
    else:
        yield from _run(index, step, constants)
    if step.last:
        yield " = ".join(f"v{slot}" for slot in step.last) + " = None"


def _run(index: int, step: Run, constants: dict[str, Any]) -> Iterator[str]:
    templates = [*step.args, *step.kwargs.values()]
    used = dict.fromkeys(leaf.index for leaf in leaves(templates) if isinstance(leaf, Slot))
    out = [f"v{slot}" for slot in step.out]
    every = " = ".join(out)
    indent = ""
    for word, slot in zip(("if", *["elif"] * len(used)), used, strict=False):
        yield f"{word} type(v{slot}) is Failure:"
        yield f"    {every} = v{slot}"
    if used:
        yield "else:"
        indent = "    "
    call = f"call_{index}({', '.join(_arguments(step, constants))})"
    yield f"{indent}try:"
    yield f"{indent}    with turn:"
    if step.unpack:
        yield f"{indent}        {', '.join(out)}, = parts_{index}({call})"
    else:
        yield f"{indent}        {every} = {call}"
    yield f"{indent}except BaseException as error:"
    yield f"{indent}    {every} = fail_{index}(error, n)"


def _arguments(step: Run, constants: dict[str, Any]) -> Iterator[str]:
    for argument in step.args:
        yield _value(argument, constants)
    for name, argument in step.kwargs.items():
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
    if value is None or type(value) in (bool, int):
        return repr(value)
    name = f"c{len(constants)}"
    constants[name] = value
    return name
