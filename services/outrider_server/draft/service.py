"""DraftService over an engine's host: one turn a stream, fed with commits, emptied of proposals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from outrider.v1 import draft_pb2, draft_pb2_grpc

from ..core.errors import InvalidRequest
from ..host.draft_turn import DraftTurn
from ..host.engine_host import EngineHost
from ..rpc import telemetry
from ..rpc.model_service import ModelServicer
from .wire import draw_from_open, guessed_to_proto, pace_from_commit, task_from_open


class DraftServicer(ModelServicer, draft_pb2_grpc.DraftServiceServicer):
    """Drafts for as many turns as there are slots."""

    def __init__(self, host: EngineHost) -> None:
        super().__init__(host)
        self._host = host
        self._tracer = telemetry.tracer()

    async def Draft(
        self,
        requests: AsyncIterator[draft_pb2.DraftRequest],
        context: grpc.aio.ServicerContext[draft_pb2.DraftRequest, draft_pb2.DraftResponse],
    ) -> AsyncIterator[draft_pb2.DraftResponse]:
        """One turn: `open`, then proposals until the caller ends the stream."""
        opening = await anext(aiter(requests), None)
        if opening is None or opening.WhichOneof("message") != "open":
            raise InvalidRequest("open", "the first message of the stream must be open")
        message, engine = opening.open, self._host.engine
        engine.check_vocabulary(message.vocabulary_fingerprint)
        task = task_from_open(message)
        draw = draw_from_open(message, engine.loaded.vocabulary_size)
        opened = await self._host.open(message.session_id, message.epoch, task.kept_length, draw)
        caller = telemetry.incoming_context(context.invocation_metadata())
        span = self._tracer.start_span(telemetry.DRAFT_SPAN, caller)
        try:
            answer = draft_pb2.DraftOpened(
                length=opened.length,
                digest=opened.digest,
                model_fingerprint=engine.loaded.model_fingerprint,
            )
            yield draft_pb2.DraftResponse(opened=answer)
            turn = self._host.draft(opened, task)
            async with aclosing(_draft(turn, requests)) as proposals:
                async for proposal in proposals:
                    yield draft_pb2.DraftResponse(proposal=proposal)
        finally:
            self._host.close(opened)
            span.end()


async def _draft(
    turn: DraftTurn, requests: AsyncIterator[draft_pb2.DraftRequest]
) -> AsyncGenerator[draft_pb2.Proposal, None]:
    """Ends when the caller does; raises what ended the drafting otherwise."""
    reader = asyncio.create_task(_read_commits(turn, requests))
    try:
        while (guessed := await turn.take()) is not None:
            yield guessed_to_proto(guessed)
        await reader
    finally:
        reader.cancel()
        turn.close()


async def _read_commits(turn: DraftTurn, requests: AsyncIterator[draft_pb2.DraftRequest]) -> None:
    try:
        async for request in requests:
            if request.WhichOneof("message") != "commit":
                raise InvalidRequest("commit", "after open, every message must be a commit")
            commit = request.commit
            turn.commit(commit.start_position, commit.tokens, *pace_from_commit(commit))
    finally:
        turn.end()
