"""The sync face of the SDK: `Client`, `Session`, `Reply`, the same shape as the async one.

Every client has an event loop in a thread of its own, from its first call until it is closed, or it and
its sessions and replies are dropped. So it works in any thread, and in programs that have a running loop
already. What has arrived of a reply is taken without waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Self

import grpc

from outrider._bridge import Arrived, Bridge
from outrider._calls import Calls
from outrider._channel import Channel
from outrider._handle import ReplyState, SessionHandle
from outrider._loop import LoopThread
from outrider._settings import ChannelOptions, MetadataSource, resume_seconds
from outrider._stream import TurnStream
from outrider.errors import CallCancelledError
from outrider.types import ChatMessage, Description, Event, SessionInfo
from outrider.v1 import session_pb2


class Client:
    """A connection to a session service, opened by the first call. May be shared by threads.

    Every call may raise `UnavailableError`, `DeadlineError`, `InternalError`, `ClosedError` once the client
    is closed, and `UsageError` in a process that was forked after the client's first call.

    Args:
        target: "HOST:PORT", or "unix:/path" for a Unix socket, or another address of gRPC's such as
            "dns:///HOST:PORT". What is none raises `InvalidRequestError`.
        timeout_ms: Deadline of each call but `generate`, in milliseconds, at least 1; None for none.
        channel_options: gRPC channel options, which override the SDK's own; for example
            ("grpc.enable_http_proxy", 0) to use no proxy of the environment.
        credentials: For TLS; None connects without.
        metadata: Headers of every call, or a function that makes them for each, so that a trace
            context or a token can follow the caller; the function runs in the client's own thread,
            with the caller's context variables.
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
        self._loop = LoopThread(self._channel.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what runs and closes the connection. Sessions stay on the service."""
        self._loop.close()

    def create_session(self, *, ttl_seconds: int | None = None) -> Session:
        """Creates an empty session, which expires `ttl_seconds` after its last write.

        0 keeps it for ever, None leaves it to the service. Raises `InvalidRequestError` for another
        number than 0 to 315,360,000 (ten years), and `ExhaustedError` where the service takes no more.
        """
        info = self._loop.run(self._calls.create(ttl_seconds))
        return Session(self._calls, info, self._loop)

    def open_session(self, session_id: str) -> Session:
        """A session that exists. Raises `NotFoundError`."""
        info = self._loop.run(self._calls.get(session_id, with_tokens=False))
        return Session(self._calls, info, self._loop)

    def get_session(self, session_id: str, *, with_tokens: bool = False) -> SessionInfo:
        """Describes a session, with its tokens and text if asked. Raises `NotFoundError`."""
        return self._loop.run(self._calls.get(session_id, with_tokens))

    def delete_session(self, session_id: str) -> None:
        """Deletes a session. Raises `NotFoundError`, and `TurnRunningError` while a turn runs."""
        self._loop.run(self._calls.delete(session_id))

    def sessions(self, *, page_size: int = 100) -> Iterator[SessionInfo]:
        """Every session, newest first, fetched by pages of 1 to 1000; 0 leaves the size to the service."""
        page_token = ""
        while True:
            page, page_token = self._loop.run(self._calls.page(page_size, page_token))
            yield from page
            if not page_token:
                return

    def describe(self) -> Description:
        """Describes the target, the draft and how the service uses them."""
        return self._loop.run(self._calls.describe())


class Session(SessionHandle["Reply"]):
    """A conversation, made by a `Client`; it runs one turn at a time."""

    def __init__(self, calls: Calls, info: SessionInfo, loop: LoopThread) -> None:
        super().__init__(calls, info)
        self._loop = loop

    def info(self, *, with_tokens: bool = False) -> SessionInfo:
        """Asks the service, and brings `position` up to date. Raises `NotFoundError`."""
        self._check_open()
        info = self._loop.run(self._calls.get(self._id, with_tokens))
        self._moved_to(info.position)
        return info

    def messages(self) -> tuple[ChatMessage, ...]:
        """As `AsyncSession.messages`."""
        self._check_open()
        return self._loop.run(self._calls.messages(self._id))

    def rewind(self, position: int) -> None:
        """Keeps the first `position` tokens and drops the rest.

        Raises `InvalidRequestError` beyond the end, `TurnRunningError` while a turn runs,
        `UnimplementedError` from a service without it.
        """
        self._check_open()
        self._turn_to(None)
        info = self._loop.run(self._calls.rewind(self._id, position))
        self._moved_to(info.position)

    def fork(self, position: int | None = None) -> Session:
        """A new session with the first `position` tokens of this one; None copies all.

        Raises as `rewind` does.
        """
        self._check_open()
        self._turn_to(None)
        info = self._loop.run(self._calls.fork(self._id, position))
        return Session(self._calls, info, self._loop)

    def regenerate(self, *, seed: int | None = None, timeout_ms: int | None = None) -> Reply:
        """Takes back the last turn begun with this handle and prepares it anew, with another seed.

        Raises `UnfinishedError` where no turn was begun, and as `rewind` does.
        """
        self._check_open()
        turn, request = self._anew(seed)
        self._turn_to(None)
        info = self._loop.run(self._calls.take_back(self._id, turn))
        self._moved_to(info.position)
        return self._reply(self._calls.turn(request, timeout_ms, None), request)

    def delete(self) -> None:
        """Deletes the session on the service and closes this handle.

        Raises `NotFoundError`, and `TurnRunningError` while a turn runs.
        """
        self._check_open()
        self._turn_to(None)
        self._loop.run(self._calls.delete(self._id))
        self._deleted()

    def _reply(self, stream: TurnStream, request: session_pb2.GenerateRequest | None) -> Reply:
        return Reply(self, stream, request, self._loop)


class Reply(ReplyState):
    """The reply of one turn: an iterator of events, whose text and tokens grow as it is read.

    Leaving `with` early, `cancel`, an interrupt while waiting, and dropping the reply unread end
    the turn on the service within one round; what was committed stays in the session. The
    session's next call ends it too, where who makes it had read the reply and left it.
    """

    def __init__(
        self,
        session: Session,
        stream: TurnStream,
        request: session_pb2.GenerateRequest | None,
        loop: LoopThread,
    ) -> None:
        super().__init__(session, request)
        self._bridge = Bridge(stream)
        self._loop = loop
        self._reader: threading.Thread | None = None
        self._beginning = threading.Lock()
        self._failure: Exception | None = None
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not self._ended:
            if self._failure is not None:
                raise self._failure
            arrived = self._wait()
            if isinstance(arrived, Exception):
                self._failure = arrived
            elif arrived is None:
                self._ended = True
            else:
                event = self._accept(arrived)
                if event is not None:
                    return event
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # The coroutine that reads the stream knows the bridge alone, so a reply can be dropped.
        self.cancel()

    def read(self) -> Self:
        """Reads the reply to its end and gives it back."""
        for _ in self:
            pass
        return self

    def cancel(self) -> None:
        """Ends the turn; reading on raises `CallCancelledError`. Harmless after the end."""
        self._end("the reply was cancelled")

    def close(self) -> None:
        """Ends the turn as `cancel` does; for `contextlib.closing`."""
        self.cancel()

    def _is_left(self) -> bool:
        reader = self._reader
        if reader is None:
            return False  # nobody has begun to read it, or somebody is just about to
        return not reader.is_alive() or reader is threading.current_thread()

    def _end(self, why: str) -> None:
        if not self._ended and self._failure is None:
            self._failure = CallCancelledError(why)
            self._loop.call_soon(partial(self._bridge.cancel, why))

    def _wait(self) -> Arrived:
        """The next thing that has arrived; starts the call where that has not happened."""
        self._loop.check_own()
        with self._beginning:
            if self._reader is None:
                self._begin()
                self._loop.submit(self._bridge.forward())
            self._reader = threading.current_thread()
        try:
            return self._bridge.take(self._loop.call_soon)
        except BaseException:
            self.cancel()
            raise
