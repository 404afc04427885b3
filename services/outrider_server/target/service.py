"""TargetService over an engine's host: opens slots, hands steps on, answers with verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from outrider.v1 import target_pb2, target_pb2_grpc

from ..core.errors import InvalidRequest
from ..engine.engine import OpenedSlot
from ..host.engine_host import EngineHost
from ..rpc import telemetry
from ..rpc.model_service import ModelServicer
from ..rpc.wire import draw_from_open, step_from_proto, verdict_to_proto
from .turns import Requests, TurnStream


class TargetServicer(ModelServicer, target_pb2_grpc.TargetServiceServicer):
    """Verifies steps for as many turns as there are slots."""

    def __init__(self, host: EngineHost) -> None:
        super().__init__(host)
        self._host = host
        self._tracer = telemetry.tracer()
        self._closing = asyncio.Event()

    def refuse_turns(self) -> None:
        """Takes no new turn; each stream ends with its last turn."""
        self._closing.set()

    async def VerifyTurns(
        self,
        requests: AsyncIterator[target_pb2.VerifyTurnsRequest],
        context: grpc.aio.ServicerContext[
            target_pb2.VerifyTurnsRequest, target_pb2.VerifyTurnsResponse
        ],
    ) -> AsyncIterator[target_pb2.VerifyTurnsResponse]:
        """The turns of one caller."""
        async with aclosing(TurnStream(self._serve, self._closing).run(requests)) as responses:
            async for response in responses:
                yield response

    async def _serve(
        self, requests: Requests, caller: Context
    ) -> AsyncGenerator[target_pb2.VerifyResponse, None]:
        """One turn: `open`, then a verdict for every step."""
        opening = await anext(requests)
        if opening.WhichOneof("message") != "open":
            raise InvalidRequest("open", "the first message of a turn must be open")
        message = opening.open
        self._host.engine.check_model(message.model_fingerprint, message.arithmetic)
        opened = await self._host.open(
            message.session_id, message.epoch, message.committed_length, draw_from_open(message)
        )
        try:
            answer = target_pb2.VerifyOpened(
                length=opened.length,
                digest=opened.digest,
                arithmetic=self._host.engine.arithmetic,
            )
            yield target_pb2.VerifyResponse(opened=answer)
            async for request in requests:
                if request.WhichOneof("message") != "step":
                    raise InvalidRequest("step", "after open, every message must be a step")
                with self._tracer.start_as_current_span(telemetry.VERIFY_SPAN, caller) as span:
                    verdict = await self._verify(opened, request.step, span)
                yield target_pb2.VerifyResponse(verdict=verdict)
        finally:
            self._host.close(opened)

    async def _verify(
        self, opened: OpenedSlot, message: target_pb2.VerifyStep, span: trace.Span
    ) -> target_pb2.Verdict:
        count = len(message.context_tokens) + len(message.proposed_tokens)
        self._host.engine.check_end(message.start_position, count)  # before all of them are read
        done = await self._host.verify(opened, step_from_proto(message))
        if span.is_recording():
            span.set_attributes(
                {
                    telemetry.POSITION: done.verdict.start_position,
                    telemetry.PROPOSED: done.verdict.verified or 0,
                    telemetry.AGREED: done.verdict.agreed,
                    telemetry.BATCH_ROWS: done.batch_rows,
                }
            )
        return verdict_to_proto(done.verdict, done.seconds, done.prefill_seconds)
