"""A worker process: one actor, its socket, and its link with the head. `boot.py` calls `main`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import queue
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from runtime import current
from runtime.embedded import control_pb2 as pb
from runtime.embedded import rpc
from runtime.embedded.control import ControlThread
from runtime.embedded.engine import EmbeddedEngine
from runtime.embedded.folder import SessionFolder
from runtime.embedded.link import HeadLink
from runtime.embedded.marker import Marker
from runtime.host import ActorHost
from runtime.ids import ActorId
from runtime.messages import Kind, Reply, Request

if TYPE_CHECKING:
    import grpc.aio

__all__ = ["main"]

#: How long a process that ends by sys.exit tries to get rid of its last replies.
_LAST_WORDS_S = 1.0


def main(path: str, actor: str, marker: int, preload: Sequence[str]) -> None:
    """Run the actor until this process is killed; its main thread runs the methods. See runtime/preload.py."""
    folder, control = SessionFolder(path), ControlThread()
    to_construct: queue.SimpleQueue[pb.Construct] = queue.SimpleQueue()

    async def join() -> HeadLink:
        # Who lost the head has lost the driver. PDEATHSIG says so too, unless the actor has changed its user id.
        hello = pb.Hello(actor=actor, pid=os.getpid())
        return HeadLink(folder, hello, on_construct=to_construct.put, on_lost=lambda: os._exit(1))

    link = control.run(join())
    for module in preload:
        importlib.import_module(module)
    engine = EmbeddedEngine(folder, control, link)
    current.install(lambda: engine)
    construct = to_construct.get()
    calls = _Calls(control)
    host = ActorHost(
        ActorId(actor),
        construct.label,
        construct.max_concurrency,
        on_exit=calls.exit,
        on_running=Marker(marker).set,
    )
    failure = host.construct(construct.payload, construct.values)
    if failure is None:
        server = control.run(calls.serve(host, folder, ActorId(actor)))
        control.soon(link.tell, pb.ToHead(built=pb.Built()))
        host.run()
        del server
    else:
        control.soon(link.tell, pb.ToHead(built=pb.Built(failure=failure)))
        threading.Event().wait()  # the head ends this process


class _Calls:
    """Serves the callers of this process's actor: a stream each."""

    _host: ActorHost

    def __init__(self, control: ControlThread) -> None:
        self._control = control
        self._outboxes: set[rpc.Outbox] = set()

    def exit(self, code: int) -> None:
        """A method called sys.exit: what other calls have returned is sent first."""
        with contextlib.suppress(asyncio.TimeoutError):
            self._control.run(asyncio.wait_for(self._emptied(), _LAST_WORDS_S))
        _exit(code)

    async def _emptied(self) -> None:
        await asyncio.gather(*(outbox.emptied() for outbox in self._outboxes))

    async def serve(self, host: ActorHost, folder: SessionFolder, actor: ActorId) -> grpc.aio.Server:
        self._host = host
        return await rpc.serve(folder.worker(actor), rpc.CALLS, folder.token(), self._serve_caller)

    async def _serve_caller(self, messages: AsyncIterator[pb.CallRequest], write: rpc.Write) -> None:
        outbox = rpc.Outbox()

        def answer(reply: Reply) -> None:
            message = pb.CallReply(id=reply.id, failed=reply.failed, last=reply.last, values=reply.values)
            self._control.soon(outbox.put, message)

        self._outboxes.add(outbox)
        try:
            async with outbox.written_by(write):
                async for message in messages:
                    request = Request(
                        message.id,
                        Kind(message.kind),
                        message.method,
                        message.payload,
                        tuple(message.values),
                        message.num_returns,
                    )
                    self._host.receive(request, answer)
        finally:
            self._outboxes.discard(outbox)
        # The caller is gone, and with it whoever waited for the replies.


def _exit(code: int) -> None:
    """A method called sys.exit. Not through the interpreter's own exit, which waits for the user's other threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)
