"""The calls of a session service, typed: what the async and the sync face have in common."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

from outrider import _chat, _request, _wire
from outrider._channel import Channel
from outrider._ending import AGAIN_SECONDS, EndingTurns
from outrider._settings import Metadata, checked_metadata, timeout_seconds
from outrider._stream import Patience, TurnStream
from outrider.errors import TurnRunningError
from outrider.types import ChatMessage, Description, SessionInfo, Started
from outrider.v1 import session_pb2


class Calls:
    """One method a call, over one channel."""

    def __init__(
        self,
        channel: Channel,
        resume_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """`uniform` draws a number between two."""
        self._channel = channel
        self._resume_seconds = resume_seconds
        self._clock = clock
        self._uniform = uniform
        self._new_id = new_id
        self._ending = EndingTurns(clock)

    async def create(self, ttl_seconds: int | None) -> SessionInfo:
        answer = await self._channel.call("CreateSession", _request.create_request(ttl_seconds))
        return _wire.session_info(answer.session)

    async def get(self, session_id: str, with_tokens: bool) -> SessionInfo:
        request = session_pb2.GetSessionRequest(
            session_id=_request.session_id(session_id), with_tokens=bool(with_tokens)
        )
        answer = await self._channel.call("GetSession", request)
        if not with_tokens:
            return _wire.session_info(answer.session)
        return _wire.session_info(answer.session, tuple(answer.tokens), answer.text)

    async def page(self, page_size: int, page_token: str) -> tuple[list[SessionInfo], str]:
        """A page of sessions and the token of the next; an empty token when it is the last."""
        request = session_pb2.ListSessionsRequest(
            page_size=_request.page_size(page_size), page_token=page_token
        )
        answer = await self._channel.call("ListSessions", request)
        return [_wire.session_info(session) for session in answer.sessions], answer.next_page_token

    async def delete(self, session_id: str) -> None:
        request = session_pb2.DeleteSessionRequest(session_id=_request.session_id(session_id))
        await self._idle_call("DeleteSession", request)

    async def fork(self, session_id: str, position: int | None) -> SessionInfo:
        request = session_pb2.ForkSessionRequest(session_id=session_id)
        if position is not None:
            request.position = _request.position(position)
        answer = await self._idle_call("ForkSession", request)
        return _wire.session_info(answer.session)

    async def messages(self, session_id: str) -> tuple[ChatMessage, ...]:
        request = session_pb2.GetSessionRequest(
            session_id=_request.session_id(session_id), with_messages=True
        )
        answer = await self._channel.call("GetSession", request)
        return tuple(map(_chat.chat_message, answer.messages))

    async def take_back(self, session_id: str, turn: Started) -> SessionInfo:
        request = session_pb2.RewindSessionRequest(
            session_id=session_id,
            position=turn.start_position - turn.prompt_tokens,
            request_id=turn.request_id,
        )
        answer = await self._idle_call("RewindSession", request)
        return _wire.session_info(answer.session)

    async def rewind(self, session_id: str, position: int) -> SessionInfo:
        request = session_pb2.RewindSessionRequest(
            session_id=session_id, position=_request.position(position)
        )
        answer = await self._idle_call("RewindSession", request)
        return _wire.session_info(answer.session)

    async def describe(self) -> Description:
        answer = await self._channel.call("Describe", session_pb2.DescribeRequest())
        return _wire.description(answer)

    def turn(
        self,
        request: session_pb2.GenerateRequest,
        timeout_ms: int | None,
        metadata: Metadata | None,
    ) -> TurnStream:
        """The stream of a turn; nothing is sent before its first message is asked for."""
        timeout = timeout_seconds(timeout_ms)
        if metadata is not None:
            checked_metadata(metadata)
        if not request.request_id:  # what a lost turn is asked for again by
            request.request_id = self._new_id()
        left = _TimeLeft(timeout, self._clock)

        def start(from_index: int | None) -> Any:
            if from_index is None:
                return self._channel.generate(request, left.seconds(), metadata)
            attach = session_pb2.AttachRequest(
                session_id=request.session_id,
                request_id=request.request_id,
                from_index=from_index,
            )
            return self._channel.attach(attach, left.seconds(), metadata)

        return self._stream(start, request.session_id)

    def attached(
        self, session_id: str, request_id: str, from_index: int, timeout_ms: int | None
    ) -> TurnStream:
        """The stream of a turn that was begun before, from an index on."""
        timeout = timeout_seconds(timeout_ms)
        request = _request.attach_request(session_id, request_id, from_index)
        left = _TimeLeft(timeout, self._clock)

        def start(index: int | None) -> Any:
            request.from_index = request.from_index if index is None else index
            return self._channel.attach(request, left.seconds(), None)

        return self._stream(start, session_id, from_index)

    def _stream(
        self, start: Callable[[int | None], Any], session_id: str, first_index: int = 0
    ) -> TurnStream:
        return TurnStream(
            start,
            Patience(self._resume_seconds, self._clock, self._uniform),
            first_index,
            session_id,
            self._ending,
            self._channel.translated,
        )

    async def _idle_call(self, method: str, request: Any) -> Any:
        """The answer to a call that a running turn refuses; one that was ended here is waited for."""
        while True:
            try:
                return await self._channel.call(method, request)
            except TurnRunningError:
                if not self._ending.may_run(request.session_id):
                    raise
                await asyncio.sleep(AGAIN_SECONDS)


class _TimeLeft:
    """What is left of a timeout, in seconds, from the first question on; None where there is none."""

    def __init__(self, timeout: float | None, clock: Callable[[], float]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._ends_at: float | None = None

    def seconds(self) -> float | None:
        if self._timeout is None:
            return None
        now = self._clock()
        self._ends_at = now + self._timeout if self._ends_at is None else self._ends_at
        return max(self._ends_at - now, 0.001)
