"""What leaves the process when a handler fails or a message cannot be parsed: as little as possible."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2
from outrider.v1 import target_pb2, target_pb2_grpc
from outrider_server.core.errors import InternalError, InvalidRequest
from outrider_server.rpc.errors import from_rpc_error

from .service import NAME, ScriptedTarget, failing, serving

MALFORMED = b"\xff\xff\xff\xff"
DESCRIBE = f"/{NAME}/DescribeModel"
VERIFY = f"/{NAME}/VerifyTurns"


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_unknown_exception_leaks_no_text_and_is_logged(
    streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("the password is swordfish")

    async with serving(ScriptedTarget(fail)) as (_, channel):
        stub = target_pb2_grpc.TargetServiceStub(channel)
        with caplog.at_level(logging.ERROR, "outrider.rpc"):
            if streamed:
                call = stub.VerifyTurns(iter([target_pb2.VerifyTurnsRequest()]))
            else:
                call = stub.DescribeModel(target_pb2.DescribeModelRequest())
            error = await failing(call)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "swordfish" not in repr(error) + repr(error.trailing_metadata())
    assert type(from_rpc_error(error, "target")) is InternalError
    assert "swordfish" in caplog.text, "the operator's log has it"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_handler_that_is_cancelled_from_within_ends_its_call(
    streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC itself would send no status, and the caller wait for ever."""

    def cancelled() -> None:
        raise asyncio.CancelledError

    async with serving(ScriptedTarget(cancelled)) as (_, channel):
        stub = target_pb2_grpc.TargetServiceStub(channel)
        if streamed:
            error = await failing(stub.VerifyTurns(iter([target_pb2.VerifyTurnsRequest()])))
        else:
            error = await failing(stub.DescribeModel(target_pb2.DescribeModelRequest(), timeout=20))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "CancelledError" in caplog.text


async def test_a_handler_is_closed_when_its_caller_leaves() -> None:
    """At whatever it waits, and where it waits for room to send."""
    closed = [asyncio.Event(), asyncio.Event()]

    large = target_pb2.TurnLineResponse(response={"opened": {"arithmetic": "x" * 100_000}})

    class Endless(ScriptedTarget):
        async def VerifyTurns(self, requests, context):  # noqa: N802 - the proto's name
            index = len([request async for request in requests]) - 1
            try:
                while True:
                    yield target_pb2.VerifyTurnsResponse(turns=[large])
                    await asyncio.sleep(3600 * index)
            finally:
                closed[index].set()

    async with serving(Endless()) as (_, channel):
        for messages, is_closed in enumerate(closed, 1):
            requests = [target_pb2.VerifyTurnsRequest()] * messages
            call = target_pb2_grpc.TargetServiceStub(channel).VerifyTurns(iter(requests))
            await call.read()
            await asyncio.sleep(0.2)
            call.cancel()
            async with asyncio.timeout(20):
                await is_closed.wait()


async def test_errors_on_purpose_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise InvalidRequest("x", "wrong")

    async with serving(ScriptedTarget(fail)) as (_, channel):
        stub = target_pb2_grpc.TargetServiceStub(channel)
        await failing(stub.DescribeModel(target_pb2.DescribeModelRequest()))
    assert not [record for record in caplog.records if record.name == "outrider.rpc"]


def assert_refused_as_malformed(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the message is not a valid protobuf of this method"
    assert type(from_rpc_error(error, "target")) is InvalidRequest


async def test_a_malformed_unary_request_never_reaches_the_handler() -> None:
    servicer = ScriptedTarget()
    async with serving(servicer) as (_, channel):
        assert_refused_as_malformed(await failing(channel.unary_unary(DESCRIBE)(MALFORMED)))
    assert servicer.received == 0


async def test_a_malformed_request_of_a_server_stream_is_refused() -> None:
    async with serving(ScriptedTarget()) as (_, channel):
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        assert_refused_as_malformed(await failing(watch(MALFORMED)))


@pytest.mark.parametrize("good", [0, 1, 3])
async def test_a_malformed_message_ends_a_stream_after_the_good_ones(good: int) -> None:
    servicer = ScriptedTarget()
    messages = [target_pb2.VerifyTurnsRequest().SerializeToString()] * good + [MALFORMED]
    answers: list[object] = []
    async with serving(servicer) as (_, channel):
        error = await failing(channel.stream_stream(VERIFY)(iter(messages)), answers)
    assert_refused_as_malformed(error)
    assert servicer.received == len(answers) == good


@pytest.mark.parametrize("method", [DESCRIBE, VERIFY])
async def test_a_message_beyond_the_limit_is_refused_with_both_numbers(method: str) -> None:
    """So that a client can tell it from a service that is busy."""
    servicer = ScriptedTarget()
    async with serving(servicer, max_request_bytes=1000) as (_, channel):
        call = channel.stream_stream(method)(iter([b"\xff" * 1001]))
        error = await failing(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert type(from_rpc_error(error, "target")) is InvalidRequest
    assert error.details() is not None
    assert "1001 bytes" in error.details()
    assert "at most 1000" in error.details()
    assert servicer.received == 0


async def test_a_message_at_the_limit_is_read() -> None:
    servicer = ScriptedTarget()
    turn = target_pb2.TurnLineRequest(request={"open": {"session_id": "x" * 988}})
    request = target_pb2.VerifyTurnsRequest(turns=[turn])
    assert request.ByteSize() == 1000
    async with serving(servicer, max_request_bytes=1000) as (_, channel):
        call = target_pb2_grpc.TargetServiceStub(channel).VerifyTurns(iter([request]))
        assert len([answer async for answer in call]) == servicer.received == 1


async def test_a_message_far_beyond_the_limit_is_refused_by_grpc_before_it_is_read() -> None:
    async with serving(ScriptedTarget(), max_request_bytes=1000) as (_, channel):
        error = await failing(channel.unary_unary(DESCRIBE)(b"\x0a\x00" * 2001))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() is not None
    assert "larger than max" in error.details()


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving(ScriptedTarget()) as (_, channel):
        error = await failing(channel.unary_unary(f"/{NAME}/Nothing")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_good_call_passes_unchanged() -> None:
    async with serving(ScriptedTarget()) as (_, channel):
        stub = target_pb2_grpc.TargetServiceStub(channel)
        response = await stub.DescribeModel(target_pb2.DescribeModelRequest())
        assert response == target_pb2.DescribeModelResponse()
        answers = [
            answer.turns[0].turn
            async for answer in stub.VerifyTurns(iter([target_pb2.VerifyTurnsRequest()] * 3))
        ]
    assert answers == [7, 7, 7]


async def test_a_caller_that_leaves_ends_the_handler() -> None:
    ended = asyncio.Event()

    class Waiting(ScriptedTarget):
        async def VerifyTurns(  # noqa: N802 - the proto's name
            self, requests: AsyncIterator[target_pb2.VerifyTurnsRequest], context: object
        ) -> AsyncIterator[target_pb2.VerifyTurnsResponse]:
            try:
                async for answer in super().VerifyTurns(requests, context):
                    yield answer
            finally:
                ended.set()

    async with serving(Waiting()) as (_, channel):
        call = target_pb2_grpc.TargetServiceStub(channel).VerifyTurns()
        await call.write(target_pb2.VerifyTurnsRequest())
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


def test_the_malformed_bytes_are_malformed() -> None:
    for kind in (target_pb2.VerifyTurnsRequest, health_pb2.HealthCheckRequest):
        with pytest.raises(Exception, match="parsing"):
            kind.FromString(MALFORMED)
