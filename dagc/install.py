"""Install: a plan and its programs become channels, running loops and the driver's own ends; all of it or nothing.

One call an actor, all in parallel. The compiling process makes every channel, in its own memory: so the specs are
complete before anybody is asked, and it can break and observe each channel whoever is dead.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

from channels import Channel, ChannelBroken, ChannelSpec, Reader, Writer, create_channel, open_reader, open_writer
from channels.communicators import GroupHandle, Transport, transport
from channels.serialize import pack
from channels.transfer import tensor_ends
from dagc.errors import ActorDiedError, GetTimeoutError, SerializationError
from dagc.executor import Membership, TraceKey, run_program
from dagc.options import CompileOptions
from dagc.passes.channels import BUFFERED
from dagc.passes.lower import Lowered
from dagc.plan import HEADS, Plan
from dagc.plan import Channel as PlannedChannel
from dagc.program import Program, Run
from dagc.timing.recorder import DriverRecorder
from dagc.workers import end_workers
from runtime import preload
from runtime.calls import ActorHandle
from runtime.engine import Engine, Loop
from runtime.unsendable import unsendable

__all__ = ["DEATH_SECONDS", "Installation", "install"]

#: How much later than what it does to others a death may be told. Shorter than ending.REASON_SECONDS.
DEATH_SECONDS = 3.0
#: Actors have this long at least to set up their loops: the graph's timeout is of executions, and may be milliseconds.
READY_SECONDS = 30.0
#: How long an install that failed waits for the loops that it had started.
UNDO_SECONDS = 1.0

preload.add(run_program.__module__)


@dataclass(frozen=True)
class Installation:
    """What is there once a graph is installed."""

    channels: Mapping[str, Channel]
    #: Actor -> its loop.
    loops: Mapping[str, Loop]
    #: The driver's ends.
    writers: Mapping[str, Writer]
    readers: Mapping[str, Reader]
    #: Started for this graph alone: they end with it.
    workers: tuple[ActorHandle, ...]
    #: Of the driver's ends, if the graph is traced.
    recorder: DriverRecorder | None
    #: The communicators of its collectives.
    groups: tuple[GroupHandle, ...]

    def break_(self, reason: str) -> None:
        """Stop every loop where it waits."""
        _break_all(self.channels, self.groups, reason)

    def destroy(self, engine: Engine, *, wait: bool = True) -> None:
        """End the workers, and give the memory of channels and communicators back."""
        _at_once(group.destroy for group in self.groups)
        end_workers(engine, self.workers, wait=wait)
        for writer in self.writers.values():
            writer.close()
        for reader in self.readers.values():
            reader.close()
        for channel in self.channels.values():
            channel.destroy()


def install(
    plan: Plan,
    lowered: Lowered,
    handles: Mapping[str, ActorHandle],
    workers: Iterable[str],
    engine: Engine,
    options: CompileOptions,
) -> Installation:
    """Returns once every actor has opened its ends and waits for the first execution.

    `workers`: which of the handles are of actors that belong to the graph. Raises what an actor raised meanwhile
    (ActorDiedError if it died, ChannelBroken if it cannot reach a channel, GraphError if one of its methods cannot be
    compiled), GetTimeoutError or ArenaFullError; then nothing of it is left.
    """
    with ExitStack() as undo:
        channels: dict[str, Channel] = {}
        for planned in plan.channels:
            channel = create_channel(_spec(planned, options))
            channels[planned.name] = channel
            undo.callback(channel.destroy)
        groups: list[GroupHandle] = []
        memberships: dict[str, Membership] = {}
        for name, shared in lowered.communicators.items():
            used = shared.transport if isinstance(shared.transport, Transport) else transport(shared.transport)
            group = used.create(len(shared.members), name)
            groups.append(group)
            undo.callback(group.destroy)
            memberships[name] = Membership(used, group.id, len(shared.members))
        specs = {name: channel.spec for name, channel in channels.items()}
        loops: dict[str, Loop] = {}
        trace = uuid.uuid4().hex
        # Breaking the channels ends the loops; an undo that returned before that would leave them to trip the next
        # compile. An actor that does not answer at all is not waited for.
        undo.callback(lambda: wait([loop.done for loop in loops.values()], UNDO_SECONDS))
        undo.callback(_break_all, channels, groups, "the graph could not be installed")
        for actor, program in lowered.programs.items():
            needed = {name: specs[name] for name in (*program.reads, *program.writes)}
            key = TraceKey(trace, actor) if options.trace else None
            ranges = options.trace == "nvtx"
            joins = {name: memberships[name] for name in program.ranks}
            try:
                loops[actor] = engine.start_loop(handles[actor], run_program, program, needed, joins, key, ranges)
            except SerializationError as error:
                raise _unsendable(program, error) from error
        writers = {name: open_writer(specs[name]) for name in lowered.driver.sends}
        readers = {name: open_reader(specs[name], index) for name, index in lowered.driver.reads.items()}
        readers, writers = tensor_ends(lowered.driver.tensors, readers, writers, {})
        recorder = None
        if options.trace:
            recorder = DriverRecorder(trace, tuple(writers), tuple(readers))
            writers = {name: recorder.writer(name, writer) for name, writer in writers.items()}
            readers = {name: recorder.reader(name, reader) for name, reader in readers.items()}
        _wait_until_ready(loops, options)
        undo.pop_all()
    return Installation(
        channels, loops, writers, readers, tuple(handles[name] for name in workers), recorder, tuple(groups)
    )


def _unsendable(program: Program, error: SerializationError) -> SerializationError:
    """What was bound and is no node goes with the program: the call that has what cannot be sent."""
    calls = (call for step in program.steps if isinstance(step, Run) for call in step.calls)
    for call in calls:
        try:
            pack((call.args, dict(call.kwargs)))
        except SerializationError as found:
            return unsendable(call.node, call.args, call.kwargs, found)
    return error


def _wait_until_ready(loops: Mapping[str, Loop], options: CompileOptions) -> None:
    """Raise what the first loop that failed raised, the others may never be ready; or GetTimeoutError.

    The survivors of a group may hear of a death before the engine does: then that is waited for a moment.
    """
    all_ready = [loop.ready for loop in loops.values()]
    patience = None if options.timeout is None else max(options.timeout, READY_SECONDS)
    done, pending = wait(all_ready, patience, "FIRST_EXCEPTION")
    errors = [error for ready in done if (error := ready.exception()) is not None]
    if errors and all(isinstance(error, ChannelBroken) for error in errors):
        later, _ = wait(pending, DEATH_SECONDS)
        errors += [error for ready in later if (error := ready.exception()) is not None]
    for error in sorted(errors, key=lambda error: not isinstance(error, ActorDiedError)):
        raise error
    if pending:
        late = [actor for actor, loop in loops.items() if loop.ready in pending]
        raise GetTimeoutError(f"graph {options.name}: {', '.join(late)} did not set up its part within {patience} s")


def _break_all(channels: Mapping[str, Channel], groups: Iterable[GroupHandle], reason: str) -> None:
    for channel in channels.values():
        channel.break_(reason)
    _at_once(partial(group.abort, reason) for group in groups)


def _at_once(calls: Iterable[Callable[[], None]]) -> None:
    """Make them in threads: each may wait for members of its group that do not answer. In this one if there is one
    call, or if the process is about to end and Python starts no thread any more."""
    listed = list(calls)
    begun: list[Future[None]] = []
    if len(listed) > 1:
        with ThreadPoolExecutor(len(listed)) as threads, suppress(RuntimeError):
            while listed:
                begun.append(threads.submit(listed[-1]))
                listed.pop()
    for call in listed:
        call()
    for done in begun:
        done.result()


def _spec(planned: PlannedChannel, options: CompileOptions) -> ChannelSpec:
    return ChannelSpec(
        name=planned.name,
        # What communicators move has a head in shared memory.
        transport=planned.transport if planned.transport in BUFFERED else "shm",
        readers=len(planned.readers),
        slots=planned.slots or HEADS,
        buffer_bytes=planned.buffer_bytes,
        max_message_bytes=options.max_message_bytes,
        yield_us=None if options.spin == "auto" else float(options.spin),
    )
