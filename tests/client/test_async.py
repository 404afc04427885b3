"""Async replies over a real channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import outrider
import pytest
from outrider.v1 import session_pb2

from .fake_service import HOLD, FakeSessionService, error_info, hello, started, summary, token
from .fake_service import Failure as Fail


async def cancelled_on_the_service(service: FakeSessionService) -> bool:
    return await asyncio.to_thread(service.cancelled.wait, 10)


async def test_a_reply_yields_each_token_in_order(client, service):
    session = await client.create_session()
    events = [event async for event in session.generate("hi")]
    assert [event.index for event in events] == [0, 1, 2]
    assert [event.token for event in events] == [100, 101, 102]
    assert [event.source for event in events] == ["draft", "ngram", "target"]


async def test_text_tokens_and_events_grow_while_the_reply_is_read(client):
    session = await client.create_session()
    reply = session.generate("hi")
    seen = [(reply.text, reply.tokens, reply.events[-1] is event) async for event in reply]
    assert seen == [
        ("he", [100], True),
        ("hello", [100, 101], True),
        ("hello!", [100, 101, 102], True),
    ]


async def test_read_gives_the_whole_reply_back(client):
    session = await client.create_session()
    reply = await session.generate("hi").read()
    assert reply.text == "hello!"
    assert reply.summary.finish_reason is outrider.FinishReason.LENGTH
    assert reply.started == outrider.Started("turn-1", 3, 3, 7)


async def test_awaiting_a_reply_reads_it(client):
    session = await client.create_session()
    reply = await session.generate("hi")
    assert reply.summary.tokens == 3


async def test_nothing_is_sent_before_the_reply_is_read(client, service):
    session = await client.create_session()
    service.requests.get()
    session.generate("hi")
    await client.describe()
    assert isinstance(service.requests.get(), session_pb2.DescribeRequest)


async def test_a_summary_before_the_end_is_refused_by_name(client, service):
    session = await client.create_session()
    reply = session.generate("hi")
    with pytest.raises(outrider.UnfinishedError, match="read it to its end"):
        _ = reply.summary
    await anext(reply)
    with pytest.raises(outrider.UnfinishedError):
        _ = reply.summary


async def test_derived_figures_are_zero_where_nothing_was_done(client, service):
    service.script = [started(), summary(0, rounds=0, proposed=0, accepted=0)]
    session = await client.create_session()
    result = (await session.generate("hi")).summary
    assert (result.tokens_per_round, result.agreement) == (0.0, 0.0)


async def test_position_follows_start_tokens_and_summary(client, service):
    service.script = [started(position=10), token(0), token(1), summary(2, position=99)]
    session = await client.create_session()
    assert session.position == 0
    assert [session.position async for _ in session.generate("hi")] == [11, 12]
    assert session.position == 99


async def test_leaving_the_context_early_cancels_on_the_service(client, service):
    service.script = [started(), token(0), HOLD]
    session = await client.create_session()
    async with session.generate("hi") as reply:
        async for _ in reply:
            break
    assert await cancelled_on_the_service(service)


async def test_aclose_cancels_on_the_service(client, service):
    service.script = [started(), token(0), HOLD]
    session = await client.create_session()
    async with contextlib.aclosing(session.generate("hi")) as reply:
        await anext(reply)
    assert await cancelled_on_the_service(service)


async def test_dropping_a_reply_cancels_on_the_service(client, service):
    service.script = [started(), token(0), HOLD]
    session = await client.create_session()
    async for _ in session.generate("hi"):
        break
    assert await cancelled_on_the_service(service)


async def test_cancelling_the_task_that_reads_cancels_on_the_service(client, service):
    service.script = [started(), token(0), HOLD]
    session = await client.create_session()
    reply = session.generate("hi")
    await anext(reply)
    task = asyncio.ensure_future(reply.read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cancelled_on_the_service(service)
    with pytest.raises(outrider.CallCancelledError):
        await reply.read()


async def test_cancel_from_another_task_ends_the_reader_with_an_error(client, service):
    service.script = [started(), token(0), HOLD]
    session = await client.create_session()
    reply = session.generate("hi")
    await anext(reply)
    reading = asyncio.ensure_future(reply.read())
    await asyncio.sleep(0)
    reply.cancel()
    with pytest.raises(outrider.CallCancelledError, match="the reply was cancelled"):
        await reading
    assert reply.tokens == [100]


async def test_cancel_before_the_call_sends_nothing(client, service):
    session = await client.create_session()
    service.requests.get()
    reply = session.generate("hi")
    reply.cancel()
    with pytest.raises(outrider.CallCancelledError):
        await reply.read()
    assert service.requests.empty()


async def test_cancel_after_the_end_changes_nothing(client):
    session = await client.create_session()
    reply = await session.generate("hi")
    reply.cancel()
    assert (await reply.read()).summary.tokens == 3


async def test_closing_the_client_ends_a_reader_with_an_error(client, service):
    service.script = [started(), token(0), HOLD]
    session = await client.create_session()
    reply = session.generate("hi")
    await anext(reply)
    reading = asyncio.ensure_future(reply.read())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(outrider.CallCancelledError):
        await reading


async def test_a_deadline_ends_the_reply(client, service):
    service.script = [started(), token(0), HOLD]
    session = await client.create_session()
    with pytest.raises(outrider.DeadlineError):
        await session.generate("hi", timeout_ms=200)


async def test_a_service_that_dies_in_a_turn_breaks_the_stream(impatient_client, service, server):
    service.script = [started(), token(0), HOLD]
    session = await impatient_client.create_session()
    reply = session.generate("hi")
    await anext(reply)
    server[0].stop(0)
    with pytest.raises(outrider.StreamBrokenError) as caught:
        await reply.read()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert reply.tokens == [100]


async def test_a_failure_with_a_reason_in_a_turn_keeps_its_kind(client, service):
    lost = Fail(grpc.StatusCode.UNAVAILABLE, "target lost", error_info("UNAVAILABLE"))
    service.script = [started(), token(0), lost]
    session = await client.create_session()
    reply = session.generate("hi")
    with pytest.raises(outrider.UnavailableError, match="target lost"):
        await reply.read()
    assert reply.tokens == [100]


async def test_a_summary_survives_the_status_that_follows_it(client, service):
    failed = summary(0, finish_reason=session_pb2.FINISH_REASON_FAILED)
    service.script = [started(), failed, Fail(grpc.StatusCode.INTERNAL)]
    session = await client.create_session()
    reply = session.generate("hi")
    with pytest.raises(outrider.InternalError):
        await reply.read()
    assert reply.summary.finish_reason is outrider.FinishReason.FAILED


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ([started(), token(0)], "without a summary"),
        ([], "without a summary"),
        ([token(0), summary(1)], "begin with one start"),
        ([started(), started(), summary(0)], "begin with one start"),
        ([started(), token(1), summary(1)], "token 1 came where 0 was due"),
        ([started(), token(0), token(0), summary(2)], "token 0 came where 1 was due"),
        ([started(), summary(0), token(0)], "after the summary"),
        ([started(), token(0), summary(2)], "counts 2 tokens where 1 came"),
    ],
)
async def test_a_stream_out_of_order_is_broken(client, service, script, complaint):
    service.script = script
    session = await client.create_session()
    reply = session.generate("hi")
    with pytest.raises(outrider.StreamBrokenError, match=complaint) as first:
        await reply.read()
    with pytest.raises(outrider.StreamBrokenError) as again:
        await reply.read()
    assert again.value is first.value


async def test_messages_of_an_unknown_kind_are_skipped(client, service):
    service.script = hello()
    service.script.insert(1, session_pb2.GenerateEvent())
    session = await client.create_session()
    assert (await session.generate("hi")).text == "hello!"


@contextlib.asynccontextmanager
async def aio_server(methods: dict[str, grpc.RpcMethodHandler]) -> AsyncIterator[str]:
    """A server on this event loop, whose methods take and give bytes."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("outrider.v1.SessionService", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def test_bytes_that_are_no_message_are_errors_of_the_sdk():
    async def unary(request: bytes, context: object) -> bytes:
        return b"\xff"

    async def stream(request: bytes, context: object) -> AsyncIterator[bytes]:
        yield b"\xff"

    methods = {
        "Describe": grpc.unary_unary_rpc_method_handler(unary),
        "GetSession": grpc.unary_unary_rpc_method_handler(lambda request, context: b""),
        "Generate": grpc.unary_stream_rpc_method_handler(stream),
    }
    async with aio_server(methods) as address, outrider.AsyncClient(address) as client:
        with pytest.raises(outrider.InternalError, match="cannot be read"):
            await client.describe()
        session = await client.open_session("s0")
        with pytest.raises(outrider.StreamBrokenError, match="cannot be read"):
            await session.generate("hi")


async def test_an_async_service_on_the_same_loop_streams_and_sees_the_cancel():
    cancelled = asyncio.Event()

    async def stream(request: bytes, context: object) -> AsyncIterator[bytes]:
        try:
            for message in (started(), token(0, "a")):
                yield message.SerializeToString()
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    methods = {
        "CreateSession": grpc.unary_unary_rpc_method_handler(lambda request, context: b""),
        "Generate": grpc.unary_stream_rpc_method_handler(stream),
    }
    async with aio_server(methods) as address, outrider.AsyncClient(address) as client:
        session = await client.create_session()
        async with session.generate("hi") as reply:
            assert (await anext(reply)).text == "a"
        await asyncio.wait_for(cancelled.wait(), 10)
