"""A target service without a model: every handler does what its test tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from outrider.v1 import target_pb2, target_pb2_grpc
from outrider_server.rpc.serve import Server

NAME = "outrider.v1.TargetService"


class ScriptedTarget(target_pb2_grpc.TargetServiceServicer):
    """Runs `behave` in each kind of handler: before an answer, and between two of them."""

    def __init__(self, behave: Callable[[], object] = lambda: None) -> None:
        self.behave = behave
        self.received = 0

    async def DescribeModel(  # noqa: N802 - the proto's name
        self, request: target_pb2.DescribeModelRequest, context: grpc.aio.ServicerContext
    ) -> target_pb2.DescribeModelResponse:
        self.received += 1
        self.behave()
        return target_pb2.DescribeModelResponse()

    async def VerifyTurns(  # noqa: N802 - the proto's name
        self,
        requests: AsyncIterator[target_pb2.VerifyTurnsRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[target_pb2.VerifyTurnsResponse]:
        async for _ in requests:
            self.received += 1
            yield target_pb2.VerifyTurnsResponse(turns=[target_pb2.TurnLineResponse(turn=7)])
            self.behave()


@asynccontextmanager
async def serving(
    servicer: ScriptedTarget, max_request_bytes: int = 1 << 20
) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    """A real server on a free port, and a channel to it that shares no connection."""
    server = Server((NAME,), max_request_bytes)
    target_pb2_grpc.add_TargetServiceServicer_to_server(servicer, server.grpc)
    address = await server.start("127.0.0.1:0")
    options = [("grpc.use_local_subchannel_pool", 1)]
    try:
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            yield server, channel
    finally:
        await server.drain(0)


async def failing(call: grpc.aio.Call, answers: list[object] | None = None) -> grpc.aio.AioRpcError:
    """The error that ends a call; `answers` takes what came before it."""

    async def run() -> None:
        if isinstance(call, grpc.aio.UnaryUnaryCall):
            await call
            return
        async for answer in call:
            if answers is not None:
                answers.append(answer)

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await run()
    return failed.value
