"""gRPC without sockets, the caller's side: a channel for the generated stubs, and its calls.

A stand-in for `grpc.aio`, as far as this system uses it: messages are serialised, and calls have the states
and raise the errors that `grpc.aio` gives them. The server's side is `serving.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from .clock import Process
from .network import SERVICE_KEEPALIVE_SECONDS, Connection, Network
from .serving import Handling, Status

EOF = grpc.aio.EOF
LOST: Status = (grpc.StatusCode.UNAVAILABLE, "the connection was lost", ())


class Channel:
    """`grpc.aio.Channel` for the generated stubs. `resolve` says whom a new call goes to."""

    def __init__(
        self,
        network: Network,
        near: Process,
        resolve: Callable[[], str],
        keepalive_seconds: float = SERVICE_KEEPALIVE_SECONDS,
    ) -> None:
        self._network = network
        self._near = near
        self._resolve = resolve
        self._keepalive_seconds = keepalive_seconds
        self._calls: dict[Wire, None] = {}

    def unary_unary(self, method: str, **codec: Any) -> Callable[..., Any]:
        """A method of one request and one answer."""
        return lambda request, **options: UnaryCall(self._wire(method, codec, request, **options))

    def unary_stream(self, method: str, **codec: Any) -> Callable[..., Any]:
        """A method that answers with a stream."""
        return lambda request, **options: StreamCall(self._wire(method, codec, request, **options))

    def stream_stream(self, method: str, **codec: Any) -> Callable[..., Any]:
        """A method of two streams."""
        return lambda **options: StreamCall(self._wire(method, codec, None, **options))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Always ready: each call finds out by itself whether anybody is there."""
        return grpc.ChannelConnectivity.READY

    def _wire(
        self,
        method: str,
        codec: dict[str, Any],
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        wait_for_ready: bool | None = None,
    ) -> Wire:
        wire = Wire(method, codec, self._near)
        self._calls[wire] = None
        wire.on_end = lambda: self._calls.pop(wire, None)
        if timeout is not None:
            wire.end_after(timeout)
        wire.begin(
            self._network, self._resolve(), request, metadata, timeout, self._keepalive_seconds
        )
        return wire

    async def close(self, grace: float | None = None) -> None:
        """Cancels every call."""
        for wire in list(self._calls):
            wire.cancel()


class Wire:
    """A call as its caller's side holds it."""

    def __init__(self, method: str, codec: dict[str, Any], near: Process) -> None:
        self.status: Status | None = None
        self.cancelled = False
        self.on_end: Callable[[], Any] = lambda: None
        self._method = method
        self._serialize = codec["request_serializer"]
        self._parse = codec["response_deserializer"]
        self._near = near
        self._received: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._connection: Connection | None = None
        self._far: Handling | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(
        self,
        network: Network,
        address: str,
        request: Any,
        metadata: Any,
        timeout: float | None,
        keepalive_seconds: float,
    ) -> None:
        """Connects; a call to nobody, or over a link that is cut, fails after a while."""
        far = network.processes.get(address)
        loop = asyncio.get_running_loop()
        if far is None or network.is_cut(self._near.name, address):
            refused = (grpc.StatusCode.UNAVAILABLE, "failed to connect", ())
            delay = network.delay(address) + (0.0 if far is None else keepalive_seconds)
            loop.call_later(delay, self.end, refused)
            return
        connection = Connection(network, self._near, far, keepalive_seconds)
        connection.near_broken = lambda: self.end(LOST)
        self._connection = connection
        self._far = Handling(self, connection, self._method, metadata, timeout)
        self._send(self._far.begin)
        if request is not None:
            self.write(request)

    def end_after(self, seconds: float) -> None:
        """Sets the call's deadline."""
        late = (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())

        def expire() -> None:
            self._hang_up()
            self.end(late)

        self._timer = asyncio.get_running_loop().call_later(seconds, expire)

    def write(self, request: Any) -> None:
        """Sends a message."""
        if self._far is not None:
            data, far = self._serialize(request), self._far
            self._send(lambda: far.receive(data))

    async def read(self) -> Any:
        """The next message, or EOF; the status is there then."""
        while not self._received and self.status is None:
            self._news.clear()
            await self._news.wait()
        if not self._received:
            return EOF
        data = self._received.popleft()
        if self._far is not None:
            self._send(self._far.was_read)
        return self._parse(data)

    def check_status(self) -> None:
        """Raises what `grpc.aio` raises for the status of a call that has ended."""
        if self.cancelled:
            raise asyncio.CancelledError
        assert self.status is not None
        code, details, trailing = self.status
        if code is not grpc.StatusCode.OK:
            raise AioRpcError(code, Metadata(), Metadata(*trailing), details)

    def receive(self, data: bytes) -> None:
        """A message came."""
        if self.status is None:
            self._received.append(data)
            self._news.set()

    def end(self, status: Status) -> None:
        """The call has ended."""
        if self.status is not None:
            return
        self.status = status
        if status is LOST:
            self._received.clear()
        if self._connection is not None:
            self._connection.near_broken = None
        if self._timer is not None:
            self._timer.cancel()
        self.on_end()
        self._news.set()

    def cancel(self) -> bool:
        """Gives the call up."""
        if self.status is not None or not self._near.alive:
            return False
        self.cancelled = True
        self._received.clear()
        self._hang_up()
        self.end((grpc.StatusCode.CANCELLED, "Locally cancelled by application!", ()))
        return True

    def _hang_up(self) -> None:
        if self._far is not None:
            self._send(self._far.hang_up)

    def _send(self, deliver: Callable[[], None]) -> None:
        if self._connection is not None:
            self._connection.send(self._connection.to_far, deliver)


class _Call:
    """What callers hold: given up when nobody holds it any more, as a call of `grpc.aio`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def cancel(self) -> bool:
        return self._wire.cancel()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._wire.cancel()


class UnaryCall(_Call):
    """Awaited for the answer."""

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            answer = yield from self._wire.read().__await__()
        except asyncio.CancelledError:
            self._wire.cancel()
            raise
        if answer is EOF:
            self._wire.check_status()
        return answer


class StreamCall(_Call):
    """Read by `read` or by iteration, written to where the method takes a stream."""

    async def read(self) -> Any:
        try:
            message = await self._wire.read()
        except asyncio.CancelledError:
            self._wire.cancel()
            raise
        if message is EOF:
            self._wire.check_status()
        return message

    async def write(self, request: Any) -> None:
        await asyncio.sleep(0)
        if self._wire.status is not None:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._wire.write(request)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message
