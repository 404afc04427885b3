"""The target as the session service reaches it: a channel, and a Verifier for every turn.

Owns the gRPC side of verifying. Knows nothing of the loop that calls it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import grpc
from outrider.v1 import target_pb2, target_pb2_grpc

from ..rpc import telemetry
from ..rpc.channels import open_channel
from ..rpc.errors import from_rpc_error
from ..rpc.wire import (
    description_from_proto,
    sampling_to_proto,
    step_to_proto,
    tokenizer_from_proto,
    verdict_from_proto,
)
from ..speculation.description import ModelDescription, TokenizerFiles
from ..speculation.errors import ProtocolViolation
from ..speculation.meter import TurnMeter
from ..speculation.types import Draw, Step, Verdict, usable_length

PEER = "target"

VerifyStream = grpc.aio.StreamStreamCall[target_pb2.VerifyRequest, target_pb2.VerifyResponse]


class TargetLink:
    """One target service."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub = target_pb2_grpc.TargetServiceStub(self._channel)

    async def describe(self, timeout_ms: int) -> tuple[ModelDescription, TokenizerFiles]:
        """The model and its tokenizer. Waits for the service; raises Unavailable after the timeout."""
        request = target_pb2.DescribeModelRequest(with_tokenizer=True)
        try:
            response = await self._stub.DescribeModel(
                request, wait_for_ready=True, timeout=timeout_ms / 1000
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, PEER) from error
        return description_from_proto(response.model), tokenizer_from_proto(response.tokenizer)

    async def open_turn(
        self, session_id: str, epoch: int, tokens: Sequence[int], draw: Draw, meter: TurnMeter
    ) -> RemoteVerifier:
        """Opens the session for one turn. Raises OutriderError."""
        opening = target_pb2.VerifyOpen(
            session_id=session_id,
            epoch=epoch,
            committed_length=len(tokens),
            sampling=sampling_to_proto(draw.sampling),
            seed=draw.seed,
            generated_from=draw.generated_from,
            logprobs=draw.logprobs,
        )
        call: VerifyStream = self._stub.Verify(metadata=telemetry.outgoing_metadata())
        verifier = RemoteVerifier(call, meter)
        await verifier.open(opening, tokens)
        return verifier

    async def release(self, session_id: str, epoch: int) -> None:
        """Frees the session's slot. Raises OutriderError."""
        request = target_pb2.ReleaseRequest(session_id=session_id, epoch=epoch)
        try:
            await self._stub.Release(request, timeout=5)
        except grpc.RpcError as error:
            raise from_rpc_error(error, PEER) from error

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class RemoteVerifier:
    """Verifier over one Verify stream."""

    def __init__(self, call: VerifyStream, meter: TurnMeter) -> None:
        self._call = call
        self._meter = meter
        self._last_verdict: float | None = None
        self.known_length = 0

    async def open(self, opening: target_pb2.VerifyOpen, tokens: Sequence[int]) -> None:
        """Sends `open`; learns how much of the session the target holds."""
        response = await self._exchange(target_pb2.VerifyRequest(open=opening), "opened")
        opened = response.opened
        self.known_length = usable_length(opened.length, opened.digest, tokens)

    async def verify(self, step: Step) -> Verdict:
        """Runs one step."""
        request = target_pb2.VerifyRequest(step=step_to_proto(step))
        asked = time.perf_counter()
        message = (await self._exchange(request, "verdict")).verdict
        now = time.perf_counter()
        since_ms = None if self._last_verdict is None else (now - self._last_verdict) * 1000
        self._last_verdict = now
        verdict = verdict_from_proto(message)
        try:
            verdict.check(step)
        except ValueError as error:
            raise ProtocolViolation("the target's verdict does not answer the step") from error
        self._meter.verified(
            (now - asked) * 1000,
            message.step_us / 1000,
            message.prefill_us / 1000,
            len(step.proposed_tokens),
            verdict.verified_of(step),
            since_ms,
        )
        return verdict

    def close(self) -> None:
        """Ends the turn on the target; its KV stays."""
        self._call.cancel()

    async def _exchange(
        self, request: target_pb2.VerifyRequest, answer: str
    ) -> target_pb2.VerifyResponse:
        try:
            # Writing to a stream that has ended fails without its status; reading tells it.
            with contextlib.suppress(asyncio.InvalidStateError):
                await self._call.write(request)
            response = await self._call.read()
        except grpc.RpcError as error:
            raise from_rpc_error(error, PEER) from error
        if response is grpc.aio.EOF:
            raise ProtocolViolation("the target ended the stream in the middle of a turn")
        if response is None or response.WhichOneof("message") != answer:  # None: no message at all
            raise ProtocolViolation(f"the target did not answer with {answer}")
        return response
