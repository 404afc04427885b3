"""A turn whose caller goes away ends within one round, keeps what is committed and frees everything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import outrider
import pytest
from outrider.v1 import draft_pb2_grpc, target_pb2, target_pb2_grpc
from outrider_server.core.types import FinishReason
from outrider_server.host.engine_host import EngineHost
from outrider_server.session.records import OWNER

from .harness import OWN_CONNECTION, generate, until, until_idle
from .reference import as_one_turn, target_alone

PROMPT = "with open(path) as file:\n"
OPTIONS = {"max_new_tokens": 600, "seed": 6, "logit_bias": {0: -100.0}}
LOOPS = pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])


@asynccontextmanager
async def held(host: EngineHost) -> AsyncIterator[None]:
    """Holds the device thread between two steps for as long as the context lasts."""
    reached, release = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        release.wait(20)

    host.device.wake(hold)
    await asyncio.to_thread(reached.wait, 20)
    try:
        yield
    finally:
        release.set()


async def cancel(reply: outrider.AsyncReply, _: outrider.AsyncClient) -> None:
    reply.cancel()
    with pytest.raises(outrider.CallCancelledError):
        await anext(reply)


async def leave(reply: outrider.AsyncReply, _: outrider.AsyncClient) -> None:
    async with reply:
        return


async def vanish(_: outrider.AsyncReply, client: outrider.AsyncClient) -> None:
    await client.close()


async def cancel_the_reader(reply: outrider.AsyncReply, _: outrider.AsyncClient) -> None:
    reading = asyncio.create_task(reply.read())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


Way = Callable[[outrider.AsyncReply, outrider.AsyncClient], Awaitable[None]]


@LOOPS
@pytest.mark.parametrize("go", [cancel, leave, vanish, cancel_the_reader])
async def test_a_caller_that_goes_away_costs_one_step_at_most(
    service, stack, target, go: Way, loop
):
    session = await service.client.create_session()
    async with outrider.AsyncClient(
        f"unix:{stack.folder}/session", channel_options=OWN_CONNECTION
    ) as caller:
        reply = (await caller.open_session(session.id)).generate(PROMPT, loop=loop, **OPTIONS)
        for _ in range(5):
            await anext(reply)
        async with held(target):
            steps = target.engine.counters.verify_steps
            await go(reply, caller)
            info = await until_idle(session)
    assert await target.device.call(lambda engine: engine.counters.verify_steps) <= steps + 1
    (turn,) = await service.ledger.turns(session.id)
    assert turn.finish_reason is FinishReason.CANCELLED
    kept = list(info.tokens[turn.generated_from :])
    assert kept[: len(reply.tokens)] == reply.tokens
    assert len(kept) < 600
    expected = await target_alone(
        service.client, PROMPT, **(OPTIONS | {"max_new_tokens": len(kept)})
    )
    assert kept == expected


@LOOPS
async def test_a_deadline_ends_the_turn_and_keeps_what_is_committed(service, target, loop):
    session = await service.client.create_session()
    reply = session.generate(PROMPT, loop=loop, timeout_ms=400, **OPTIONS)
    await anext(reply)
    async with held(target):
        with pytest.raises(outrider.DeadlineError):
            await reply.read()
        info = await until_idle(session)
    (turn,) = await service.ledger.turns(session.id)
    assert turn.finish_reason is FinishReason.CANCELLED
    assert list(info.tokens[turn.generated_from :])[: len(reply.tokens)] == reply.tokens


@LOOPS
async def test_the_turn_after_a_cancelled_one_goes_on_from_what_was_kept(service, loop):
    session = await service.client.create_session()
    reply = session.generate(PROMPT, loop=loop, **OPTIONS)
    for _ in range(20):
        await anext(reply)
    reply.cancel()
    await until_idle(session)
    following = await session.generate("\nnext", max_new_tokens=16, seed=9, loop=loop).read()
    assert following.tokens == await as_one_turn(service.client, session, following)


async def test_a_cancelled_turn_leaves_no_slot_open(service, stack):
    session = await service.client.create_session()
    reply = session.generate(PROMPT, **OPTIONS)
    for _ in range(5):
        await anext(reply)
    reply.cancel()
    await until_idle(session)
    epoch = (await service.ledger.get_session(session.id, OWNER)).epoch
    request = target_pb2.ReleaseRequest(session_id=session.id, epoch=epoch)
    for address, stub in (
        (stack.target, target_pb2_grpc.TargetServiceStub),
        (stack.draft, draft_pb2_grpc.DraftServiceStub),
    ):
        async with grpc.aio.insecure_channel(address) as channel:
            await released(stub(channel), request)


async def released(stub: object, request: target_pb2.ReleaseRequest) -> None:
    """Returns when the session's stream is closed and its slot free."""

    async def succeeds() -> bool:
        try:
            await stub.Release(request)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.FAILED_PRECONDITION
        return True

    await until(succeeds)
    await stub.Release(request)


@pytest.mark.usefixtures("patient")
async def test_many_callers_that_go_away_leave_the_service_whole(service, target, draft):
    """Callers leave at every moment of a turn, more of them than there are slots."""
    for count in range(24):
        session = await service.client.create_session()
        loop = ("synchronous", "run_ahead", "adaptive")[count % 3]
        reply = session.generate(PROMPT, loop=loop, **OPTIONS)
        if count % 6:
            await anext(reply)
        reading = asyncio.create_task(reply.read())
        for _ in range(count):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until_idle(session)
    options = {"max_new_tokens": 40, "seed": 6}
    last = await generate(service.client, PROMPT, draft="model", loop="run_ahead", **options)
    expected = await target_alone(service.client, PROMPT, **options)
    assert last.tokens == expected
    assert last.summary.proposed > 0
