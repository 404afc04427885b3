"""The connection to a session service: channel options, deadlines, metadata, failed calls.

Everything above this module sees exceptions of `errors.py` only.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import grpc
import grpc.aio

from outrider import _proxy, _settings, _status
from outrider._fork import Owned
from outrider._settings import ChannelOptions, Metadata, MetadataSource
from outrider.errors import (
    CallCancelledError,
    ClosedError,
    InternalError,
    UsageError,
)
from outrider.v1 import session_pb2_grpc

USES_PROXY = "grpc.enable_http_proxy"
LAST_WORDS_SECONDS = 0.01
"""How long a closed channel's calls are listened to."""
LOOK_SECONDS = 0.02
"""How often a connection that is being made anew is looked at."""


class Channel(Owned):
    """One channel, opened by the first call, on the event loop of that call.

    Once that loop is closed, the next call opens another channel.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_ms: int | None,
        options: ChannelOptions,
        credentials: grpc.ChannelCredentials | None,
        metadata: MetadataSource | None,
        away_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`away_seconds`: how long a call waits for a service that was reached before and is away."""
        self._target = _settings.checked_target(target)
        self._timeout_seconds = _settings.timeout_seconds(timeout_ms)
        self._away_seconds = away_seconds
        self._clock = clock
        self._options = dict(_settings.channel_options(options))
        if _proxy.is_local(self._target):
            self._options.setdefault(USES_PROXY, 0)
        self._note = ""
        """What a failure adds of the proxy on the way."""
        self._credentials = _settings.checked_credentials(credentials)
        if metadata is not None and not callable(metadata):
            _settings.checked_metadata(metadata)
        self._metadata = metadata
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: AsyncGenerator[None] | None = None
        self._grpc: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._was_reached = False
        self._closed = False

    async def call(self, method: str, request: object) -> Any:
        """The answer to a unary call."""
        start = getattr(self._open(), method)
        metadata = self._merged_metadata(None)
        timeout = await self._reconnected() if self._was_reached else self._timeout_seconds
        with self.translated():
            answer = await start(request, timeout=timeout, metadata=metadata)
        self._was_reached = True
        if answer is None:  # gRPC gives None for bytes that are no message
            raise InternalError("the service sent an answer that cannot be read")
        return answer

    def generate(self, request: object, timeout: float | None, metadata: Metadata | None) -> Any:
        """Starts the stream of a turn, with a timeout in seconds, and gives its call."""
        stub = self._open()
        merged = self._merged_metadata(metadata)
        return stub.Generate(request, timeout=timeout, metadata=merged)

    def attach(self, request: object, timeout: float | None, metadata: Metadata | None) -> Any:
        """Starts the stream of a turn that was begun before, and gives its call."""
        stub = self._open()
        merged = self._merged_metadata(metadata)
        return stub.Attach(request, timeout=timeout, metadata=merged)

    def translated(self) -> AbstractContextManager[None]:
        """For the body of a call: raises what a caller is to see in place of what gRPC raises."""
        return translated_failures(self._target, self._note)

    async def close(self) -> None:
        """Cancels every call and closes the channel; harmless when repeated."""
        self._closed = True
        if self.is_inherited:
            return  # the parent's
        connection, self._connection, self._grpc, self._stub = self._connection, None, None, None
        if connection is not None and self._loop is asyncio.get_running_loop():
            await connection.aclose()

    def _open(self) -> Any:
        """The stub, over a channel that is made here when there is none on this event loop yet."""
        if self._closed:
            raise ClosedError("the client is closed")
        self.check_own()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise UsageError(
                    "the client is in use on another event loop: make one for each event loop"
                )
            self.own()
            channel = self._grpc = self._connected()
            if self._options.get(USES_PROXY, 1):
                self._note = _proxy.proxy_note(self._target, os.environ)
            self._connection, self._loop = _until_closed(channel), loop
            with suppress(StopIteration):  # it yields at once
                anext(self._connection).send(None)
            self._stub = session_pb2_grpc.SessionServiceStub(channel)  # type: ignore[no-untyped-call]
        return self._stub

    async def _reconnected(self) -> float | None:
        """Waits for a service that was reached before and is away; what is left of the timeout, in seconds.

        The call that follows then goes to who answers, or has the cause to tell and a tenth of its time.
        """
        timeout, began = self._timeout_seconds, self._clock()
        longest = self._away_seconds if timeout is None else min(self._away_seconds, 0.9 * timeout)
        while (  # noqa: ASYNC110 - a watch of gRPC's would outlive its waiter
            self._grpc is not None
            and self._grpc.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY
            and self._clock() - began < longest
        ):
            await asyncio.sleep(LOOK_SECONDS)
        if self._grpc is None:
            raise CallCancelledError("the client was closed during the call")
        return None if timeout is None else timeout - (self._clock() - began)

    def _connected(self) -> grpc.aio.Channel:
        options = list(self._options.items())
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, options)
        return grpc.aio.secure_channel(self._target, self._credentials, options)

    def _merged_metadata(self, extra: Metadata | None) -> list[tuple[str, str]]:
        common = self._metadata() if callable(self._metadata) else self._metadata
        pairs = {} if common is None else dict(_settings.checked_metadata(common))
        pairs |= {} if extra is None else dict(_settings.checked_metadata(extra))
        return list(pairs.items())


async def _until_closed(channel: grpc.aio.Channel) -> AsyncGenerator[None]:
    """Closes a channel when it is closed itself, which an event loop that ends does for all its generators.

    What a call still has to say to a loop that is gone would be a traceback on the terminal.
    """
    try:
        yield
    finally:
        await channel.close(None)
        await asyncio.sleep(LAST_WORDS_SECONDS)


@contextmanager
def translated_failures(target: str = "the service", note: str = "") -> Iterator[None]:
    """Raises what a caller is to see in place of what gRPC raises inside; `note` is added where the
    service did not say it."""
    try:
        yield
    except grpc.aio.AioRpcError as failure:
        raise _status.from_rpc_error(failure, target, note) from failure
    except grpc.aio.BaseError as failure:
        raise InternalError(f"gRPC failed: {failure}") from failure
    except asyncio.CancelledError:
        # gRPC reports a call cancelled on this side as if its task were; only the latter is true.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CallCancelledError("the call was cancelled, or its client closed") from None
