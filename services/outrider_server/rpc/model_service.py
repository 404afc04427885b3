"""What target and draft service have in common: describing the model, and housekeeping of sessions."""

from __future__ import annotations

from typing import Protocol

import grpc
from outrider.v1 import target_pb2

from ..speculation.description import ModelDescription, TokenizerFiles
from ..speculation.errors import NotImplementedYet
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


class ModelServicer:
    """Answers the calls that target and draft service share."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    async def DescribeModel(
        self, request: target_pb2.DescribeModelRequest, _: grpc.aio.ServicerContext
    ) -> target_pb2.DescribeModelResponse:
        """Describes the model, with its tokenizer where asked for."""
        response = target_pb2.DescribeModelResponse(
            model=description_to_proto(self._host.describe())
        )
        if request.with_tokenizer:
            response.tokenizer.CopyFrom(tokenizer_to_proto(self._host.tokenizer()))
        return response

    async def Release(
        self, request: target_pb2.ReleaseRequest, _: grpc.aio.ServicerContext
    ) -> target_pb2.ReleaseResponse:
        """Forgets a session."""
        await self._host.release(request.session_id, request.epoch)
        return target_pb2.ReleaseResponse()

    async def Fork(
        self, _: target_pb2.ForkRequest, __: grpc.aio.ServicerContext
    ) -> target_pb2.ForkResponse:
        """Not in this version."""
        raise NotImplementedYet("this version cannot fork a session; create a new one instead")

    async def Park(
        self, _: target_pb2.ParkRequest, __: grpc.aio.ServicerContext
    ) -> target_pb2.ParkResponse:
        """Not in this version."""
        raise NotImplementedYet("this version cannot park a session; idle ones are dropped")
