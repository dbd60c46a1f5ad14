"""What check_engine has engines run: actors and functions, and how it asks for them. At the top of a module, because an
actor's process imports them.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtime.engine import ActorContext, ActorOptions, Engine
from runtime.functions import RemoteFunction
from runtime.refs import ObjectRef
from runtime.remote import remote

if TYPE_CHECKING:
    from runtime.calls import ActorHandle

__all__ = [
    "LIMIT_S",
    "Subject",
    "Waiting",
    "collect",
    "error_of",
    "fail",
    "gates",
    "get",
    "later",
    "leave",
    "loop_until_gate",
    "new",
    "open_gate",
    "pair",
    "refuse",
    "run",
    "submit",
    "twice",
]

#: A watchdog: an engine that needs this long hangs.
LIMIT_S = 30.0
#: Of the actors in this process: a thread cannot be killed, so what waits there is let go at the end.
gates: list[threading.Event] = []


class Subject:
    """An actor that does what the checks need."""

    def __init__(self, start: int = 0) -> None:
        if start < 0:
            raise LookupError("start below 0")
        self.seen: list[Any] = []
        self.start = start
        self.gate = threading.Event()
        gates.append(self.gate)
        self.inside = 0
        self.most_inside = 0

    def echo(self, value: Any) -> Any:
        return value

    def keep(self, value: Any, also: Any = None) -> int:
        self.seen.append(value if also is None else (value, also))
        return len(self.seen)

    def all_seen(self) -> list[Any]:
        return self.seen

    def fail(self, text: str) -> None:
        raise LookupError(text)

    def three(self) -> tuple[int, int, int]:
        return 1, 2, 3

    def generate(self) -> Iterator[int]:
        yield 1

    def block(self) -> str:
        if not self.gate.wait(LIMIT_S):
            raise TimeoutError("nobody opened the gate")
        return "opened"

    def open(self) -> None:
        self.gate.set()

    def meet(self, count: int) -> int:
        """Return once `count` calls are inside at the same time."""
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if self.inside >= count:
            self.gate.set()
        self.gate.wait(LIMIT_S)
        return self.most_inside

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    async def never(self) -> None:
        """Waits for what nobody but this call knows; opens the gate when it does."""
        loop = asyncio.get_running_loop()
        loop.call_soon(self.gate.set)
        await loop.create_future()

    async def fail_later(self) -> None:
        await asyncio.sleep(0)
        raise LookupError("later")

    def exit(self, code: int) -> None:
        raise SystemExit(code)


def open_gate(context: ActorContext) -> str:
    context.instance.gate.set()
    return context.label


def collect(context: ActorContext) -> bool:
    """Collect garbage once the gate is open."""
    opened: bool = context.instance.gate.wait(LIMIT_S)
    gc.collect()
    return opened


def refuse(context: ActorContext, text: str) -> None:
    raise LookupError(f"{context.label} {text}")


def loop_until_gate(context: ActorContext, value: int) -> Generator[str, None, str]:
    if value < 0:
        raise LookupError("not set up")
    yield f"ready {value}"
    context.instance.gate.wait(LIMIT_S)
    if value == 0:
        raise LookupError("broke")
    return f"done {value}"


class Waiting(Subject):
    """Its constructor waits for a gate that nobody opens before the end."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.wait(LIMIT_S)


@remote
def twice(value: int) -> int:
    return 2 * value


@remote
async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@remote(name="the failing one")
def fail() -> None:
    raise LookupError("no")


@remote(num_returns=2)
def pair(values: Any) -> Any:
    return values


@remote
def leave(code: int) -> None:
    raise SystemExit(code)


def new(engine: Engine, *args: Any, **options: Any) -> ActorHandle:
    return engine.create_actor(Subject, args, {}, ActorOptions(**options))


def get(ref: ObjectRef | Sequence[ObjectRef]) -> Any:
    if not isinstance(ref, ObjectRef):
        return [get(one) for one in ref]
    return ref.future().result(LIMIT_S)


def error_of(ref: ObjectRef) -> BaseException:
    error = ref.future().exception(LIMIT_S)
    assert error is not None, f"{ref} has a value; expected an exception"
    return error


def submit(engine: Engine, handle: ActorHandle, method: str, *args: Any) -> ObjectRef:
    ref = engine.submit(getattr(handle, method).bind(*args))
    assert isinstance(ref, ObjectRef)
    return ref


def run(engine: Engine, function: RemoteFunction, *args: Any) -> ObjectRef:
    ref = engine.submit(function.bind(*args))
    assert isinstance(ref, ObjectRef)
    return ref
