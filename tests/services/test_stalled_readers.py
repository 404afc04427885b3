"""A reader that stands still holds no slot: its turn gives way, and goes on when it reads again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from outrider.v1 import session_pb2, session_pb2_grpc
from outrider_server.session import reader_watch

from .harness import SessionService, Stack, generate, taken_slots, until, until_idle
from .reference import target_alone

PROMPT = "with open(path) as file:\n"
OPTIONS = {"max_new_tokens": 600, "seed": 6, "logit_bias": {0: -100.0}}
NARROW = [("grpc.http2.lookahead_bytes", 16_384), ("grpc.http2.bdp_probe", 0)]
"""A client that takes little that it has not read."""


@pytest.fixture
async def service(stack: Stack, twin, monkeypatch: pytest.MonkeyPatch) -> SessionService:
    """A target of two slots; who stands still for a moment has stalled."""
    monkeypatch.setattr(reader_watch, "STALL_SECONDS", 0.2)
    await stack.start_target(twin)
    return await stack.start_session(with_draft=False)


@pytest.fixture
async def stub(stack: Stack, service) -> AsyncIterator[session_pb2_grpc.SessionServiceStub]:
    address = f"unix:{stack.folder}/session"
    async with grpc.aio.insecure_channel(address, options=NARROW) as channel:
        yield session_pb2_grpc.SessionServiceStub(channel)


def request_of(session_id: str) -> session_pb2.GenerateRequest:
    request = session_pb2.GenerateRequest(session_id=session_id, text=PROMPT, logprobs=20)
    request.max_new_tokens, request.seed = OPTIONS["max_new_tokens"], OPTIONS["seed"]
    request.sampling.logit_bias[0] = -100.0
    return request


async def stalled(stub: session_pb2_grpc.SessionServiceStub, session_id: str):  # type: ignore[no-untyped-def]
    """A turn whose reader takes the first message and no other; None where there is no room for it."""
    call = stub.Generate(request_of(session_id))
    try:
        assert (await call.read()).HasField("started")
    except grpc.aio.AioRpcError:
        return None
    return call


async def read_on(call) -> list[session_pb2.GenerateEvent]:  # type: ignore[no-untyped-def]
    """What is left of a turn."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


def open_count(host) -> int:
    return host.engine.table.open_count


async def until_given_up(service, host, session) -> None:  # type: ignore[no-untyped-def]
    """Returns when no slot is held, though the session's turn has tokens left to decide."""
    stream = service.targets._pool.members[0].link._stream

    async def given_up() -> bool:
        return open_count(host) == 0

    await until(given_up)
    info = await session.info()
    assert info.turn_running
    assert info.position < OPTIONS["max_new_tokens"], "it was decoded to its end"
    assert not stream.over, "the slot was lost with the stream to the target"


@pytest.mark.parametrize("readers", [1, 8])
async def test_others_are_served_and_the_stalled_go_on(service, stub, twin, readers: int) -> None:
    whole = await target_alone(service.client, PROMPT, **OPTIONS)
    sessions = [await service.client.create_session() for _ in range(readers)]
    calls = []
    for session in sessions:
        while (call := await stalled(stub, session.id)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # a slot is free once the one before stands still
        calls.append(call)

    await until_given_up(service, twin, session)
    for session in sessions[:-1]:
        await until_given_up(service, twin, session)
    short = OPTIONS | {"max_new_tokens": 40}
    assert (await generate(service.client, PROMPT, **short)).tokens == whole[:40]
    for call in calls:
        messages = await read_on(call)
        assert [event.token for each in messages for event in each.tokens.events] == whole
        assert messages[-1].summary.tokens == 600


async def test_who_goes_on_where_there_is_no_room_is_told_when_to_come_back(
    service, stack, stub, twin
) -> None:
    session = await service.client.create_session()
    call = await stalled(stub, session.id)

    await until_given_up(service, twin, session)
    whole = await target_alone(service.client, PROMPT, **OPTIONS)
    async with taken_slots(stack.target, 2):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_on(call)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def free() -> bool:
        return open_count(twin) == 0

    await until(free)
    assert (await session.attach().read()).tokens == whole


async def test_a_stalled_reader_that_goes_leaves_nothing(service, stub, twin) -> None:
    session = await service.client.create_session()
    call = await stalled(stub, session.id)

    await until_given_up(service, twin, session)
    call.cancel()

    async def idle() -> bool:
        return not (await session.info()).turn_running

    await until(idle)
    await session.generate("\n", max_new_tokens=4).read()


async def test_who_stands_still_at_what_is_told_again_holds_no_slot(service, stub, twin) -> None:
    session = await service.client.create_session()
    reply = session.generate(PROMPT, **OPTIONS, logprobs=20, request_id="turn")
    for _ in range(500):
        await anext(reply)
    reply.cancel()
    await until_idle(session)
    call = stub.Attach(session_pb2.AttachRequest(session_id=session.id, request_id="turn"))
    assert (await call.read()).HasField("started")
    assert open_count(twin) == 1
    await until_given_up(service, twin, session)
    messages = await read_on(call)
    whole = await target_alone(service.client, PROMPT, **OPTIONS)
    assert [event.token for each in messages for event in each.tokens.events] == whole
