"""Sessions that are given a time to live: what the service says of it, and what it refuses."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import timedelta

import grpc
import outrider
import pytest
from google.protobuf.duration_pb2 import Duration
from outrider.v1 import session_pb2
from outrider_server.core.limits import MAX_TTL_SECONDS

from .harness import SessionService, Stack, generate
from .wire import refusal

HOUR = 3600
DAY_US = 24 * HOUR * 1_000_000


def lives_for(info: outrider.SessionInfo) -> timedelta:
    """From the session's last write to its end."""
    assert info.expire_time is not None
    return info.expire_time - info.update_time


@pytest.mark.parametrize("ttl_seconds", [1, HOUR, MAX_TTL_SECONDS])
async def test_a_session_says_when_it_expires(service: SessionService, ttl_seconds: int) -> None:
    session = await service.client.create_session(ttl_seconds=ttl_seconds)
    info = await session.info()
    assert info.ttl_seconds == ttl_seconds
    assert lives_for(info) == timedelta(seconds=ttl_seconds)
    (listed,) = [info async for info in service.client.sessions()]
    assert listed == info


@pytest.mark.parametrize("ttl_seconds", [None, 0])
async def test_a_session_without_a_time_to_live_never_expires(service, ttl_seconds) -> None:
    info = await (await service.client.create_session(ttl_seconds=ttl_seconds)).info()
    assert (info.ttl_seconds, info.expire_time) == (0, None)
    session = (await service.stub.CreateSession(session_pb2.CreateSessionRequest())).session
    assert not session.HasField("ttl")
    assert not session.HasField("expire_time")


async def test_every_write_puts_the_end_off_and_a_fork_lives_as_long(service) -> None:
    session = await service.client.create_session(ttl_seconds=HOUR)
    before = await session.info()
    await session.generate("x", max_new_tokens=2, seed=1).read()
    after = await session.info()
    assert after.expire_time > before.expire_time
    assert lives_for(after) == timedelta(seconds=HOUR)
    await session.rewind(1)
    rewound = await session.info()
    assert rewound.expire_time > after.expire_time
    copy = await (await session.fork()).info()
    assert (copy.ttl_seconds, lives_for(copy)) == (HOUR, timedelta(seconds=HOUR))


async def test_an_expired_session_is_not_found(service: SessionService, stack: Stack) -> None:
    session = await service.client.create_session(ttl_seconds=HOUR)
    other = await service.client.create_session(ttl_seconds=HOUR)
    with contextlib.closing(sqlite3.connect(stack.folder / "ledger.db")) as file, file:
        file.execute("UPDATE sessions SET expires_us = 1 WHERE session_id = ?", (session.id,))
    for call in (session.info(), session.rewind(0), session.fork(), session.generate("x").read()):
        with pytest.raises(outrider.NotFoundError):
            await call
    assert [info.id async for info in service.client.sessions()] == [other.id]


async def test_a_session_lives_while_its_turn_runs_however_long_the_reader_pauses(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await service.client.create_session(ttl_seconds=HOUR)
    reply = session.generate("x", max_new_tokens=300, seed=1, logit_bias={0: -100.0})
    await anext(reply)
    clock = service.ledger._clock
    for name in ("_wall_us", "_steady_us"):
        before = getattr(clock, name)
        monkeypatch.setattr(clock, name, lambda before=before: before() + DAY_US)
    assert await service.ledger.sweep() == 0
    await reply.read()
    expected = await generate(
        service.client, "x", max_new_tokens=300, seed=1, logit_bias={0: -100.0}
    )
    assert reply.tokens == expected.tokens
    info = await session.info()
    assert (info.position, lives_for(info)) == (session.position, timedelta(seconds=HOUR))


@pytest.mark.parametrize(
    "ttl",
    [
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(nanos=500_000_000),
        Duration(seconds=60, nanos=1),
        Duration(seconds=MAX_TTL_SECONDS + 1),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63), nanos=-(2**31)),
    ],
    ids=lambda ttl: f"{ttl.seconds}s-{ttl.nanos}ns",
)
async def test_a_bad_time_to_live_is_refused_and_no_session_made(service, ttl: Duration) -> None:
    request = session_pb2.CreateSessionRequest(ttl=ttl)
    refused = await refusal(service.stub.CreateSession(request))
    assert (refused.code, refused.field) == (grpc.StatusCode.INVALID_ARGUMENT, "ttl")
    assert "0 to 315360000 whole seconds" in refused.message
    assert [info async for info in service.client.sessions()] == []


@pytest.mark.parametrize("ttl_seconds", [-1, MAX_TTL_SECONDS + 1, 2**63 - 1])
async def test_the_sdk_says_what_the_service_refuses(service, ttl_seconds: int) -> None:
    with pytest.raises(outrider.InvalidRequestError) as caught:
        await service.client.create_session(ttl_seconds=ttl_seconds)
    assert caught.value.field == "ttl"
