"""The other processes that this one calls: one ordered stream each, opened at the first call."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import grpc.aio

from channels.errors import DagcError
from runtime.deaths import death_error
from runtime.embedded import control_pb2 as pb
from runtime.embedded import rpc
from runtime.errors import ActorDiedError, EngineError
from runtime.line import Line
from runtime.messages import Reply, Request

if TYPE_CHECKING:
    from runtime.calls import ActorHandle
    from runtime.embedded.control import ControlThread, Delivery
    from runtime.embedded.folder import SessionFolder
    from runtime.embedded.link import HeadLink
    from runtime.ids import ActorId

__all__ = ["Peers", "died"]

#: After a death, how long replies that it had sent may take to come out of its socket. Ends at once as a rule, with
#: the socket's end; a child that the actor forked may hold that open.
_LAST_WORDS_S = 0.2
#: After the end of a stream, how long the notice of the death may take. If none comes, the process lives without it.
_LOST_S = 10.0


def died(death: pb.Death) -> ActorDiedError:
    """The error for a death, as `death_error`."""
    return death_error(death.label, death.pid, death.reason, death.cause)


class Peers:
    """Lines to actors, by their id. Any thread may ask for one."""

    def __init__(self, folder: SessionFolder, control: ControlThread, delivery: Delivery, link: HeadLink) -> None:
        self._folder = folder
        self._control = control
        self._delivery = delivery
        self._link = link
        #: Reentrant: a signal handler or a finalizer of the user's, in the middle of `line`, may come here again.
        self._lock = threading.RLock()
        self._peers: dict[ActorId, tuple[Line, _Peer]] = {}

    def line(self, handle: ActorHandle) -> Line:
        """The line to an actor."""
        with self._lock:
            known = self._peers.get(handle._actor_id)
            if known is None:
                peer = _Peer(self, handle._actor_id)
                line = Line(repr(handle), peer.transmit)
                peer.line = line
                self._control.soon(peer.start)  # first: Ctrl-C may leave no line behind that nobody serves
                known = self._peers.setdefault(handle._actor_id, (line, peer))
            return known[0]

    def close(self) -> None:
        """Fail what is still under way everywhere."""
        with self._lock:
            lines = [line for line, _ in self._peers.values()]
        for line in lines:
            line.die(lambda: EngineError("the engine was shut down before the result came"))


class _Peer:
    """The stream to one actor's process; belongs to the control thread, but for `transmit`."""

    line: Line

    def __init__(self, peers: Peers, actor: ActorId) -> None:
        self._folder = peers._folder
        self._control = peers._control
        self._delivery = peers._delivery
        self._link = peers._link
        self._actor = actor
        self._outbox = rpc.Outbox()
        #: Held here: the event loop itself keeps no task alive.
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._run())

    def transmit(self, request: Request) -> None:
        """Send a request, or keep it until the actor has started."""
        message = pb.CallRequest(
            id=request.id,
            kind=request.kind,
            method=request.method,
            payload=request.payload,
            values=request.values,
            num_returns=request.num_returns,
        )
        with contextlib.suppress(RuntimeError):  # the engine is being shut down; Peers.close fails what is pending
            self._control.soon(self._outbox.put, message)

    async def _run(self) -> None:
        try:
            description = await self._link.ask(describe=pb.Describe(actors=[self._actor]))
            actor = description.actors[0]
            death = actor.death if actor.HasField("death") else await self._exchange()
        except DagcError as error:  # the session has ended, or never had this actor
            kind, text = type(error), str(error)
            self._delivery.put(self.line.die, lambda: kind(text))
        except Exception as error:  # noqa: BLE001 - too many open files, or a defect: whoever waits must hear of it
            lost = f"no connection with actor {self._actor}: {type(error).__name__}: {error}"
            self._delivery.put(self.line.die, lambda: EngineError(lost))
        else:
            self._delivery.put(self.line.die, lambda: died(death))

    async def _exchange(self) -> pb.Death:
        """Send and receive until the actor is dead."""
        async with rpc.open_channel(self._folder.worker(self._actor)) as channel:
            stream = rpc.open_stream(channel, rpc.CALLS, self._folder.token())
            reader = asyncio.ensure_future(self._read(stream))
            try:
                async with self._outbox.written_by(stream.write):
                    death = self._link.death(self._actor)
                    both: list[asyncio.Future[Any]] = [death, reader]
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                    if not death.done():
                        await asyncio.wait([death], timeout=_LOST_S)
                    if not death.done():
                        raise EngineError(f"the connection with actor {self._actor} was lost; its process lives")
                    # The notice may overtake what the actor had answered.
                    await asyncio.wait([reader], timeout=_LAST_WORDS_S)
                    return death.result()
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, stream: Any) -> None:
        # Why the stream ended is nothing: the head tells how the process did.
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for message in stream:
                reply = Reply(message.id, message.failed, message.last, tuple(message.values))
                self._delivery.put(self.line.receive, reply)
