"""gRPC as the embedded engine uses it: ordered streams over Unix sockets, behind the session's token.

Streams are opened by path, without generated stubs: there are two of them, and control_pb2_grpc.py would be one more
generated file to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from runtime.embedded import control_pb2 as pb

__all__ = ["CALLS", "LINK", "Handler", "Outbox", "Write", "open_channel", "open_stream", "serve"]

#: Path, what the caller sends, what it gets.
LINK = ("/dagc.Head/Link", pb.ToHead, pb.FromHead)
CALLS = ("/dagc.Worker/Calls", pb.CallRequest, pb.CallReply)

#: Writes one message to a stream.
Write = Callable[[Any], Awaitable[object]]
#: The server's side of a stream: what comes, and how to answer.
Handler = Callable[[AsyncIterator[Any], Write], Awaitable[None]]

_Method = tuple[str, type[Message], type[Message]]

_TOKEN = "dagc-token-bin"
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a channel of its own connection: closing it closes the socket
    ("grpc.enable_http_proxy", 0),
]


class Outbox:
    """What is to be written to a stream, in order. `put` belongs to the control thread and never waits."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._filled = asyncio.Event()
        #: Nothing is left, and nothing is being written.
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, message: Message) -> None:
        self._messages.append(message)
        self._filled.set()
        self._empty.clear()

    async def emptied(self) -> None:
        """Wait until all that was put is written."""
        await self._empty.wait()

    @contextlib.asynccontextmanager
    async def written_by(self, write: Write) -> AsyncIterator[None]:
        """Write what comes while this is open. That a write failed is nothing: who reads hears that the stream ended,
        and a message that cannot be written was refused before it came here."""
        writer = asyncio.ensure_future(self._write(write))
        try:
            yield
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, write: Write) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._messages:
                await write(self._messages.popleft())
            self._empty.set()


def open_stream(channel: grpc.aio.Channel, method: _Method, token: bytes) -> Any:
    """Start a call of `method`: iterate over it for what comes, `write` to it; see grpc.aio.StreamStreamCall."""
    path, request, reply = method
    opened: Any = channel.stream_stream(path, request.SerializeToString, reply.FromString)
    return opened(metadata=((_TOKEN, token),), wait_for_ready=True)


def open_channel(address: str) -> grpc.aio.Channel:
    """A connection to one of the session's sockets. No TLS: it cannot leave the machine, and the folder is 0700."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


async def serve(address: str, method: _Method, token: bytes, handler: Handler) -> grpc.aio.Server:
    """Listen on a Unix socket; `handler(messages, write)` is run for each caller that has the token, until it returns.

    Callers without it get UNAUTHENTICATED before anything of theirs is read.
    """

    async def checked(messages: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        given = dict(context.invocation_metadata() or ()).get(_TOKEN, b"")
        if not isinstance(given, bytes) or not hmac.compare_digest(given, token):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not a process of this session")
        await handler(messages, context.write)

    path, request, reply = method
    service, name = path[1:].split("/")
    handlers = {name: grpc.stream_stream_rpc_method_handler(checked, request.FromString, reply.SerializeToString)}
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(address)
    await server.start()
    return server
