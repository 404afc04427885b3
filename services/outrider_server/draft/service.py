"""DraftService over an engine: one drafting job a stream, fed with commits, emptied of proposals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import grpc
from outrider.v1 import draft_pb2, draft_pb2_grpc

from ..core.errors import InvalidRequest, VocabularyMismatch
from ..core.types import Draw
from ..engine.drafting import DraftJob
from ..engine.engine import OpenedSlot
from ..engine.host import EngineHost
from ..pacing.window import MAX_LEAD
from ..rpc import telemetry
from ..rpc.model_service import ModelServicer
from ..rpc.wire import sampling_from_proto
from .outbox import Outbox


class DraftServicer(ModelServicer, draft_pb2_grpc.DraftServiceServicer):
    """Drafts for as many turns as there are slots."""

    def __init__(self, host: EngineHost) -> None:
        super().__init__(host)
        self._engine = host
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
        message = opening.open
        self._check(message)
        size = self._engine.engine.loaded.vocabulary_size
        draw = Draw(
            sampling_from_proto(message.sampling),
            message.seed,
            message.generated_from,
            vocabulary_size=self._smaller(message.vocabulary_size),
            withheld=tuple(token for token in message.withheld_token_ids if token < size),
            min_new_tokens=message.min_new_tokens,
        )
        kept = message.kept_length if message.HasField("kept_length") else message.committed_length
        opened = await self._engine.open(message.session_id, message.epoch, kept, draw)
        caller = telemetry.incoming_context(context.invocation_metadata())
        span = self._tracer.start_span(telemetry.DRAFT_SPAN, caller)
        try:
            answer = draft_pb2.DraftOpened(
                length=opened.length,
                digest=opened.digest,
                model_fingerprint=self._engine.engine.loaded.model_fingerprint,
            )
            yield draft_pb2.DraftResponse(opened=answer)
            async with aclosing(self._draft(opened, message, requests)) as proposals:
                async for proposal in proposals:
                    yield draft_pb2.DraftResponse(proposal=proposal)
        finally:
            self._engine.close(opened)
            span.end()

    def _smaller(self, vocabulary_size: int) -> int | None:
        """The target's number of ids where the draft has more."""
        if not vocabulary_size:  # a caller of before
            return None
        own = self._engine.engine.loaded.vocabulary_size
        return vocabulary_size if vocabulary_size < own else None

    def _check(self, message: draft_pb2.DraftOpen) -> None:
        if message.vocabulary_fingerprint != self._engine.engine.loaded.vocabulary_fingerprint:
            raise VocabularyMismatch(
                "the draft's vocabulary is not the target's; use another draft"
            )
        if not 1 <= message.lead <= MAX_LEAD:
            raise InvalidRequest("lead", f"lead must be 1 to {MAX_LEAD}")
        if not 0 <= message.kept_length <= message.committed_length:
            raise InvalidRequest("kept_length", "kept_length must be 0 to committed_length")
        if not 0 <= message.burst <= message.lead:
            raise InvalidRequest("burst", "burst must be 0 to lead")

    async def _draft(
        self,
        opened: OpenedSlot,
        message: draft_pb2.DraftOpen,
        requests: AsyncIterator[draft_pb2.DraftRequest],
    ) -> AsyncGenerator[draft_pb2.Proposal, None]:
        """Runs the job; ends when the caller does, raises what ended the job otherwise."""
        outbox = Outbox()
        job = DraftJob(
            self._engine.engine,
            opened.slot,
            opened.lease,
            message.committed_length,
            message.lead,
            outbox.put,
            outbox.fail,
            max(1, message.burst),
        )
        self._engine.device.submit(job)
        reader = asyncio.create_task(self._read_commits(job, requests, outbox))
        try:
            while (taken := await outbox.take()) is not None:
                branch, proposal, seconds = taken
                yield draft_pb2.Proposal(
                    branch=branch,
                    start_position=proposal.start_position,
                    tokens=proposal.tokens,
                    draft_us=round(seconds * 1e6),
                )
            await reader
        finally:
            reader.cancel()
            self._engine.device.wake(job.end)

    async def _read_commits(
        self,
        job: DraftJob,
        requests: AsyncIterator[draft_pb2.DraftRequest],
        outbox: Outbox,
    ) -> None:
        try:
            async for request in requests:
                if request.WhichOneof("message") != "commit":
                    raise InvalidRequest("commit", "after open, every message must be a commit")
                commit = request.commit
                self._engine.engine.check_end(commit.start_position, len(commit.tokens))
                self._engine.device.wake(_committing(job, commit))
        finally:
            outbox.end()


def _committing(job: DraftJob, commit: draft_pb2.DraftCommit) -> Callable[[], None]:
    """What the device thread does with a commit. Raises InvalidRequest for a pace that cannot be."""
    lead = commit.lead if commit.HasField("lead") else None
    burst = commit.burst if commit.HasField("burst") else None
    if lead is not None and not 0 <= lead <= MAX_LEAD:
        raise InvalidRequest("lead", f"lead must be 0 to {MAX_LEAD}")
    if burst is not None and not 1 <= burst <= MAX_LEAD:
        raise InvalidRequest("burst", f"burst must be 1 to {MAX_LEAD}")
    start, tokens = commit.start_position, tuple(commit.tokens)
    return lambda: job.commit(start, tokens, lead, burst)
