"""The connection to a session service: channel options, deadlines, metadata, failed calls.

Everything above this module sees exceptions of `errors.py` only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

import grpc
import grpc.aio

from outrider import _status
from outrider._fork import Owned
from outrider.errors import (
    CallCancelledError,
    ClosedError,
    InternalError,
    InvalidRequestError,
    UsageError,
)
from outrider.v1 import session_pb2_grpc

Metadata = Mapping[str, str]
MetadataSource = Metadata | Callable[[], Metadata]
ChannelOptions = Sequence[tuple[str, int | str]]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
LAST_WORDS_SECONDS = 0.01
"""How long a closed channel's calls are listened to."""

_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(r"[ -~]*")


def channel_options(extra: ChannelOptions) -> list[tuple[str, int | str]]:
    """The options of the channel; `extra` comes last and so overrides."""
    return [
        # A frozen peer is noticed only where all three are set: the first two time the keepalive,
        # and the last the ping that carries it, which otherwise waits for 60 s.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        # A service that restarts is found again within a second, not within gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # So that a service waits for a reader that is slow: by default gRPC takes in megabytes ahead.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 16_384),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.primary_user_agent", f"outrider-python/{version('outrider')}"),
        *extra,
    ]


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
    ) -> None:
        if not target:
            raise InvalidRequestError("the target is empty", field="target")
        self._target = target
        self._timeout_seconds = timeout_seconds(timeout_ms)
        self._options = channel_options(options)
        self._credentials = credentials
        self._metadata = metadata
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: AsyncGenerator[None] | None = None
        self._stub: Any = None
        self._closed = False

    async def call(self, method: str, request: object) -> Any:
        """The answer to a unary call."""
        start = getattr(self._open(), method)
        metadata = self._merged_metadata(None)
        with translated_failures():
            answer = await start(request, timeout=self._timeout_seconds, metadata=metadata)
        if answer is None:  # gRPC gives None for bytes that are no message
            raise InternalError("the service sent an answer that cannot be read")
        return answer

    def generate(self, request: object, timeout: float | None, metadata: Metadata | None) -> Any:
        """Starts the stream of a turn, with a timeout in seconds, and gives its call."""
        stub = self._open()
        merged = self._merged_metadata(metadata)
        return stub.Generate(request, timeout=timeout, metadata=merged)

    def attach(self, request: object, timeout: float | None, metadata: Metadata | None) -> Any:
        """The same for a turn that was begun before."""
        stub = self._open()
        merged = self._merged_metadata(metadata)
        return stub.Attach(request, timeout=timeout, metadata=merged)

    async def close(self) -> None:
        """Cancels every call and closes the channel; harmless when repeated."""
        self._closed = True
        if self.is_inherited:
            return  # the parent's
        connection, self._connection, self._stub = self._connection, None, None
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
            channel = self._connected()
            self._connection, self._loop = _until_closed(channel), loop
            with suppress(StopIteration):  # it yields at once
                anext(self._connection).send(None)
            self._stub = session_pb2_grpc.SessionServiceStub(channel)  # type: ignore[no-untyped-call]
        return self._stub

    def _connected(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, self._options)
        return grpc.aio.secure_channel(self._target, self._credentials, self._options)

    def _merged_metadata(self, extra: Metadata | None) -> list[tuple[str, str]]:
        common = self._metadata() if callable(self._metadata) else self._metadata
        return checked_metadata({**(common or {}), **(extra or {})})


async def _until_closed(channel: grpc.aio.Channel) -> AsyncGenerator[None]:
    """Closes a channel when it is closed itself, which an event loop that ends does for all its generators.

    What a call still has to say to a loop that is gone would be a traceback on the terminal.
    """
    try:
        yield
    finally:
        await channel.close(None)
        await asyncio.sleep(LAST_WORDS_SECONDS)


def checked_metadata(metadata: Metadata) -> list[tuple[str, str]]:
    """The metadata as gRPC takes it. Raises `InvalidRequestError` for what no header can carry."""
    for key, value in metadata.items():
        if not _METADATA_KEY.fullmatch(key) or not _METADATA_VALUE.fullmatch(value):
            raise InvalidRequestError(
                f"metadata {key!r} is not a lower-case header with a printable value",
                field="metadata",
                reason="INVALID_REQUEST",
            )
    return list(metadata.items())


@contextmanager
def translated_failures() -> Iterator[None]:
    """Raises what a caller is to see in place of what gRPC raises inside."""
    try:
        yield
    except grpc.aio.AioRpcError as failure:
        raise _status.from_rpc_error(failure) from failure
    except grpc.aio.BaseError as failure:
        raise InternalError(f"gRPC failed: {failure}") from failure
    except asyncio.CancelledError:
        # gRPC reports a call cancelled on this side as if its task were; only the latter is true.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CallCancelledError("the call was cancelled, or its client closed") from None


def timeout_seconds(timeout_ms: int | None) -> float | None:
    """A deadline as gRPC takes it. Raises `InvalidRequestError` below 1: gRPC reads 0 as none."""
    if timeout_ms is None:
        return None
    if timeout_ms < 1:
        raise InvalidRequestError(
            f"timeout_ms is at least 1, not {timeout_ms}",
            field="timeout_ms",
            reason="INVALID_REQUEST",
        )
    return timeout_ms / 1000
