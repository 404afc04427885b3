"""The server's side of simulated calls: handlers as `grpc.aio` runs them, behind the real interceptor.

Knows of its caller that it takes messages and a status. At most `WINDOW` messages of a stream wait unread,
then the handler waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Protocol

import grpc
from outrider_server.rpc.channels import MAX_MESSAGE_BYTES
from outrider_server.rpc.interceptor import ErrorInterceptor

from .network import Connection

WINDOW = 8
Status = tuple[grpc.StatusCode, str, tuple[tuple[str, Any], ...]]
OK: Status = (grpc.StatusCode.OK, "", ())


class Caller(Protocol):
    """The other end of a call."""

    def receive(self, data: bytes) -> None: ...
    def end(self, status: Status) -> None: ...


class Handling:
    """A call as its server's side holds it, and the context that its handler sees."""

    def __init__(
        self,
        wire: Caller,
        connection: Connection,
        method: str,
        metadata: Any,
        timeout_seconds: float | None,
    ) -> None:
        self._wire = wire
        self._connection = connection
        self._method = method
        self._metadata = tuple(metadata or ())
        self._timeout_seconds = timeout_seconds
        self._requests: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._unread = 0
        self._task: asyncio.Task[Any] | None = None
        self._status = OK

    def begin(self) -> None:
        """Starts the handler, unless the connection broke before it was heard of."""
        if not self._connection.open:
            return
        self._connection.far_broken = self.cancel
        process = self._connection.far
        self._task = process.spawn(self._serve(process.server))
        if self._timeout_seconds is not None:  # a server knows the deadline of a call
            asyncio.get_running_loop().call_later(self._timeout_seconds, self.cancel)

    def receive(self, data: bytes) -> None:
        """A request came."""
        self._requests.append(data)
        self._changed.set()

    def was_read(self) -> None:
        """The caller has read a message."""
        self._unread -= 1
        self._changed.set()

    def cancel(self) -> None:
        """The caller is gone."""
        if self._task is not None:
            self._task.cancel()

    def hang_up(self) -> None:
        """The caller says that it is gone."""
        self.cancel()
        self._connection.close()

    def end(self, status: Status) -> None:
        """Tells the caller how the call ended; runs on its side."""
        self._wire.end(status)
        self._connection.close()

    def invocation_metadata(self) -> Any:
        return self._metadata

    async def abort_with_status(self, status: Any) -> None:
        self._status = (status.code, status.details, tuple(status.trailing_metadata))
        raise grpc.aio.AbortError

    async def write(self, answer: Any) -> None:
        """Sends a message of a stream, once the caller has room for it."""
        await self._send(self._handler, answer)

    async def _serve(self, server: Server) -> None:
        handler = await server.handler(self._method)
        try:
            if handler.unary_unary:
                await self._send(
                    handler, await handler.unary_unary(await self._request(handler), self)
                )
            else:
                behavior = handler.unary_stream or handler.stream_stream
                requests = (
                    self._all(handler) if handler.stream_stream else await self._request(handler)
                )
                self._handler = handler
                await behavior(requests, self)
        except grpc.aio.AbortError:
            pass
        finally:
            self._connection.far_broken = None
            self._task = None  # it would keep what the handler held
        status = self._status
        self._connection.send(self._connection.to_near, lambda: self.end(status))

    async def _send(self, handler: Any, answer: Any) -> None:
        while self._unread >= WINDOW:
            self._changed.clear()
            await self._changed.wait()
        self._unread += 1
        data = handler.response_serializer(answer)
        self._connection.send(self._connection.to_near, lambda: self._wire.receive(data))

    async def _request(self, handler: Any) -> Any:
        while not self._requests:
            self._changed.clear()
            await self._changed.wait()
        return handler.request_deserializer(self._requests.popleft())

    async def _all(self, handler: Any) -> AsyncIterator[Any]:
        while True:
            yield await self._request(handler)


class Server:
    """What the generated code registers servicers with."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}
        self._interceptor = ErrorInterceptor(MAX_MESSAGE_BYTES)

    def add_generic_rpc_handlers(self, _: Any) -> None:
        """The registered ones are enough."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def handler(self, method: str) -> Any:
        """The handler of a method, behind the interceptor."""
        found = self._handlers[method]

        async def continuation(_: Any) -> Any:
            return found

        return await self._interceptor.intercept_service(
            continuation, SimpleNamespace(method=method)
        )
