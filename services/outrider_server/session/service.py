"""SessionService: the public API over the ledger and the turn runner."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
from outrider.v1 import session_pb2, session_pb2_grpc

from .. import __version__
from ..rpc.wire import description_to_proto
from ..speculation.errors import NotImplementedYet, OutriderError, TurnRunning
from ..speculation.types import Round
from .draft_link import DraftLink
from .ledger import Ledger
from .live import LiveSessions
from .model import ServedModel
from .requests import parse_turn
from .tally import TurnStarted
from .target_link import TargetLink
from .trace import TurnTrace
from .turns import OWNER, LoopSettings, TurnRunner
from .wire import round_to_proto, session_to_proto, started_to_proto, summary_to_proto

DEFAULT_PAGE_SIZE = 100
DRAFT_DESCRIBE_TIMEOUT_MS = 500

Context = grpc.aio.ServicerContext


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """Sessions, turns and streams of tokens."""

    def __init__(
        self,
        model: ServedModel,
        target: TargetLink,
        draft: DraftLink | None,
        ledger: Ledger,
        settings: LoopSettings,
    ) -> None:
        self._model = model
        self._target = target
        self._draft = draft
        self._ledger = ledger
        self._settings = settings
        self._live = LiveSessions(ledger)
        self._runner = TurnRunner(model, target, draft, ledger, self._live, settings)

    async def settle(self) -> None:
        """Waits until nothing is left to write of turns that have ended."""
        await self._live.settle()

    async def CreateSession(
        self, _: session_pb2.CreateSessionRequest, __: Context
    ) -> session_pb2.CreateSessionResponse:
        """Creates an empty session."""
        record = await self._ledger.create_session(OWNER, self._model.description.model_fingerprint)
        return session_pb2.CreateSessionResponse(session=session_to_proto(record, False))

    async def GetSession(
        self, request: session_pb2.GetSessionRequest, _: Context
    ) -> session_pb2.GetSessionResponse:
        """Describes a session."""
        record = await self._ledger.get_session(request.session_id, OWNER)
        running = self._live.is_running(record.session_id)
        response = session_pb2.GetSessionResponse(session=session_to_proto(record, running))
        if request.with_tokens:
            tokens = await self._ledger.tokens(record.session_id)
            response.tokens.extend(tokens)
            response.text = self._model.tokenizer.decode(tokens, special=True)
        return response

    async def ListSessions(
        self, request: session_pb2.ListSessionsRequest, _: Context
    ) -> session_pb2.ListSessionsResponse:
        """Lists a page of sessions."""
        page = await self._ledger.list_sessions(
            OWNER, request.page_size or DEFAULT_PAGE_SIZE, request.page_token
        )
        sessions = [
            session_to_proto(record, self._live.is_running(record.session_id))
            for record in page.sessions
        ]
        return session_pb2.ListSessionsResponse(
            sessions=sessions, next_page_token=page.next_page_token
        )

    async def DeleteSession(
        self, request: session_pb2.DeleteSessionRequest, _: Context
    ) -> session_pb2.DeleteSessionResponse:
        """Deletes a session and frees its slots."""
        session_id = request.session_id
        if self._live.is_running(session_id):
            raise TurnRunning("the session runs a turn; wait for its end or cancel it")
        record = await self._ledger.get_session(session_id, OWNER)
        await self._ledger.delete_session(session_id, OWNER)
        self._live.forget(session_id)
        self._runner.forget(session_id)
        # A slot that is not freed now is reused when it has been idle longest.
        releases = [self._target.release(session_id, max(record.epoch, 1))]
        if self._draft is not None:
            releases.append(self._draft.release(session_id, max(record.epoch, 1)))
        for release in releases:
            with contextlib.suppress(OutriderError):
                await release
        return session_pb2.DeleteSessionResponse()

    async def ForkSession(
        self, _: session_pb2.ForkSessionRequest, __: Context
    ) -> session_pb2.ForkSessionResponse:
        """Not in this version."""
        raise NotImplementedYet("this version cannot fork a session; create a new one instead")

    async def RewindSession(
        self, _: session_pb2.RewindSessionRequest, __: Context
    ) -> session_pb2.RewindSessionResponse:
        """Not in this version."""
        raise NotImplementedYet("this version cannot rewind a session; create a new one instead")

    async def Attach(
        self, _: session_pb2.AttachRequest, __: Context
    ) -> AsyncIterator[session_pb2.GenerateEvent]:
        """Not in this version."""
        raise NotImplementedYet("this version cannot attach to a turn; read the session instead")
        yield

    async def Generate(
        self, request: session_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[session_pb2.GenerateEvent]:
        """Runs one turn."""
        turn = parse_turn(request, self._model)
        trace = TurnTrace(turn.session_id, context.invocation_metadata())
        index = 0
        async with aclosing(self._runner.run(turn, trace)) as events:
            async for event in events:
                if isinstance(event, Round):
                    yield round_to_proto(event, index)
                    index += len(event.tokens)
                elif isinstance(event, TurnStarted):
                    yield started_to_proto(event)
                else:
                    yield summary_to_proto(event)

    async def Describe(
        self, _: session_pb2.DescribeRequest, __: Context
    ) -> session_pb2.DescribeResponse:
        """Describes target and draft."""
        response = session_pb2.DescribeResponse(
            target=description_to_proto(self._model.description),
            max_window=min(self._settings.window, self._model.description.width - 1),
            version=__version__,
        )
        if self._draft is None:
            response.draft_note = "no draft service is configured"
            return response
        try:
            draft = await self._draft.describe(DRAFT_DESCRIBE_TIMEOUT_MS)
        except OutriderError as error:
            response.draft_note = str(error)
            return response
        response.draft.CopyFrom(description_to_proto(draft))
        if draft.vocabulary_fingerprint != self._model.description.vocabulary_fingerprint:
            response.draft_note = "the draft's vocabulary is not the target's; it is not used"
        return response
