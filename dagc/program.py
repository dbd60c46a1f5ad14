"""Program: one party's slice of the plan, picklable and ready to be linked with an actor's instance.

A slot is a numbered place for a value inside one party during one execution. Steps read and write slots; channels
are named, and install delivers the specs beside the program, so that lowering needs no address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from channels.transfer import TensorPath
from runtime.functions import RemoteFunction

__all__ = [
    "DriverProgram",
    "InputAccess",
    "Invoke",
    "Join",
    "Output",
    "Post",
    "Program",
    "Recv",
    "Run",
    "Send",
    "Slot",
    "Step",
]


@dataclass(frozen=True)
class Slot:
    """Stands for a slot's value in the arguments of a Run; anything else there is a constant."""

    index: int

    def __repr__(self) -> str:
        return f"%{self.index}"


@dataclass(frozen=True)
class Recv:
    """Take the next message of a channel into a slot. `last`: slots that nobody reads after this step."""

    channel: str
    slot: int
    last: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"%{self.slot} = recv {self.channel}{_dropped(self.last)}"


@dataclass(frozen=True)
class Post:
    """Begin to receive the next message of a channel, whose Recv follows later."""

    channel: str
    last: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"post {self.channel}"


@dataclass(frozen=True)
class Invoke:
    """One call: of a method, or with `function` of that. One value goes into each slot of `out`.

    `args` and `kwargs` are templates: Slots stand for values, also inside lists, tuples and dicts.
    """

    #: The node's name in graph, plan, trace and error messages.
    node: str
    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: tuple[int, ...]
    #: False: what is returned is the value of the one slot; True: a sequence of exactly len(out) values.
    unpack: bool = False
    #: The slot that gets None once the call has been made.
    done: int | None = None
    #: Slots of calls that must have been made before: they are looked at for failures, and not passed on.
    after: tuple[int, ...] = ()
    function: RemoteFunction | None = None
    #: Slots that no later call or step reads, if another call follows in the same Run.
    last: tuple[int, ...] = ()

    @property
    def results(self) -> tuple[int, ...]:
        """Every slot that it fills."""
        return self.out if self.done is None else (*self.out, self.done)

    def __str__(self) -> str:
        values = ", ".join(f"%{slot}" for slot in self.out)
        done = "" if self.done is None else f"{', ' if values else ''}end %{self.done}"
        shown = [repr(arg) for arg in self.args] + [f"{key}={arg!r}" for key, arg in self.kwargs.items()]
        after = f" after {', '.join(f'%{slot}' for slot in self.after)}" if self.after else ""
        return f"{values}{done} = run {self.node}: {self.method}({', '.join(shown)}){after}{_dropped(self.last)}"


@dataclass(frozen=True)
class Run:
    """Make one call, or several that were fused (passes/fuse.py), in one turn.

    If one of the values that the first call uses is a Failure, no call is made and each result is that Failure; if a
    call raises, so are its results and those of the calls that follow.
    """

    calls: tuple[Invoke, ...]
    last: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{'; '.join(map(str, self.calls))}{_dropped(self.last)}"


@dataclass(frozen=True)
class Send:
    """Publish a slot's value as the next message of a channel."""

    channel: str
    slot: int
    last: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"send {self.channel} %{self.slot}{_dropped(self.last)}"


@dataclass(frozen=True)
class Join:
    """Take part in a collective with a slot's value; what it leaves here goes into another slot.

    All ranks join, whatever happened to their values: one that has a Failure says so to the others.
    """

    group: str
    #: Which of the program's communicators.
    communicator: str
    kind: str
    op: str
    root: int
    value: int
    slot: int
    last: tuple[int, ...] = ()

    def __str__(self) -> str:
        how = f", {self.op}" if self.op else f", root {self.root}" if self.kind == "broadcast" else ""
        return f"%{self.slot} = join {self.group}: {self.kind}(%{self.value}{how}){_dropped(self.last)}"


Step = Recv | Post | Run | Send | Join


@dataclass(frozen=True)
class Program:
    """What one actor does in every execution, in this order."""

    graph: str
    #: The actor's name in the plan.
    actor: str
    steps: tuple[Step, ...]
    #: How many slots the steps use.
    slots: int
    #: Channel -> this actor's index among its readers.
    reads: Mapping[str, int]
    writes: tuple[str, ...]
    #: Communicator -> this actor's rank in it.
    ranks: Mapping[str, int] = field(default_factory=dict)
    #: Channel -> how the tensors in its messages travel, where that was said.
    tensors: Mapping[str, TensorPath] = field(default_factory=dict)
    #: True: while it waits in the middle of an execution, it may begin the next one (dagc/ahead.py).
    free: bool = False

    def __str__(self) -> str:
        lines = [f"program of {self.actor}, {self.slots} slots", *(f"  {step}" for step in self.steps)]
        return "\n".join([*lines, *(f"  {channel}: {path}" for channel, path in self.tensors.items())])


@dataclass(frozen=True)
class InputAccess:
    """Which part of the arguments of `execute` a value is: all of it (key None), a position, or a keyword."""

    key: int | str | None

    def __str__(self) -> str:
        if self.key is None:
            return "input"
        return f"input[{self.key}]" if isinstance(self.key, int) else f"input.{self.key}"


@dataclass(frozen=True)
class Output:
    """One of the graph's results: what a channel brings, or (channel None) a part of the input as it went in."""

    name: str
    channel: str | None
    access: InputAccess | None = None


@dataclass(frozen=True)
class DriverProgram:
    """What the compiling process does in every execution: write the inputs, later read the outputs."""

    graph: str
    #: Channel -> what of the input it carries, in the order of sending. None: a tick, whose every message is None.
    sends: Mapping[str, InputAccess | None]
    #: The results in the order of the output; the same channel may stand there twice.
    outputs: tuple[Output, ...]
    #: Channel -> the driver's index among its readers.
    reads: Mapping[str, int]
    #: Positional arguments that `execute` takes, and keywords. (1, ()) also when the input is used whole.
    positional: int
    keywords: tuple[str, ...]
    #: Channels that tell of the ends of leaves, which every result of an execution waits for.
    leaves: tuple[str, ...]
    #: True: `execute` returns a list of refs (MultiOutputNode); False: one ref.
    multi: bool
    #: Channel -> how the tensors in its messages travel, where that was said.
    tensors: Mapping[str, TensorPath] = field(default_factory=dict)


def _dropped(last: tuple[int, ...]) -> str:
    return f"; drop {', '.join(f'%{slot}' for slot in last)}" if last else ""
