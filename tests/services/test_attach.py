"""Turns that are gone on with: after a broken stream, by another client, in another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import outrider
import pytest
from outrider.v1 import session_pb2

from .harness import OWN_CONNECTION, SessionService, Stack, until_idle
from .reference import target_alone
from .wire import refusal

PROMPT = "with open(path) as file:\n"
OPTIONS = {
    "max_new_tokens": 120,
    "seed": 6,
    "frequency_penalty": 1.0,  # depends on where the turn's generated tokens begin
    "logit_bias": {0: -100.0},
}


@pytest.fixture
async def whole(service: SessionService) -> list[int]:
    """The tokens of the undisturbed turn."""
    return await target_alone(service.client, PROMPT, **OPTIONS)


@pytest.fixture
async def patient(service: SessionService, stack: Stack) -> AsyncIterator[outrider.AsyncClient]:
    """A client that resumes what breaks."""
    address = f"unix:{stack.folder}/session"
    async with outrider.AsyncClient(address, channel_options=OWN_CONNECTION) as client:
        yield client


async def begun(client: outrider.AsyncClient, events: int, **options: object):
    """A session, the reply of its first turn, and so many events of that."""
    session = await client.create_session()
    reply = session.generate(PROMPT, **(OPTIONS | options))
    for _ in range(events):
        await anext(reply)
    return session, reply


async def interrupted(client: outrider.AsyncClient, **options: object) -> outrider.AsyncSession:
    """A session whose turn was cancelled after 5 tokens or a few more."""
    session, reply = await begun(client, 5, **options)
    reply.cancel()
    await until_idle(session)
    return session


@pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])
async def test_a_turn_whose_reader_left_goes_on_to_the_same_tokens(service, whole, loop) -> None:
    session = await interrupted(service.client, loop=loop)
    committed = session.position
    reply = await session.attach().read()
    assert reply.tokens == whole
    assert [event.index for event in reply.events] == list(range(120))
    assert reply.summary.finish_reason == "length"
    assert (reply.summary.tokens, reply.summary.seed) == (120, 6)
    info = await session.info(with_tokens=True)
    assert info.turn_count == 1
    assert info.position == reply.summary.position > committed
    assert list(info.tokens[-120:]) == whole


async def test_only_what_is_missing_is_told(service, whole) -> None:
    session = await interrupted(service.client)
    reply = await session.attach(from_index=4).read()
    assert reply.tokens == whole[4:]
    assert [event.index for event in reply.events] == list(range(4, 120))
    again = await session.attach(from_index=120).read()
    assert again.tokens == []
    assert again.summary.finish_reason == "length"


async def test_text_and_stop_strings_do_not_notice_the_break(service) -> None:
    session, reply = await begun(service.client, 120)
    await reply.read()
    stop = reply.text[40:44]
    wanted = await (await service.client.create_session()).generate(PROMPT, stop=stop, **OPTIONS)
    assert wanted.summary.finish_reason == "stop_string"
    session = await interrupted(service.client, stop=stop)
    resumed = await session.attach().read()
    assert (resumed.text, resumed.tokens) == (wanted.text, wanted.tokens)
    assert resumed.summary.finish_reason == "stop_string"
    assert (await session.attach().read()).text == wanted.text


async def test_logprobs_are_told_again(service) -> None:
    session, reply = await begun(service.client, 120, logprobs=2)
    await reply.read()
    again = await session.attach().read()
    assert again.events == reply.events
    assert again.events[7].logprob is not None
    assert len(again.events[7].top_logprobs) == 2


async def test_the_next_turn_ends_what_can_be_gone_on_with(service, whole) -> None:
    session = await interrupted(service.client)
    first = (await session.info(with_tokens=True)).tokens
    await session.generate("\n", max_new_tokens=4, seed=1, request_id="second").read()
    assert [turn async for turn in session.attach("second")]
    told = await session.attach((await opening_of(session, service)).request_id).read()
    assert told.summary.finish_reason == "cancelled"
    assert told.tokens == list(first[-len(told.tokens) :]) == whole[: len(told.tokens)]


async def opening_of(session: outrider.AsyncSession, service: SessionService):
    turns = await service.ledger.turns(session.id)
    return turns[0]


async def test_a_second_reader_takes_the_turn_over(service, whole) -> None:
    session, first = await begun(service.client, 5)
    second = await session.attach().read()
    assert second.tokens == whole
    with pytest.raises(outrider.StaleEpochError):
        await first.read()
    assert first.tokens == whole[: len(first.tokens)]
    assert not (await session.info()).turn_running


@pytest.mark.parametrize("events", [0, 5, 120])
async def test_the_same_request_twice_is_one_turn(service, whole, events) -> None:
    session, first = await begun(service.client, events, request_id="once")
    if events:
        first.cancel()
        await until_idle(session)
    second = await session.generate(PROMPT, **OPTIONS, request_id="once").read()
    assert second.tokens == whole
    assert (await session.info()).turn_count == 1
    unseeded = OPTIONS | {"seed": None}
    assert (await session.generate(PROMPT, **unseeded, request_id="once").read()).tokens == whole


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 7}, "another seed;"),
        ({"max_new_tokens": 9, "temperature": 0.5}, "another max_new_tokens, sampling;"),
        ({"stop": "x", "logprobs": 1}, "another logprobs, stop;"),
        ({"input": "pass"}, "another input;"),
    ],
)
async def test_a_request_id_for_another_request_says_what_differs(service, changes, named) -> None:
    session, first = await begun(service.client, 120, request_id="once")
    await first.read()
    asked = {"input": PROMPT} | OPTIONS | changes
    with pytest.raises(outrider.AlreadyExistsError, match=named):
        await session.generate(**asked, request_id="once").read()
    assert (await session.info()).turn_count == 1


async def test_what_cannot_be_attached_to_is_refused(service) -> None:
    session = await interrupted(service.client)
    held = len(await service.ledger.turn_tokens(session.id, 0))
    empty = await service.client.create_session()

    async def asked(**fields: object):
        return await refusal(service.stub.Attach(session_pb2.AttachRequest(**fields)))

    beyond = await asked(session_id=session.id, from_index=held + 1)
    assert (beyond.code, beyond.numbers) == (
        grpc.StatusCode.OUT_OF_RANGE,
        {"position": str(held)},
    )
    negative = await asked(session_id=session.id, from_index=-1)
    assert (negative.code, negative.field) == (grpc.StatusCode.INVALID_ARGUMENT, "from_index")
    for unknown in (
        await asked(session_id="unknown"),
        await asked(session_id=empty.id),
        await asked(session_id=session.id, request_id="never"),
    ):
        assert unknown.code is grpc.StatusCode.NOT_FOUND
    assert len(await service.ledger.turn_tokens(session.id, 0)) == held


async def test_a_reply_outlives_its_session_service(service, stack, patient, whole) -> None:
    session, reply = await begun(patient, 5)
    await stack.kill("session")
    restarted = await stack.start_session()
    await reply.read()
    assert reply.tokens == whole
    assert [event.index for event in reply.events] == list(range(120))
    assert (await restarted.client.get_session(session.id)).turn_count == 1


async def test_a_reply_outlives_the_target(stack, target, patient, whole) -> None:
    _, reply = await begun(patient, 5)
    await stack.kill("target")
    reading = asyncio.create_task(reply.read())
    await asyncio.sleep(0.2)
    assert not reading.done()
    await stack.start_target(target)
    assert (await reading).tokens == whole


async def test_an_attach_that_fails_leaves_the_session_free(
    service, stack, target, patient
) -> None:
    session = await interrupted(service.client)
    await stack.kill("target")
    with pytest.raises(outrider.UnavailableError):
        await session.attach().read()
    assert not (await session.info()).turn_running
    await stack.start_target(target)
    again = await patient.open_session(session.id)
    assert (await again.generate("\n", max_new_tokens=4).read()).tokens


async def test_another_session_service_goes_on_with_the_turn(service, stack, whole) -> None:
    session, first = await begun(service.client, 5)
    other = await stack.start_session("other")
    moved = await other.client.open_session(session.id)
    assert (await moved.attach().read()).tokens == whole
    with pytest.raises(outrider.StaleEpochError):
        await first.read()


async def test_a_client_that_gives_up_says_what_was_wrong(service, stack) -> None:
    address = f"unix:{stack.folder}/session"
    async with outrider.AsyncClient(
        address, channel_options=OWN_CONNECTION, resume_ms=300
    ) as client:
        _, reply = await begun(client, 5)
        await stack.kill("session")
        with pytest.raises(outrider.StreamBrokenError, match="the stream was lost"):
            await reply.read()


async def test_regenerating_replaces_the_turn(service) -> None:
    session = await service.client.create_session()
    await session.generate("import os\n", max_new_tokens=8, seed=1).read()
    before = session.position
    first = await session.generate(PROMPT, **OPTIONS).read()
    second = await (await session.regenerate(seed=9)).read()
    assert second.started.start_position == first.started.start_position
    assert second.summary.seed == 9
    assert second.tokens != first.tokens
    third = await (await session.regenerate(seed=6)).read()
    assert third.tokens == first.tokens
    info = await session.info()
    assert (info.turn_count, info.position) == (2, before + 120 + first.started.prompt_tokens)


async def test_a_refused_request_is_not_what_is_regenerated(service) -> None:
    session = await service.client.create_session()
    first = await session.generate("import os\n", max_new_tokens=8, request_id="once").read()
    with pytest.raises(outrider.AlreadyExistsError):
        await session.generate("import re\n", max_new_tokens=8, request_id="once").read()
    assert (await session.attach("once").read()).tokens == first.tokens
    with pytest.raises(outrider.UnfinishedError):
        await session.regenerate(seed=9)
    assert session.position == first.summary.position
