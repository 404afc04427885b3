"""A turn that was left: the session's next call waits for its end, and nobody else's turn is ended."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import outrider
import pytest
from outrider import _ending

from .fake_service import HOLD, hello, started, token

LEAVES = ["hold", "with", "close", "drop"]
NEXT = ["generate", "regenerate", "rewind", "fork", "delete", "delete by id"]


@pytest.fixture(autouse=True)
def lingering(service):
    """A turn that is cancelled refuses three calls more."""
    service.script, service.lingers = [started(), token(0), HOLD], 3


@pytest.mark.parametrize("leave", LEAVES)
def test_the_next_turn_after_an_early_break_runs(sync_client, service, leave):
    session = sync_client.create_session()
    reply = session.generate("hi")
    for _ in reply:
        break
    if leave == "with":
        with reply:
            pass
    elif leave == "close":
        reply.close()
    elif leave == "drop":
        del reply
    service.script = hello()
    assert session.generate("hi").read().text == "hello!"
    if leave == "hold":
        with pytest.raises(outrider.CallCancelledError, match="its session's next call"):
            reply.read()


@pytest.mark.parametrize("leave", LEAVES)
async def test_the_next_turn_after_an_early_break_of_an_async_reply_runs(client, service, leave):
    session = await client.create_session()
    reply = session.generate("hi")
    async for _ in reply:
        break
    if leave == "with":
        async with reply:
            pass
    elif leave == "close":
        await reply.aclose()
    elif leave == "drop":
        del reply
    service.script = hello()
    assert (await session.generate("hi")).text == "hello!"
    if leave == "hold":
        with pytest.raises(outrider.CallCancelledError, match="its session's next call"):
            await reply


@pytest.mark.parametrize("call", NEXT)
def test_any_call_of_the_session_after_an_early_break_is_made(sync_client, service, call):
    session = sync_client.create_session()
    reply = session.generate("hi")
    next(reply)
    service.script = hello()
    if call == "regenerate":
        assert session.regenerate().read().text == "hello!"
    elif call == "delete by id":
        reply.close()
        sync_client.delete_session(session.id)
    else:
        arguments = {"generate": ["hi"], "rewind": [0]}.get(call, [])
        getattr(session, call)(*arguments)
    assert call == "generate" or service.cancelled.wait(10)


async def test_the_next_turn_after_a_deadline_runs(client, service):
    session = await client.create_session()
    with pytest.raises(outrider.DeadlineError):
        await session.generate("hi", timeout_ms=200)
    service.script = hello()
    assert (await session.generate("hi")).text == "hello!"


async def test_a_task_that_ended_has_left_its_reply(client, service):
    session = await client.create_session()
    reply = session.generate("hi")
    await asyncio.create_task(reply.__anext__())
    service.script = hello()
    assert (await session.generate("hi")).text == "hello!"


def test_a_reply_that_another_thread_reads_is_not_ended(sync_client, service):
    session = sync_client.create_session()
    reply = session.generate("hi")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(next, reply).result()
        with pytest.raises(outrider.TurnRunningError):
            session.generate("hi").read()
        assert not service.cancelled.is_set()
        reading = pool.submit(reply.read)
        reply.cancel()
        with pytest.raises(outrider.CallCancelledError):
            reading.result(10)


async def test_a_reply_that_another_task_reads_is_not_ended(client, service):
    session = await client.create_session()
    reply = session.generate("hi")
    reading = asyncio.ensure_future(reply.read())
    while not reply.tokens:
        await client.describe()
    with pytest.raises(outrider.TurnRunningError):
        await session.generate("hi")
    assert not service.cancelled.is_set()
    reply.cancel()
    with pytest.raises(outrider.CallCancelledError):
        await reading


async def test_attaching_does_not_end_the_reply_before(client, service):
    session = await client.create_session()
    reply = session.generate("hi")
    await anext(reply)
    with pytest.raises(outrider.UnimplementedError):  # the scripted service has no Attach
        await session.attach()
    assert not service.cancelled.is_set()


async def test_a_turn_of_somebody_else_is_not_waited_for_without_end(client, service, monkeypatch):
    monkeypatch.setattr(_ending, "WAIT_SECONDS", 0.2)
    service.lingers = 10**9
    session = await client.create_session()
    async with session.generate("hi") as reply:
        await anext(reply)
    for call in (session.generate("hi").read, session.fork):
        with pytest.raises(outrider.TurnRunningError):
            await call()
