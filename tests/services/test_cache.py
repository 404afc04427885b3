"""KV state lives from turn to turn, in fewer slots than there are sessions; nobody notices but in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import outrider
import pytest
from outrider.v1 import draft_pb2, draft_pb2_grpc
from outrider_server.host.engine_host import EngineHost

from .harness import Stack, generate, running_engine, taken_slots
from .reference import LONG_PROMPT, as_one_turn, target_alone


@pytest.fixture(scope="module")
def two_slots(target_folder: Path) -> Iterator[EngineHost]:
    with running_engine(target_folder, "target", slots=2, rows=2, park_bytes=0) as host:
        yield host


@pytest.fixture(scope="module")
def two_draft_slots(draft_folder: Path) -> Iterator[EngineHost]:
    with running_engine(draft_folder, "draft", slots=2, rows=2, park_bytes=0) as host:
        yield host


@pytest.fixture
async def narrow(stack: Stack, two_slots, two_draft_slots):
    """The services with two slots each."""
    await stack.start_target(two_slots)
    await stack.start_draft(two_draft_slots)
    return await stack.start_session()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("loop", ["synchronous", "run_ahead"])
async def test_the_second_turn_of_a_long_session_reads_only_what_is_new(
    service, target, draft, loop
):
    session = await service.client.create_session()
    options = {"draft": "model", "loop": loop}
    first = await session.generate(LONG_PROMPT, max_new_tokens=40, seed=1, **options).read()
    assert first.summary.prefilled_tokens == 560
    read = [host.engine.counters.prefilled_tokens for host in (target, draft)]
    prompt = list(range(200, 220))
    second = await session.generate(prompt, max_new_tokens=24, seed=2, **options).read()
    now = [host.engine.counters.prefilled_tokens for host in (target, draft)]
    assert second.summary.prefilled_tokens <= 21
    assert now[0] - read[0] == 20
    assert now[1] - read[1] <= 20 + 12  # the draft reads again what it was not told of in time
    assert second.summary.accepted > 0
    assert second.tokens == await as_one_turn(service.client, session, second)


async def test_the_draft_keeps_what_was_committed_however_a_turn_ends(service, draft):
    """Wrong guesses left in its slot must not cost it the session at the next turn."""
    for length in range(6, 18):
        session = await service.client.create_session()
        options = {"draft": "model", "loop": "run_ahead", "seed": length}
        await session.generate(LONG_PROMPT[:200], max_new_tokens=length, **options).read()
        read = draft.engine.counters.prefilled_tokens
        await session.generate([7], max_new_tokens=8, **options).read()
        assert draft.engine.counters.prefilled_tokens - read <= 12


async def test_more_sessions_than_slots_are_rebuilt_and_right(narrow, two_slots):
    sessions = [await narrow.client.create_session() for _ in range(4)]
    for turn in range(3):
        for number, session in enumerate(sessions):
            reply = await session.generate(
                f"def f{number}():", max_new_tokens=10, seed=turn * 10 + number
            ).read()
            assert reply.summary.prefilled_tokens == session.position - len(reply.tokens)
            assert reply.tokens == await as_one_turn(narrow.client, session, reply)
    assert two_slots.engine.table.session_count == 2


async def test_the_session_idle_longest_loses_its_slot(narrow):
    old, new, third = [await narrow.client.create_session() for _ in range(3)]
    for session in (old, new, third):
        await session.generate("import re", max_new_tokens=4, seed=1).read()
    kept = await new.generate("\n", max_new_tokens=4, seed=1).read()
    assert kept.summary.prefilled_tokens <= 2
    lost = await old.generate("\n", max_new_tokens=4, seed=1).read()
    assert lost.summary.prefilled_tokens == old.position - 4


async def test_a_turn_without_a_slot_is_told_to_come_back(narrow, stack):
    async with taken_slots(stack.target, 2):
        session = await narrow.client.create_session()
        with pytest.raises(outrider.ExhaustedError) as caught:
            await session.generate("x").read()
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "EXHAUSTED",
        )
        assert caught.value.retry_after_ms > 0
    await asyncio.sleep(caught.value.retry_after_ms / 1000)
    reply = await generate(narrow.client, "x", max_new_tokens=4)
    assert len(reply.tokens) == 4


async def test_a_turn_without_a_draft_slot_goes_on_without_the_draft(
    narrow, stack, two_draft_slots
):
    fingerprint = two_draft_slots.engine.loaded.vocabulary_fingerprint
    async with grpc.aio.insecure_channel(stack.draft) as channel:
        stub = draft_pb2_grpc.DraftServiceStub(channel)
        calls = [stub.Draft() for _ in range(2)]
        for number, call in enumerate(calls):
            opening = draft_pb2.DraftOpen(
                session_id=f"busy {number}", epoch=1, lead=4, vocabulary_fingerprint=fingerprint
            )
            await call.write(draft_pb2.DraftRequest(open=opening))
            assert (await call.read()).HasField("opened")
        reply = await generate(narrow.client, "x = 1", max_new_tokens=30, seed=5)
        assert reply.summary.degraded
        assert "slot" in reply.summary.degraded_reason
    assert reply.tokens == await target_alone(narrow.client, "x = 1", max_new_tokens=30, seed=5)


async def test_a_deleted_session_frees_its_slots(narrow, two_slots, two_draft_slots):
    session = await narrow.client.create_session()
    await session.generate("x = 1", max_new_tokens=8, draft="model").read()
    count = two_slots.engine.table.session_count
    await session.delete()
    assert two_slots.engine.table.session_count == count - 1
    with pytest.raises(outrider.NotFoundError):
        await narrow.client.open_session(session.id)
