"""The async face of the SDK: `AsyncClient`, `AsyncSession`, `AsyncReply`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Generator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc

from outrider._calls import Calls
from outrider._channel import Channel
from outrider._handle import ReplyState, SessionHandle
from outrider._settings import ChannelOptions, MetadataSource, resume_seconds
from outrider._stream import TurnStream
from outrider.types import ChatMessage, Description, Event, SessionInfo
from outrider.v1 import session_pb2


class AsyncClient:
    """A connection to a session service, opened by the first call, and anew on another event loop once that
    of the call before is closed.

    Every call may raise `UnavailableError`, `DeadlineError`, `InternalError`, `ClosedError` once the client
    is closed, and `UsageError` on a second event loop, and in a process that was forked after its first call.

    Args:
        target: "HOST:PORT", or "unix:/path" for a Unix socket, or another address of gRPC's such as
            "dns:///HOST:PORT". What is none raises `InvalidRequestError`.
        timeout_ms: Deadline of each call but `generate`, in milliseconds, at least 1; None for none.
        channel_options: gRPC channel options, which override the SDK's own; for example
            ("grpc.enable_http_proxy", 0) to use no proxy of the environment.
        credentials: For TLS; None connects without.
        metadata: Headers of every call, or a function that makes them for each, so that a trace
            context or a token can follow the caller.
        resume_ms: How long a reply that makes no progress is resumed, in milliseconds, before its
            failure is raised; 0 raises it at once. Tokens come in order, without a gap, each once.
            So long, within its deadline, a call waits for a service that was reached before and is away.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_ms: int | None = 30_000,
        channel_options: ChannelOptions = (),
        credentials: grpc.ChannelCredentials | None = None,
        metadata: MetadataSource | None = None,
        resume_ms: int = 30_000,
    ) -> None:
        patience = resume_seconds(resume_ms)
        self._channel = Channel(
            target,
            timeout_ms=timeout_ms,
            options=channel_options,
            credentials=credentials,
            metadata=metadata,
            away_seconds=patience,
        )
        self._calls = Calls(self._channel, patience)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels what runs and closes the connection. Sessions stay on the service."""
        await self._channel.close()

    async def create_session(self, *, ttl_seconds: int | None = None) -> AsyncSession:
        """Creates an empty session, which expires `ttl_seconds` after its last write.

        0 keeps it for ever, None leaves it to the service. Raises `InvalidRequestError` for another
        number than 0 to 315,360,000 (ten years), and `ExhaustedError` where the service takes no more.
        """
        return AsyncSession(self._calls, await self._calls.create(ttl_seconds))

    async def open_session(self, session_id: str) -> AsyncSession:
        """A session that exists. Raises `NotFoundError`."""
        return AsyncSession(self._calls, await self._calls.get(session_id, with_tokens=False))

    async def get_session(self, session_id: str, *, with_tokens: bool = False) -> SessionInfo:
        """Describes a session, with its tokens and text if asked. Raises `NotFoundError`."""
        return await self._calls.get(session_id, with_tokens)

    async def delete_session(self, session_id: str) -> None:
        """Deletes a session. Raises `NotFoundError`, and `TurnRunningError` while a turn runs."""
        await self._calls.delete(session_id)

    async def sessions(self, *, page_size: int = 100) -> AsyncIterator[SessionInfo]:
        """Every session, newest first, fetched by pages of 1 to 1000; 0 leaves the size to the service."""
        page_token = ""
        while True:
            page, page_token = await self._calls.page(page_size, page_token)
            for info in page:
                yield info
            if not page_token:
                return

    async def describe(self) -> Description:
        """Describes the target, the draft and how the service uses them."""
        return await self._calls.describe()


class AsyncSession(SessionHandle["AsyncReply"]):
    """A conversation, made by an `AsyncClient`; it runs one turn at a time."""

    async def info(self, *, with_tokens: bool = False) -> SessionInfo:
        """Asks the service, and brings `position` up to date. Raises `NotFoundError`."""
        self._check_open()
        info = await self._calls.get(self._id, with_tokens)
        self._moved_to(info.position)
        return info

    async def messages(self) -> tuple[ChatMessage, ...]:
        """The conversation so far, replies included: what the next chat message goes on with.

        Empty after a turn of text or token ids. Raises `NotFoundError`.
        """
        self._check_open()
        return await self._calls.messages(self._id)

    async def rewind(self, position: int) -> None:
        """Keeps the first `position` tokens and drops the rest.

        Raises `InvalidRequestError` beyond the end, `TurnRunningError` while a turn runs,
        `UnimplementedError` from a service without it.
        """
        self._check_open()
        self._turn_to(None)
        info = await self._calls.rewind(self._id, position)
        self._moved_to(info.position)

    async def fork(self, position: int | None = None) -> AsyncSession:
        """A new session with the first `position` tokens of this one; None copies all.

        Raises as `rewind` does.
        """
        self._check_open()
        self._turn_to(None)
        return AsyncSession(self._calls, await self._calls.fork(self._id, position))

    async def regenerate(
        self, *, seed: int | None = None, timeout_ms: int | None = None
    ) -> AsyncReply:
        """Takes back the last turn begun with this handle and prepares it anew, with another seed.

        Raises `UnfinishedError` where no turn was begun, and as `rewind` does.
        """
        self._check_open()
        turn, request = self._anew(seed)
        self._turn_to(None)
        info = await self._calls.take_back(self._id, turn)
        self._moved_to(info.position)
        return self._reply(self._calls.turn(request, timeout_ms, None), request)

    async def delete(self) -> None:
        """Deletes the session on the service and closes this handle.

        Raises `NotFoundError`, and `TurnRunningError` while a turn runs.
        """
        self._check_open()
        self._turn_to(None)
        await self._calls.delete(self._id)
        self._deleted()

    def _reply(self, stream: TurnStream, request: session_pb2.GenerateRequest | None) -> AsyncReply:
        return AsyncReply(self, stream, request)


class AsyncReply(ReplyState):
    """The reply of one turn: an async iterator of events, whose text and tokens grow as it is read.

    Leaving `async with` early, `cancel`, and dropping the reply unread end the turn on the service
    within one round; what was committed stays in the session. The session's next call ends it
    too, where who makes it had read the reply and left it.
    """

    def __init__(
        self,
        session: AsyncSession,
        stream: TurnStream,
        request: session_pb2.GenerateRequest | None,
    ) -> None:
        super().__init__(session, request)
        self._stream = stream
        self._reader: weakref.ref[asyncio.Task[Any]] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._reader is None:
            self._begin()
        task = asyncio.current_task()
        assert task is not None, "nothing else can await"
        self._reader = weakref.ref(task)
        async for message in self._stream:
            event = self._accept(message)
            if event is not None:
                return event
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # What is left of the call refers to itself and would wait for the collector of cycles.
        with suppress(RuntimeError):  # the event loop is closed, and the call with it
            self.cancel()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.read().__await__()

    async def read(self) -> Self:
        """Reads the reply to its end and gives it back."""
        async for _ in self:
            pass
        return self

    def cancel(self) -> None:
        """Ends the turn; reading on raises `CallCancelledError`. Harmless after the end."""
        self._stream.cancel()

    def _is_left(self) -> bool:
        if self._reader is None:
            return False  # nobody has begun to read it
        reader = self._reader()
        return reader is None or reader.done() or reader is asyncio.current_task()

    def _end(self, why: str) -> None:
        self._stream.cancel(why)

    async def aclose(self) -> None:
        """Ends the turn as `cancel` does; for `contextlib.aclosing`."""
        self.cancel()
