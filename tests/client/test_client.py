"""The async client and its sessions over a real channel."""

from __future__ import annotations

import asyncio

import outrider
import pytest
from outrider._channel import channel_options

from .fake_service import Hang


async def test_sessions_are_listed_over_all_pages(client, service):
    service.add_sessions(7)
    assert [info.id async for info in client.sessions(page_size=3)] == [f"s{i}" for i in range(7)]
    assert service.requests.qsize() == 3


@pytest.mark.parametrize(("ttl_seconds", "sent"), [(None, None), (0, 0), (90, 90), (-1, -1)])
async def test_the_time_to_live_of_a_session_is_sent(
    client, sync_client, service, ttl_seconds, sent
):
    await client.create_session(ttl_seconds=ttl_seconds)
    await asyncio.to_thread(sync_client.create_session, ttl_seconds=ttl_seconds)
    for _ in range(2):
        request = service.requests.get()
        assert request.HasField("ttl") == (sent is not None)
        assert request.ttl.ToSeconds() == (sent or 0)


@pytest.mark.parametrize("ttl_seconds", [1.5, "90", 2**63, float("nan")])
async def test_a_time_to_live_that_no_message_can_carry_is_not_sent(
    client, sync_client, service, ttl_seconds
):
    with pytest.raises(outrider.InvalidRequestError) as caught:
        await client.create_session(ttl_seconds=ttl_seconds)
    with pytest.raises(outrider.InvalidRequestError) as caught_in_sync:
        sync_client.create_session(ttl_seconds=ttl_seconds)
    assert caught.value.field == caught_in_sync.value.field == "ttl_seconds"
    assert service.requests.empty()


async def test_a_session_can_be_opened_described_and_deleted(client, service):
    service.add_sessions(3)
    session = await client.open_session("s2")
    assert (session.id, session.position) == ("s2", 2)
    info = await client.get_session("s2", with_tokens=True)
    assert (info.tokens, info.text) == ((1, 2), "ab")
    assert (await client.get_session("s2")).tokens is None
    await client.delete_session("s2")
    with pytest.raises(outrider.NotFoundError):
        await client.open_session("s2")


async def test_info_brings_the_position_up_to_date(client, service):
    session = await client.create_session()
    service.sessions[session.id].position = 42
    assert (await session.info()).position == 42
    assert session.position == 42


async def test_rewind_and_fork_move_to_the_answered_position(client, service):
    service.add_sessions(6)
    session = await client.open_session("s5")
    copy = await session.fork(4)
    assert (copy.id, copy.position) == ("s5-copy", 4)
    assert (await session.fork()).position == 5
    await session.rewind(2)
    assert session.position == 2


async def test_a_closed_session_stays_on_the_service(client, service):
    session = await client.create_session()
    session.close()
    with pytest.raises(outrider.ClosedError, match="open it again"):
        session.generate("hi")
    with pytest.raises(outrider.ClosedError):
        await session.info()
    assert (await client.open_session(session.id)).id == session.id


async def test_a_deleted_session_is_closed(client, service):
    session = await client.create_session()
    await session.delete()
    assert service.sessions == {}
    with pytest.raises(outrider.ClosedError):
        session.generate("hi")


async def test_metadata_of_the_client_and_of_the_call_are_sent(address, service):
    spans = iter(["one", "two"])
    async with outrider.AsyncClient(
        address, metadata=lambda: {"traceparent": next(spans)}
    ) as client:
        session = await client.create_session()
        assert service.metadata["traceparent"] == "one"
        await session.generate("hi", metadata={"x-tenant": "t"})
        assert (service.metadata["traceparent"], service.metadata["x-tenant"]) == ("two", "t")


@pytest.mark.parametrize("timeout_ms", [0, -1])
async def test_a_deadline_that_is_no_time_is_refused(client, timeout_ms):
    session = await client.create_session()
    with pytest.raises(outrider.InvalidRequestError) as caught:
        session.generate("hi", timeout_ms=timeout_ms)
    assert caught.value.field == "timeout_ms"
    with pytest.raises(outrider.InvalidRequestError):
        outrider.AsyncClient("127.0.0.1:1", timeout_ms=timeout_ms)


@pytest.mark.parametrize("metadata", [{"Upper": "x"}, {"key": "line\nbreak"}, {"": "x"}])
async def test_metadata_that_no_header_can_carry_is_refused(client, metadata):
    session = await client.create_session()
    with pytest.raises(outrider.InvalidRequestError) as caught:
        session.generate("hi", metadata=metadata)
    assert caught.value.field == "metadata"


def test_an_empty_target_is_refused():
    with pytest.raises(outrider.InvalidRequestError):
        outrider.AsyncClient("")


def test_a_frozen_service_is_noticed_within_seconds():
    options = dict(channel_options([]))
    pings = [
        options["grpc.keepalive_time_ms"],
        options["grpc.keepalive_timeout_ms"],
        options["grpc.http2.ping_timeout_ms"],
    ]
    assert all(0 < milliseconds <= 30_000 for milliseconds in pings)


def test_channel_options_of_the_caller_override():
    assert dict(channel_options([("grpc.keepalive_time_ms", 5)]))["grpc.keepalive_time_ms"] == 5


async def test_the_user_agent_names_the_sdk(client, service):
    await client.describe()
    assert service.metadata["user-agent"].startswith("outrider-python/")


async def test_a_closed_client_refuses_calls(client):
    session = await client.create_session()
    await client.close()
    with pytest.raises(outrider.ClosedError):
        await client.describe()
    with pytest.raises(outrider.ClosedError):
        await session.generate("hi")


async def test_a_unary_deadline_is_an_error_of_the_sdk(service, address):
    service.failures["Describe"] = Hang()
    async with outrider.AsyncClient(address, timeout_ms=100) as client:
        with pytest.raises(outrider.DeadlineError):
            await client.describe()


async def test_an_unreachable_service_is_unavailable():
    async with outrider.AsyncClient("unix:/nowhere/outrider.sock") as client:
        with pytest.raises(outrider.UnavailableError) as caught:
            await client.create_session()
    assert caught.value.retry_after_ms == 500
