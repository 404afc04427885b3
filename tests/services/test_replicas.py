"""Session services that share a ledger: what one says of a turn that runs in another."""

from __future__ import annotations

import asyncio

import grpc
import outrider
import pytest
from outrider.v1 import session_pb2
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger

from .harness import SessionService, Stack
from .wire import refusal

LEASE_SECONDS = 1000.0
"""Longer than any machine stands still."""
OPTIONS = {"max_new_tokens": 8, "logit_bias": {0: -100.0}}


@pytest.fixture
async def here(service: SessionService, stack: Stack) -> SessionService:
    """A session service that leaves leases of others alone."""
    return await stack.start_session("here", lease_seconds=LEASE_SECONDS)


@pytest.fixture
async def busy(here: SessionService) -> outrider.AsyncSession:
    """A session with a turn, of which another service runs the next one."""
    session = await here.client.create_session()
    await session.generate("import os\n", seed=1, **OPTIONS).read()
    await here.ledger.take_over(session.id, "elsewhere", LEASE_SECONDS, force=True)
    return session


async def test_a_turn_in_another_service_is_seen(here, busy) -> None:
    idle = await here.client.create_session()
    assert (await busy.info()).turn_running
    listed = {info.id: info.turn_running async for info in here.client.sessions()}
    assert listed == {busy.id: True, idle.id: False}


async def test_what_runs_elsewhere_is_neither_deleted_nor_forked_nor_rewound(here, busy) -> None:
    before = await busy.info(with_tokens=True)
    for call in (
        here.stub.DeleteSession(session_pb2.DeleteSessionRequest(session_id=busy.id)),
        here.stub.ForkSession(session_pb2.ForkSessionRequest(session_id=busy.id)),
    ):
        refused = await refusal(call)
        assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.reason == "TURN_RUNNING"
        assert "another session service" in refused.message
    rewind = session_pb2.RewindSessionRequest(session_id=busy.id)
    refused = await refusal(here.stub.RewindSession(rewind))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "LEASE_HELD")
    assert "try again" in refused.message
    with pytest.raises(outrider.UnavailableError) as caught:
        await busy.rewind(0)
    assert 0 < caught.value.retry_after_ms <= LEASE_SECONDS * 1000
    assert await busy.info(with_tokens=True) == before


async def test_a_session_is_free_again_when_the_lease_is(here, busy) -> None:
    record = await here.ledger.get_session(busy.id, "")
    await here.ledger.release(busy.id, record.epoch)
    assert not (await busy.info()).turn_running
    copy = await busy.fork(1)
    await busy.rewind(1)
    assert (await busy.info(with_tokens=True)).tokens == (await copy.info(with_tokens=True)).tokens
    await busy.delete()


async def test_a_turn_that_has_ended_here_does_not_run(here) -> None:
    for seed in range(5):
        session = await here.client.create_session()
        await session.generate("import os\n", seed=seed, **OPTIONS).read()
        assert not (await session.info()).turn_running
        await session.fork()
        await session.rewind(0)
        await session.delete()


async def test_a_turn_of_one_service_runs_for_the_other_until_it_ends(here, stack) -> None:
    other = await stack.start_session("other", lease_seconds=LEASE_SECONDS)
    session = await here.client.create_session()
    async with session.generate("x", max_new_tokens=500, logit_bias={0: -100.0}) as reply:
        await anext(reply)
        with pytest.raises(outrider.TurnRunningError):
            await other.client.delete_session(session.id)
        assert (await other.client.get_session(session.id)).turn_running


async def test_who_has_heard_of_an_end_goes_on_at_another_service_at_once(
    here, stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = SqliteLedger.release

    async def slow_release(self: SqliteLedger, session_id: str, epoch: int) -> None:
        await asyncio.sleep(0.2)
        await release(self, session_id, epoch)

    monkeypatch.setattr(SqliteLedger, "release", slow_release)
    other = await stack.start_session("other", lease_seconds=LEASE_SECONDS)
    session = await here.client.create_session()
    there = await other.client.open_session(session.id)
    for seed in range(4):
        await session.generate("x", seed=2 * seed, request_id=f"{seed}", **OPTIONS).read()
        await there.generate("y", seed=2 * seed + 1, **OPTIONS).read()
        await session.attach(f"{seed}").read()
        await there.rewind(1)
        await session.rewind(0)
    assert (await there.info()).position == 0
