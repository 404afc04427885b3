"""More sessions than slots, in memory beside the device and in a queue before it, over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import outrider
import pytest
from outrider.v1 import target_pb2, target_pb2_grpc
from outrider_server.host.engine_host import EngineHost
from outrider_server.session.peers import targets

from .harness import Stack, generate, running_engine, taken_slots, until, until_closed
from .reference import as_one_turn, target_alone
from .wire import refusal

SLOTS, QUEUE, SESSIONS = 3, 4, 12


@pytest.fixture(scope="module")
def parking(target_folder: Path) -> Iterator[EngineHost]:
    with running_engine(target_folder, "target", slots=SLOTS, rows=SLOTS, queue=QUEUE) as host:
        yield host


@pytest.fixture
async def narrow(stack: Stack, parking, draft):
    """The services over a target of three slots, with memory for those that give theirs up."""
    await stack.start_target(parking)
    await stack.start_draft(draft)
    return await stack.start_session()


@pytest.fixture
async def target_stub(stack: Stack, narrow):
    async with grpc.aio.insecure_channel(stack.target) as channel:
        yield target_pb2_grpc.TargetServiceStub(channel)


async def queue_holds(host: EngineHost, turns: int) -> None:
    async def so_many_wait() -> bool:
        return len(host.queue) == turns

    await until(so_many_wait)


async def test_sessions_that_take_turns_in_few_slots_read_nothing_twice(narrow, parking):
    sessions = [await narrow.client.create_session() for _ in range(SESSIONS)]
    for turn in range(3):
        for number, session in enumerate(sessions):
            before = session.position
            reply = await session.generate(
                f"def f{number}():", max_new_tokens=10, seed=turn * 10 + number
            ).read()
            new = session.position - before - len(reply.tokens)
            assert reply.summary.prefilled_tokens <= new + 1
            if number % 4 == 0:
                assert reply.tokens == await as_one_turn(narrow.client, session, reply)
    assert parking.engine.table.session_count == SLOTS
    assert parking.engine.parked.restored >= 2 * (SESSIONS - SLOTS)


async def test_a_session_that_gave_up_its_slot_comes_back(narrow, parking, stack):
    session = await narrow.client.create_session()
    await session.generate("import os", max_new_tokens=8, seed=1).read()
    async with taken_slots(stack.target, SLOTS):
        pass
    assert not parking.engine.table.holds(session.id)
    reply = await session.generate("\n", max_new_tokens=8, seed=2).read()
    assert reply.summary.prefilled_tokens <= 2
    assert reply.tokens == await as_one_turn(narrow.client, session, reply)


async def test_a_targets_fork_holds_what_the_session_held(narrow, parking, target_stub):
    session = await narrow.client.create_session()
    await session.generate([5, 6, 7], max_new_tokens=8, seed=1).read()
    await until_closed(parking)
    fork = target_pb2.ForkRequest(session_id=session.id, fork_session_id="copy", length=6, epoch=1)
    assert (await target_stub.Fork(fork)).length == 6
    fork.session_id, fork.fork_session_id = "unknown", "nothing"
    assert (await target_stub.Fork(fork)).length == 0
    fork.fork_session_id = fork.session_id
    refused = await refusal(target_stub.Fork(fork))
    assert (refused.code, refused.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "fork_session_id",
    )


async def test_past_the_queue_turns_are_refused_and_those_let_in_all_end_well(narrow, parking):
    """Three times what slots and queue hold come at once."""
    many = 3 * (SLOTS + QUEUE)
    sessions = [await narrow.client.create_session() for _ in range(many)]

    async def one(number: int) -> list[int] | outrider.ExhaustedError:
        turn = sessions[number].generate(f"x = {number}", max_new_tokens=24, seed=number)
        try:
            return (await turn.read()).tokens
        except outrider.ExhaustedError as error:
            return error

    ended = await asyncio.gather(*(one(number) for number in range(many)))
    refused = [entry for entry in ended if isinstance(entry, outrider.ExhaustedError)]
    assert many - SLOTS - QUEUE >= len(refused) > 0
    assert all(error.retry_after_ms > 0 for error in refused)
    assert any("wait" in str(error) for error in refused)
    for number, tokens in enumerate(ended):
        if isinstance(tokens, list):
            wanted = await target_alone(
                narrow.client, f"x = {number}", max_new_tokens=24, seed=number
            )
            assert tokens == wanted
    assert len(parking.queue) == 0


async def test_what_is_refused_while_all_is_full_costs_no_write(
    narrow, parking, stack, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(targets, "FULL_SECONDS", 1000.0)
    monkeypatch.setattr(parking.queue, "_hold_seconds", 1000.0)
    async with taken_slots(stack.target, SLOTS):
        sessions = [await narrow.client.create_session() for _ in range(QUEUE + 3)]
        waiting = [asyncio.create_task(s.generate("x").read()) for s in sessions[:QUEUE]]
        await queue_holds(parking, QUEUE)
        for session in sessions[QUEUE:]:
            with pytest.raises(outrider.ExhaustedError) as refused:
                await session.generate("x").read()
            assert refused.value.retry_after_ms > 0
        records = [await narrow.ledger.get_session(session.id, "") for session in sessions]
        assert [record.epoch for record in records] == [1] * QUEUE + [1, 0, 0]
        for task in waiting:
            task.cancel()
        await queue_holds(parking, 0)
    assert len((await sessions[-1].generate("x", max_new_tokens=4).read()).tokens) == 4


async def test_a_turn_that_is_cancelled_while_it_waits_leaves_its_place(narrow, parking, stack):
    async with taken_slots(stack.target, SLOTS):
        session = await narrow.client.create_session()
        waiting = asyncio.create_task(session.generate("x").read())
        await queue_holds(parking, 1)
        waiting.cancel()
        await queue_holds(parking, 0)
    reply = await generate(narrow.client, "x", max_new_tokens=4)
    assert len(reply.tokens) == 4
