"""A reference interpreter of lowered programs: deques for channels, a Python function for every method."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagc.containers import map_leaves
from dagc.program import InputAccess, Program, Recv, Run, Slot

if TYPE_CHECKING:
    from dagc.passes.lower import Lowered

#: (actor, method, args, kwargs) -> what the method returns.
Methods = Callable[[str, str, Sequence[Any], Mapping[str, Any]], Any]
#: (channel, reader) -> messages.
Queues = dict[tuple[str, int], deque[Any]]


def interpret(
    lowered: Lowered, methods: Methods, calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]
) -> list[Any]:
    """The results of `calls` of execute, with all of them sent before the first result is taken."""
    driver = lowered.driver
    queues: Queues = {
        (name, index): deque()
        for program in (*lowered.programs.values(), driver)
        for name, index in program.reads.items()
    }

    def write(name: str, value: Any) -> None:
        for (channel, _), queue in queues.items():
            if channel == name:
                queue.append(value)

    for args, kwargs in calls:
        for name, access in driver.sends.items():
            write(name, None if access is None else part(access, args, kwargs))
    loops = [run(program, methods, queues, write, len(calls)) for program in lowered.programs.values()]
    while loops:
        loops = [loop for loop in loops if next(loop, "ended") != "ended"]
    results = []
    for args, kwargs in calls:
        got = {name: queues[name, index].popleft() for name, index in driver.reads.items()}
        values = [
            part(out.access, args, kwargs) if out.access is not None else got[str(out.channel)]
            for out in driver.outputs
        ]
        results.append(values if driver.multi else values[0])
    assert not any(queues.values()), "every message was read"
    return results


def part(access: InputAccess, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if access.key is None:
        return args[0]
    return kwargs[access.key] if isinstance(access.key, str) else args[access.key]


def run(
    program: Program, methods: Methods, queues: Queues, write: Callable[[str, Any], None], executions: int
) -> Iterator[str]:
    """One actor; it yields whenever another may go on. A slot is gone after its last use, so that a later one fails."""
    for _ in range(executions):
        slots: dict[int, Any] = {}

        def fill(leaf: Any, slots: dict[int, Any] = slots) -> Any:
            return slots[leaf.index] if isinstance(leaf, Slot) else leaf

        for step in program.steps:
            if isinstance(step, Recv):
                queue = queues[step.channel, program.reads[step.channel]]
                while not queue:
                    yield "waiting"
                assert step.slot not in slots
                slots[step.slot] = queue.popleft()
            elif isinstance(step, Run):
                for call in step.calls:
                    assert all(slot in slots for slot in call.after)
                    args, kwargs = map_leaves(call.args, fill), map_leaves(dict(call.kwargs), fill)
                    value = methods(program.actor, call.method, args, kwargs)
                    values = [*(value if call.unpack else [value]), *([] if call.done is None else [None])]
                    assert not set(call.results) & set(slots)
                    slots.update(zip(call.results, values, strict=True))
                    for slot in call.last:
                        del slots[slot]
            else:
                assert step.channel in program.writes
                write(step.channel, slots[step.slot])
            assert all(slot < program.slots for slot in slots)
            for slot in step.last:
                # What a fused call has dropped stands here once more, for the case that it is not made.
                if slot in slots or not isinstance(step, Run):
                    del slots[slot]
        assert not slots, "every slot is free after an execution"
