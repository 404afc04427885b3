"""What target and draft service have in common: describing the model, and housekeeping of sessions."""

from __future__ import annotations

from typing import Protocol

import grpc
from outrider.v1 import target_pb2

from ..core.description import ModelDescription, TokenizerFiles
from .wire import description_to_proto, tokenizer_to_proto


class ModelHost(Protocol):
    """The engine as this part of a service sees it."""

    def describe(self) -> ModelDescription:
        """The model."""
        ...

    def tokenizer(self) -> TokenizerFiles:
        """Its tokenizer files."""
        ...

    async def release(self, session_id: str, epoch: int) -> None:
        """Forgets a session. Raises OutriderError."""
        ...

    async def fork(self, session_id: str, fork_session_id: str, length: int, epoch: int) -> int:
        """Copies an idle session's KV to a new session; returns the copy's length. Raises OutriderError."""
        ...


class ModelServicer:
    """Answers the calls that target and draft service share."""

    def __init__(self, host: ModelHost) -> None:
        self._model = host

    async def DescribeModel(
        self,
        request: target_pb2.DescribeModelRequest,
        _: grpc.aio.ServicerContext[
            target_pb2.DescribeModelRequest, target_pb2.DescribeModelResponse
        ],
    ) -> target_pb2.DescribeModelResponse:
        """Describes the model, with its tokenizer where asked for."""
        response = target_pb2.DescribeModelResponse(
            model=description_to_proto(self._model.describe())
        )
        if request.with_tokenizer:
            response.tokenizer.CopyFrom(tokenizer_to_proto(self._model.tokenizer()))
        return response

    async def Release(
        self,
        request: target_pb2.ReleaseRequest,
        _: grpc.aio.ServicerContext[target_pb2.ReleaseRequest, target_pb2.ReleaseResponse],
    ) -> target_pb2.ReleaseResponse:
        """Forgets a session."""
        await self._model.release(request.session_id, request.epoch)
        return target_pb2.ReleaseResponse()

    async def Fork(
        self,
        request: target_pb2.ForkRequest,
        _: grpc.aio.ServicerContext[target_pb2.ForkRequest, target_pb2.ForkResponse],
    ) -> target_pb2.ForkResponse:
        """Copies what an idle session holds to a new session."""
        length = await self._model.fork(
            request.session_id, request.fork_session_id, request.length, request.epoch
        )
        return target_pb2.ForkResponse(length=length)
