"""A process's link with the head: questions and answers, and the deaths that it was asked to tell."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc.aio

from runtime.embedded import control_pb2 as pb
from runtime.embedded import rpc
from runtime.errors import EngineError, GraphError

if TYPE_CHECKING:
    from runtime.embedded.folder import SessionFolder
    from runtime.ids import ActorId

__all__ = ["HeadLink"]


class HeadLink:
    """Belongs to the control thread. `on_construct` hears what to construct, `on_lost` that the head is gone."""

    def __init__(
        self,
        folder: SessionFolder,
        hello: pb.Hello,
        *,
        on_construct: Callable[[pb.Construct], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._outbox = rpc.Outbox()
        self._outbox.put(pb.ToHead(hello=hello))
        self._numbers = itertools.count(1)
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._deaths: dict[ActorId, asyncio.Future[pb.Death]] = {}
        self._on_construct = on_construct
        self._on_lost = on_lost
        #: Called when workers of tasks that are idle are to be ended.
        self.on_release: Callable[[], None] | None = None
        self._task = asyncio.ensure_future(self._run(folder))

    async def ask(self, **body: Any) -> Any:
        """Send a question; its answer's body. Raises GraphError if the head refuses, EngineError if it is gone."""
        number = next(self._numbers)
        answer = self._questions[number] = asyncio.get_running_loop().create_future()
        if self._task.done():
            raise EngineError("the session has ended")
        self._outbox.put(pb.ToHead(id=number, **body))
        try:
            return await answer
        finally:
            del self._questions[number]

    def tell(self, message: pb.ToHead) -> None:
        """Send what needs no answer."""
        self._outbox.put(message)

    def death(self, actor: ActorId) -> asyncio.Future[pb.Death]:
        """Done when the actor is dead. One question an actor and process, however many wait; never cancel it."""
        known = self._deaths.get(actor)
        if known is None:
            known = self._deaths[actor] = asyncio.ensure_future(self.ask(watch=pb.Watch(actor=actor)))
        return known

    async def close(self) -> None:
        """Leave the session."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, folder: SessionFolder) -> None:
        try:
            async with rpc.open_channel(folder.head()) as channel:
                stream = rpc.open_stream(channel, rpc.LINK, folder.token())
                async with self._outbox.written_by(stream.write):
                    async for message in stream:
                        self._take(message)
        except grpc.aio.AioRpcError as error:
            lost = EngineError(f"the session has ended: {error.details()}")
        except Exception as error:  # noqa: BLE001 - too many open files, or a defect: whoever asks must hear of it
            lost = EngineError(f"the connection with the session was lost: {type(error).__name__}: {error}")
        else:
            lost = EngineError("the session has ended")
        for question in self._questions.values():
            if not question.done():
                question.set_exception(lost)
        if self._on_lost is not None:
            self._on_lost()

    def _take(self, message: pb.FromHead) -> None:
        kind = message.WhichOneof("body")
        if kind == "construct":
            assert self._on_construct is not None
            self._on_construct(message.construct)
            return
        if kind == "release":
            if self.on_release is not None:  # else there is no engine yet, and no worker either
                self.on_release()
            return
        question = self._questions.get(message.id)
        if question is None or question.done():  # whoever asked was cancelled
            return
        if kind == "refused":
            question.set_exception(GraphError(message.refused))
        else:
            question.set_result(getattr(message, kind))
