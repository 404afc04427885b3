"""SessionService: the public API. Parses requests, asks `Sessions`, renders what it answers."""

from __future__ import annotations

import functools
from typing import Any

import grpc
from outrider.v1 import session_pb2, session_pb2_grpc

from .. import __version__
from ..core.types import Round
from ..rpc.wire import description_to_proto, sampling_to_proto
from .conversation import messages_of
from .requests import parse_turn
from .running_turn import RunningTurn, Told
from .sessions import Sessions
from .tally import TurnStarted, TurnSummary
from .wire import (
    message_to_proto,
    round_to_proto,
    session_to_proto,
    started_to_proto,
    summary_to_proto,
    ttl_from_proto,
)

Context = grpc.aio.ServicerContext[Any, Any]


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """Sessions, turns and streams of tokens."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def CreateSession(
        self, request: session_pb2.CreateSessionRequest, _: Context
    ) -> session_pb2.CreateSessionResponse:
        """Creates an empty session."""
        found = await self._sessions.create(ttl_from_proto(request))
        return session_pb2.CreateSessionResponse(session=session_to_proto(*found))

    async def GetSession(
        self, request: session_pb2.GetSessionRequest, _: Context
    ) -> session_pb2.GetSessionResponse:
        """Describes a session."""
        found, tokens, held = await self._sessions.get(
            request.session_id, with_tokens=request.with_tokens, with_turns=request.with_messages
        )
        response = session_pb2.GetSessionResponse(session=session_to_proto(*found))
        model = self._sessions.model
        if request.with_tokens:
            response.tokens.extend(tokens)
            decode = functools.partial(model.tokenizer.decode, tokens, special=True)
            response.text = await self._sessions.reading.read(len(tokens), decode)
        if held is not None:
            response.messages.extend(map(message_to_proto, messages_of(held, model)))
        return response

    async def ListSessions(
        self, request: session_pb2.ListSessionsRequest, _: Context
    ) -> session_pb2.ListSessionsResponse:
        """Lists a page of sessions."""
        found, next_page_token = await self._sessions.page(request.page_size, request.page_token)
        sessions = [session_to_proto(*each) for each in found]
        return session_pb2.ListSessionsResponse(sessions=sessions, next_page_token=next_page_token)

    async def DeleteSession(
        self, request: session_pb2.DeleteSessionRequest, _: Context
    ) -> session_pb2.DeleteSessionResponse:
        """Deletes a session and frees its slots."""
        await self._sessions.delete(request.session_id)
        return session_pb2.DeleteSessionResponse()

    async def ForkSession(
        self, request: session_pb2.ForkSessionRequest, _: Context
    ) -> session_pb2.ForkSessionResponse:
        """Copies a session that runs no turn, with what its target holds of it."""
        position = request.position if request.HasField("position") else None
        found = await self._sessions.fork(request.session_id, position)
        return session_pb2.ForkSessionResponse(session=session_to_proto(*found))

    async def RewindSession(
        self, request: session_pb2.RewindSessionRequest, _: Context
    ) -> session_pb2.RewindSessionResponse:
        """Drops what a session that runs no turn holds from a position on, or takes a turn back."""
        session_id, request_id = request.session_id, request.request_id
        if request_id:
            found = await self._sessions.take_back(session_id, request_id)
        else:
            found = await self._sessions.rewind(session_id, request.position)
        return session_pb2.RewindSessionResponse(session=session_to_proto(*found))

    async def Attach(self, request: session_pb2.AttachRequest, context: Context) -> None:
        """Goes on with a turn from an index on."""
        running = self._sessions.attach(
            request.session_id,
            request.request_id,
            request.from_index,
            context.invocation_metadata(),
        )
        await _write(running, request.from_index, context)

    async def Generate(self, request: session_pb2.GenerateRequest, context: Context) -> None:
        """Runs one turn; one that was begun before under the same request id is told again and goes on."""
        around = self._sessions.surroundings
        turn = parse_turn(request, self._sessions.model, around.chance, around.new_id)
        running = self._sessions.generate(
            turn, request.HasField("seed"), context.invocation_metadata()
        )
        await _write(running, 0, context)

    async def Describe(
        self, _: session_pb2.DescribeRequest, __: Context
    ) -> session_pb2.DescribeResponse:
        """Describes target and draft."""
        sessions = self._sessions
        draft, note = await sessions.describe_draft()
        return session_pb2.DescribeResponse(
            target=description_to_proto(sessions.model.description),
            sampling_defaults=sampling_to_proto(sessions.model.defaults),
            max_window=sessions.max_window,
            version=__version__,
            target_note=sessions.targets.note,
            draft=None if draft is None else description_to_proto(draft),
            draft_note=note,
        )


async def _write(running: RunningTurn, index: int, context: Context) -> None:
    """Tells a turn; the first token is its `index`th."""
    async with running:
        async for event in running:
            await context.write(_event_to_proto(event, index))
            if isinstance(event, Round):
                index += len(event.tokens)


def _event_to_proto(event: Told, index: int) -> session_pb2.GenerateEvent:
    match event:
        case Round():
            return round_to_proto(event, index)
        case TurnStarted():
            return started_to_proto(event)
        case TurnSummary():
            return summary_to_proto(event)
