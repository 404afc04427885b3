"""The calls of a session service, typed: what the async and the sync face have in common."""

from __future__ import annotations

import time
import uuid
from typing import Any

from outrider import _request, _wire
from outrider._channel import Channel, Metadata, checked_metadata, timeout_seconds
from outrider._stream import TurnStream
from outrider.types import Description, SessionInfo
from outrider.v1 import session_pb2


class Calls:
    """One method a call, over one channel."""

    def __init__(self, channel: Channel, resume_ms: int = 0) -> None:
        self._channel = channel
        self._resume_seconds = resume_ms / 1000

    async def create(self, ttl_seconds: int | None) -> SessionInfo:
        answer = await self._channel.call("CreateSession", _request.create_request(ttl_seconds))
        return _wire.session_info(answer.session)

    async def get(self, session_id: str, with_tokens: bool) -> SessionInfo:
        request = session_pb2.GetSessionRequest(
            session_id=_request.session_id(session_id), with_tokens=with_tokens
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
        await self._channel.call("DeleteSession", request)

    async def fork(self, session_id: str, position: int | None) -> SessionInfo:
        request = session_pb2.ForkSessionRequest(session_id=session_id)
        if position is not None:
            request.position = _request.position(position)
        answer = await self._channel.call("ForkSession", request)
        return _wire.session_info(answer.session)

    async def rewind(self, session_id: str, position: int) -> SessionInfo:
        request = session_pb2.RewindSessionRequest(
            session_id=session_id, position=_request.position(position)
        )
        answer = await self._channel.call("RewindSession", request)
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
            request.request_id = uuid.uuid4().hex
        ends_at: float | None = None

        def start(from_index: int | None) -> Any:
            nonlocal ends_at
            left = timeout
            if timeout is not None:
                ends_at = time.monotonic() + timeout if ends_at is None else ends_at
                left = max(ends_at - time.monotonic(), 0.001)
            if from_index is None:
                return self._channel.generate(request, left, metadata)
            attach = session_pb2.AttachRequest(
                session_id=request.session_id,
                request_id=request.request_id,
                from_index=from_index,
            )
            return self._channel.attach(attach, left, metadata)

        return TurnStream(start, self._resume_seconds)

    def attached(
        self, session_id: str, request_id: str, from_index: int, timeout_ms: int | None
    ) -> TurnStream:
        """The stream of a turn that was begun before, from an index on."""
        timeout = timeout_seconds(timeout_ms)
        request = _request.attach_request(session_id, request_id, from_index)

        def start(index: int | None) -> Any:
            request.from_index = request.from_index if index is None else index
            return self._channel.attach(request, timeout, None)

        return TurnStream(start, self._resume_seconds, from_index)
