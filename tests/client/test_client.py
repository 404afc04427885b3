"""The async client and its sessions over a real channel."""

from __future__ import annotations

import asyncio
import math
import time

import grpc
import outrider
import pytest
from outrider._settings import channel_options

from .fake_service import Hang, serve


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
    with pytest.raises(outrider.ClosedError, match="was deleted; create another one"):
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


@pytest.mark.parametrize("timeout_ms", [0, -1, 0.5, 10**13, 1e13, math.inf, math.nan, "30", [30]])
async def test_a_deadline_that_is_no_time_is_refused(client, timeout_ms):
    session = await client.create_session()
    with pytest.raises(outrider.InvalidRequestError) as caught:
        session.generate("hi", timeout_ms=timeout_ms)
    assert caught.value.field == "timeout_ms"
    with pytest.raises(outrider.InvalidRequestError):
        outrider.AsyncClient("127.0.0.1:1", timeout_ms=timeout_ms)


WRITTEN_BY_GRPC = (
    *("grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status", "grpc-message"),
    *("grpc-previous-rpc-attempts", "grpc-retry-pushback-ms", "grpc-internal-encoding-request"),
    *("te", "content-type", "content-length", "user-agent", "grpclb_client_stats"),
    "x-envoy-peer-metadata",
)
"""Headers that do not arrive as they were given."""


@pytest.mark.parametrize("name", [*WRITTEN_BY_GRPC, "grpc-mine", "host", "connection", "upgrade"])
async def test_a_header_of_grpcs_own_is_refused_by_name(client, service, name):
    session = await client.create_session()
    service.requests.get()
    with pytest.raises(outrider.InvalidRequestError) as caught:
        session.generate("hi", metadata={name: "x"})
    expected = f"metadata {name!r} is a header of gRPC's own; give yours another name"
    assert (caught.value.field, caught.value.message) == ("metadata", expected)
    assert service.requests.empty()


async def test_every_other_header_arrives_as_it_was_given(client, service):
    names = (
        *("authorization", "cookie", "date", "accept", "accept-encoding", "traceparent"),
        *("path", "method", "scheme", "authority", "server", "trailer", "lb-token", "x-grpc-a"),
        *("x-forwarded-for", "x-forwarded-host", "expect", "content-encoding"),
    )
    given = dict.fromkeys(names, "x")
    session = await client.create_session()
    await session.generate("hi", metadata=given)
    assert {name: service.metadata.get(name) for name in given} == given


@pytest.mark.parametrize(
    "metadata",
    [
        *(
            {":path": "x"},
            {":authority": "x"},
            {"Upper": "x"},
            {"key": "line\nbreak"},
            {"": "x"},
            {1: "x"},
            {"key": 1},
            {"key": b"x"},
        ),
        *({"key": None}, {"key-bin": "x"}, [("key", "x")], "key", 7),
    ],
)
async def test_metadata_that_no_header_can_carry_is_refused(client, address, metadata):
    session = await client.create_session()
    with pytest.raises(outrider.InvalidRequestError) as caught:
        session.generate("hi", metadata=metadata)
    assert caught.value.field == "metadata"
    with pytest.raises(outrider.InvalidRequestError):
        outrider.AsyncClient(address, metadata=metadata)
    async with outrider.AsyncClient(address, metadata=lambda: metadata) as other:
        with pytest.raises(outrider.InvalidRequestError):
            await other.describe()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("target", value) for value in (" ", "a:1\n", None, 7, b"127.0.0.1:1", "\ud800")),
        *(("resume_ms", value) for value in (-1, math.nan, math.inf, None, "3")),
        *(
            ("channel_options", value)
            for value in (7, [7], "ab", {"a": 1}, [("a", None)], [(1, 2)])
        ),
        ("credentials", "secret"),
    ],
)
@pytest.mark.parametrize("kind", [outrider.AsyncClient, outrider.Client])
def test_what_no_client_can_be_made_of_is_refused(kind, field, value):
    with pytest.raises(outrider.InvalidRequestError) as caught:
        kind(**{"target": "127.0.0.1:1", field: value})
    assert caught.value.field == field


async def reconnecting_fails(client: outrider.AsyncClient) -> None:
    """Returns when the client waits before it connects again."""
    channel = client._channel._grpc
    while channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
        await asyncio.to_thread(time.monotonic)


async def test_a_call_waits_for_a_service_that_restarts(client, server, service):
    await client.describe()
    server[0].stop(0).wait()
    await reconnecting_fails(client)
    waiting = asyncio.ensure_future(client.describe())
    session = asyncio.ensure_future(client.create_session())
    await asyncio.to_thread(time.monotonic)
    again, _ = serve(service, server[1])
    assert (await waiting).version == "1.2.3"
    assert (await session).id == "s0"
    again.stop(0).wait()


@pytest.mark.parametrize("given", [{"timeout_ms": 300}, {"resume_ms": 100}, {"resume_ms": 0}])
async def test_a_service_that_stays_away_is_told_with_the_cause(address, server, given):
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with outrider.AsyncClient(address, channel_options=options, **given) as client:
        await client.describe()
        server[0].stop(0).wait()
        await reconnecting_fails(client)
        with pytest.raises(outrider.UnavailableError, match="refused"):
            await client.describe()


async def test_an_address_where_nothing_ever_answered_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(asyncio, "sleep", None)
    client = outrider.AsyncClient("127.0.0.1:1")
    with pytest.raises(outrider.UnavailableError, match="refused"):
        await client.describe()
    monkeypatch.undo()
    await client.close()


async def test_closing_the_client_ends_a_call_that_waits_for_the_service(client, server):
    await client.describe()
    server[0].stop(0).wait()
    await reconnecting_fails(client)
    waiting = asyncio.ensure_future(client.describe())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(outrider.CallCancelledError):
        await waiting


async def test_a_message_above_a_limit_is_the_callers_error(client, address):
    small = [("grpc.max_receive_message_length", 5), ("grpc.use_local_subchannel_pool", 1)]
    session = await client.create_session()
    async with outrider.AsyncClient(address, channel_options=small) as other:
        for call in (other.describe, session.generate("x" * 5_000_000).read):
            with pytest.raises(outrider.CallerError, match="too large") as caught:
                await call()
            assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_frozen_service_is_noticed_within_seconds():
    options = dict(channel_options([]))
    pings = [
        options["grpc.keepalive_time_ms"],
        options["grpc.keepalive_timeout_ms"],
        options["grpc.http2.ping_timeout_ms"],
    ]
    assert all(0 < milliseconds <= 30_000 for milliseconds in pings)


def test_channel_options_of_the_caller_take_the_place_of_the_sdks():
    options = channel_options([("grpc.keepalive_time_ms", 5)])
    assert [value for name, value in options if name == "grpc.keepalive_time_ms"] == [5]


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


def test_an_option_that_grpc_has_no_room_for_is_refused_at_once():
    with pytest.raises(outrider.InvalidRequestError, match=r"option 'grpc\.x' is too large"):
        channel_options([("grpc.x", 2**31)])
