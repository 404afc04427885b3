"""SessionService: the public API over the ledger and the turn runner."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from outrider.v1 import session_pb2, session_pb2_grpc

from .. import __version__
from ..rpc.wire import description_to_proto, sampling_to_proto
from ..speculation.errors import AlreadyExists, InvalidRequest, OutriderError
from ..speculation.types import Round
from .conversation import messages_of
from .drafting import LoopSettings
from .drafts import Drafts
from .ledger import Ledger, SessionRecord
from .live import LiveSessions
from .model import ServedModel
from .opening import OWNER
from .patience import in_time
from .reading import Reading
from .requests import parse_turn
from .tally import TurnStarted, TurnSummary
from .targets import Targets
from .trace import TurnTrace
from .turns import TurnRunner
from .wire import (
    message_to_proto,
    round_to_proto,
    session_to_proto,
    started_to_proto,
    summary_to_proto,
    ttl_from_proto,
)

DEFAULT_PAGE_SIZE = 100
DRAFT_DESCRIBE_TIMEOUT_MS = 500

Context = grpc.aio.ServicerContext


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """Sessions, turns and streams of tokens."""

    def __init__(
        self,
        model: ServedModel,
        target: Targets,
        draft: Drafts | None,
        ledger: Ledger,
        settings: LoopSettings,
        lease_seconds: float | None = None,
    ) -> None:
        """`lease_seconds` None is for a ledger that serves this process alone."""
        self._model = model
        self._target = target
        self._draft = draft
        self._ledger = ledger
        self._settings = settings
        self._live = LiveSessions(ledger, lease_seconds)
        self._reading = Reading()
        self._runner = TurnRunner(model, target, draft, ledger, self._live, settings, self._reading)

    async def settle(self) -> None:
        """Waits until nothing is left to write of turns that have ended. No turn can begin any more."""
        await self._live.settle()
        self._reading.close()

    async def CreateSession(
        self, request: session_pb2.CreateSessionRequest, _: Context
    ) -> session_pb2.CreateSessionResponse:
        """Creates an empty session."""
        ttl_seconds = ttl_from_proto(request)
        async with in_time():
            record = await self._ledger.create_session(
                OWNER, self._model.description.model_fingerprint, ttl_seconds
            )
        return session_pb2.CreateSessionResponse(session=session_to_proto(record, False))

    async def GetSession(
        self, request: session_pb2.GetSessionRequest, _: Context
    ) -> session_pb2.GetSessionResponse:
        """Describes a session."""
        session_id = request.session_id
        async with in_time():
            record = await self._ledger.get_session(session_id, OWNER)
            tokens = await self._ledger.tokens(session_id) if request.with_tokens else []
            held = await self._runner.opener.held(session_id) if request.with_messages else None
        running = self._live.runs_turn(record)
        response = session_pb2.GetSessionResponse(session=session_to_proto(record, running))
        if request.with_tokens:
            response.tokens.extend(tokens)
            decode = functools.partial(self._model.tokenizer.decode, tokens, special=True)
            response.text = await self._reading.read(len(tokens), decode)
        if held is not None:
            response.messages.extend(map(message_to_proto, messages_of(held, self._model)))
        return response

    async def ListSessions(
        self, request: session_pb2.ListSessionsRequest, _: Context
    ) -> session_pb2.ListSessionsResponse:
        """Lists a page of sessions."""
        async with in_time():
            page = await self._ledger.list_sessions(
                OWNER, request.page_size or DEFAULT_PAGE_SIZE, request.page_token
            )
        sessions = [
            session_to_proto(record, self._live.runs_turn(record)) for record in page.sessions
        ]
        return session_pb2.ListSessionsResponse(
            sessions=sessions, next_page_token=page.next_page_token
        )

    async def DeleteSession(
        self, request: session_pb2.DeleteSessionRequest, _: Context
    ) -> session_pb2.DeleteSessionResponse:
        """Deletes a session and frees its slots."""
        session_id = request.session_id
        async with in_time():
            record = await self._ledger.get_session(session_id, OWNER)
            self._live.check_idle(record)
            await self._ledger.delete_session(session_id, OWNER)
        self._live.forget(session_id)
        self._runner.forget(session_id)
        # A slot that is not freed now is reused when it has been idle longest.
        holders = (self._target, self._draft) if self._draft is not None else (self._target,)
        for holder in holders:
            with contextlib.suppress(OutriderError):
                await holder.release(session_id, max(record.epoch, 1))
        return session_pb2.DeleteSessionResponse()

    async def ForkSession(
        self, request: session_pb2.ForkSessionRequest, _: Context
    ) -> session_pb2.ForkSessionResponse:
        """Copies a session that runs no turn, with what its target holds of it."""
        session_id = request.session_id
        async with in_time():
            record = await self._ledger.get_session(session_id, OWNER)
            self._live.check_idle(record)
            position = request.position if request.HasField("position") else record.length
            _check_position(position, record.length)
            copy = await self._ledger.fork(session_id, OWNER, position)
        # What the target does not copy it reads again.
        with contextlib.suppress(OutriderError):
            await self._target.fork(session_id, copy.session_id, position, max(record.epoch, 1))
        return session_pb2.ForkSessionResponse(session=session_to_proto(copy, False))

    async def RewindSession(
        self, request: session_pb2.RewindSessionRequest, _: Context
    ) -> session_pb2.RewindSessionResponse:
        """Drops what a session that runs no turn holds from a position on, or takes a turn back."""
        session_id = request.session_id
        async with in_time():
            await self._ledger.get_session(session_id, OWNER)
            claim = self._live.claim(session_id)
            try:
                record = await self._rewound(request)
            except BaseException:
                self._live.free(claim)
                raise
            await self._live.give_back(claim)
        return session_pb2.RewindSessionResponse(session=session_to_proto(record, False))

    async def _rewound(self, request: session_pb2.RewindSessionRequest) -> SessionRecord:
        session_id = request.session_id
        epoch = await self._live.epoch(session_id)
        try:
            record = await self._rewind(request, epoch)
        except OutriderError as error:
            self._live.lost(session_id, epoch, error)
            raise
        self._live.moved(session_id, record.epoch)
        return record

    async def _rewind(self, request: session_pb2.RewindSessionRequest, epoch: int) -> SessionRecord:
        session_id = request.session_id
        length = (await self._ledger.get_session(session_id, OWNER)).length
        if not request.request_id:
            _check_position(request.position, length)
            return await self._ledger.rewind(session_id, epoch, length, request.position)
        turn = await self._ledger.find_turn(session_id, request.request_id)
        if turn is None:  # it was taken back before, by a call whose answer was lost perhaps
            return await self._ledger.rewind(session_id, epoch, length, length)
        return await self._ledger.take_back(session_id, epoch, length, turn.turn_index)

    async def Attach(
        self, request: session_pb2.AttachRequest, context: Context
    ) -> AsyncIterator[session_pb2.GenerateEvent]:
        """Goes on with a turn from an index on."""
        trace = TurnTrace(request.session_id, context.invocation_metadata())
        events = self._runner.attach(
            request.session_id, request.request_id, request.from_index, trace
        )
        async with aclosing(_told(events, request.from_index)) as messages:
            async for message in messages:
                yield message

    async def Generate(
        self, request: session_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[session_pb2.GenerateEvent]:
        """Runs one turn; one that was begun before under the same request id is told again and goes on."""
        turn = parse_turn(request, self._model)
        self._runner.check_room(turn.session_id)
        seed_is_given = request.HasField("seed")
        known = request.request_id and await self._runner.opener.find(turn, seed_is_given)
        if not known:
            trace = TurnTrace(turn.session_id, context.invocation_metadata())
            try:
                async with aclosing(_told(self._runner.run(turn, trace), 0)) as messages:
                    async for message in messages:
                        yield message
                return
            except AlreadyExists:
                if await self._runner.opener.find(turn, seed_is_given) is None:
                    raise  # a turn that was taken back
            # Another process has begun it since; nothing was told here.
        trace = TurnTrace(turn.session_id, context.invocation_metadata())
        events = self._runner.attach(turn.session_id, turn.request_id, 0, trace)
        async with aclosing(_told(events, 0)) as messages:
            async for message in messages:
                yield message

    async def Describe(
        self, _: session_pb2.DescribeRequest, __: Context
    ) -> session_pb2.DescribeResponse:
        """Describes target and draft."""
        response = session_pb2.DescribeResponse(
            target=description_to_proto(self._model.description),
            sampling_defaults=sampling_to_proto(self._model.defaults),
            max_window=min(self._settings.window, self._model.description.width - 1),
            version=__version__,
            target_note=self._target.note,
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


async def _told(
    events: AsyncGenerator[TurnStarted | Round | TurnSummary, None], index: int
) -> AsyncGenerator[session_pb2.GenerateEvent, None]:
    """A turn's events as messages; the first token is the turn's `index`th."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Round):
                yield round_to_proto(event, index)
                index += len(event.tokens)
            elif isinstance(event, TurnStarted):
                yield started_to_proto(event)
            else:
                yield summary_to_proto(event)


def _check_position(position: int, length: int) -> None:
    """Raises InvalidRequest for a position that the session does not have."""
    if not 0 <= position <= length:
        raise InvalidRequest("position", f"position must be 0 to the session's {length} tokens")
