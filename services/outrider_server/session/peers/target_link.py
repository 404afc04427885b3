"""The target as the session service reaches it: a channel, and a Verifier for every turn.

Owns the gRPC side of verifying. Knows nothing of the loop that calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from outrider.v1 import target_pb2, target_pb2_grpc

from ...core.description import ModelDescription, TokenizerFiles
from ...core.errors import ProtocolViolation, Unavailable
from ...core.types import Draw, Step, Verdict, usable_length
from ...rpc.errors import from_rpc_error
from ...rpc.wire import (
    description_from_proto,
    sampling_to_proto,
    step_to_proto,
    tokenizer_from_proto,
    verdict_from_proto,
)
from .target_stream import PEER, TargetStream, TurnLine

TROUBLE_SECONDS = 2.0
"""How long to ask a target that does not answer for the reason."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a target has to be for a turn; empty is not compared."""

    model_fingerprint: str
    arithmetic: str


class TargetLink:
    """One target service, over a channel that is the link's from now on."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stub = target_pb2_grpc.TargetServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._stream: TargetStream | None = None

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

    async def trouble(self) -> str:
        """Why it does not answer, in gRPC's words, which are for the operator and never for a client."""
        request = target_pb2.DescribeModelRequest()
        try:
            await self._stub.DescribeModel(request, timeout=TROUBLE_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return "a service is there that is no target"
            return error.details() or error.code().name
        return "it answers now"

    async def open_turn(
        self,
        session_id: str,
        epoch: int,
        tokens: Sequence[int],
        committed: int,
        draw: Draw,
        wanted: Wanted,
    ) -> RemoteVerifier:
        """Opens the session for one turn. The first `committed` tokens are not new. Raises OutriderError, of
        which ModelMismatch for a target that is not the one wanted."""
        opening = target_pb2.VerifyOpen(
            session_id=session_id,
            epoch=epoch,
            committed_length=committed,
            sampling=sampling_to_proto(draw.sampling),
            seed=draw.seed,
            generated_from=draw.generated_from,
            logprobs=draw.logprobs,
            withheld_token_ids=draw.withheld,
            min_new_tokens=draw.min_new_tokens,
            model_fingerprint=wanted.model_fingerprint,
            arithmetic=wanted.arithmetic,
        )
        if self._stream is None or self._stream.over:
            self._stream = TargetStream(self._stub.VerifyTurns()).start()
        stream = self._stream
        verifier = RemoteVerifier(stream.open_line())
        try:
            await verifier.open(opening, tokens)
        except BaseException as error:
            verifier.close()
            if isinstance(error, Unavailable) and self._stream is stream:
                self._stream = None  # its turns go on; the next one may find another target
            raise
        return verifier

    @property
    def turns(self) -> int:
        """Turns that run over this link, or wait to."""
        return 0 if self._stream is None else self._stream.turns

    async def fork(self, session_id: str, fork_session_id: str, length: int, epoch: int) -> None:
        """Copies what is held of a session to a new one. Raises OutriderError."""
        request = target_pb2.ForkRequest(
            session_id=session_id, fork_session_id=fork_session_id, length=length, epoch=epoch
        )
        try:
            await self._stub.Fork(request, timeout=5)
        except grpc.RpcError as error:
            raise from_rpc_error(error, PEER) from error

    async def release(self, session_id: str, epoch: int) -> None:
        """Frees the session's slot. Raises OutriderError."""
        request = target_pb2.ReleaseRequest(session_id=session_id, epoch=epoch)
        try:
            await self._stub.Release(request, timeout=5)
        except grpc.RpcError as error:
            raise from_rpc_error(error, PEER) from error

    async def close(self) -> None:
        """Ends every turn and closes the channel."""
        if self._stream is not None:
            self._stream.close()
        await self._channel.close()


class RemoteVerifier:
    """Verifier over one turn's line to the target."""

    def __init__(self, line: TurnLine) -> None:
        self._line = line
        self.known_length = 0
        self.arithmetic = ""
        """The target's."""

    async def open(self, opening: target_pb2.VerifyOpen, tokens: Sequence[int]) -> None:
        """Sends `open`; learns how much of the session the target holds."""
        response = await self._line.ask(target_pb2.VerifyRequest(open=opening))
        opened = _only(response, "opened").opened
        self.known_length = usable_length(opened.length, opened.digest, tokens)
        self.arithmetic = opened.arithmetic

    async def verify(self, step: Step) -> Verdict:
        """Runs one step."""
        response = await self._line.ask(target_pb2.VerifyRequest(step=step_to_proto(step)))
        verdict = verdict_from_proto(_only(response, "verdict").verdict)
        try:
            verdict.check(step)
        except ValueError as error:
            raise ProtocolViolation("the target's verdict does not answer the step") from error
        return verdict

    def suspend(self) -> None:
        """Ends the turn on the target until it is opened anew; `verify` raises TurnSuspended from now on."""
        self._line.suspend()

    def close(self) -> None:
        """Ends the turn on the target; its KV stays."""
        self._line.close()


def _only(response: target_pb2.VerifyResponse, answer: str) -> target_pb2.VerifyResponse:
    """The response, which must be of this kind."""
    if response.WhichOneof("message") != answer:
        raise ProtocolViolation(f"the target did not answer with {answer}")
    return response
