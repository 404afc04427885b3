"""Whenever a reader leaves, its turn gives everything back: claim, line to the target, draft, slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from outrider.v1 import session_pb2
from outrider_server.core.surroundings import CHANCE, random_id
from outrider_server.core.types import FinishReason, Round
from outrider_server.session.drafting import Drafting
from outrider_server.session.requests import parse_turn
from outrider_server.session.running_turn import RunningTurn
from outrider_server.session.tally import TurnStarted, TurnSummary

from .harness import SessionService, generate, until, until_closed, until_idle
from .reference import target_alone

PROMPT = "with open(path) as file:\n"
OPTIONS = {"max_new_tokens": 12, "seed": 6, "draft": "model"}
LOOPS = ("synchronous", "run_ahead", "adaptive")


def request_of(session_id: str, request_id: str = "turn", **fields: Any) -> Any:
    return session_pb2.GenerateRequest(
        session_id=session_id,
        request_id=request_id,
        text=PROMPT,
        max_new_tokens=12,
        seed=6,
        **fields,
    )


def running(service: SessionService, session_id: str) -> RunningTurn:
    turn = parse_turn(request_of(session_id), service.sessions.model, CHANCE, random_id)
    return service.sessions.generate(turn, True, ())


def resumed(service: SessionService, session_id: str) -> RunningTurn:
    return service.sessions.attach(session_id, "turn", 0, ())


async def check_all_is_free(service: SessionService, target: Any, draft: Any) -> None:
    """Nobody holds what a turn held."""
    live = service.sessions.live

    async def settled() -> bool:
        return not (live._running or live._endings or live._keepers)

    await until(settled)
    await until_closed(target)
    await until_closed(draft)
    assert service.drafts is not None
    assert [place.link.turns for place in service.targets._pool.members] == [0]
    assert not service.drafts._open
    assert not service.sessions._drafting.crowd._sessions


async def left_after(turn: RunningTurn, events: int) -> list[Any]:
    """Reads so many events of a turn and leaves; all of them where it has fewer."""
    seen: list[Any] = []
    async with turn:
        async for event in turn:
            seen.append(event)
            if len(seen) == events:
                return seen
    return seen


async def test_a_turn_may_be_left_at_every_event(service, target, draft) -> None:
    for events in range(1, 20):
        session = await service.client.create_session()
        seen = await left_after(running(service, session.id), events)
        assert isinstance(seen[0], TurnStarted)
        await check_all_is_free(service, target, draft)
        info = await until_idle(session)
        (record,) = await service.ledger.turns(session.id)
        told = [token for each in seen if isinstance(each, Round) for token in each.tokens]
        assert list(info.tokens[record.generated_from :][: len(told)]) == told
        if isinstance(seen[-1], TurnSummary):
            break
        ended = isinstance(seen[-1], Round) and seen[-1].finish_reason is not None
        assert record.finish_reason is (FinishReason.LENGTH if ended else FinishReason.CANCELLED)
    assert events > 3, "the turn has events to be left at"


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_turn_that_is_told_again_may_be_left_at_every_event(
    service, target, draft, has_ended: bool
) -> None:
    for events in range(1, 20):
        session = await service.client.create_session()
        await left_after(running(service, session.id), 99 if has_ended else 3)
        await until_idle(session)
        seen = await left_after(resumed(service, session.id), events)
        await check_all_is_free(service, target, draft)
        (record,) = await service.ledger.turns(session.id)
        if has_ended:
            assert record.finish_reason is FinishReason.LENGTH, "it stays as it had ended"
        if isinstance(seen[-1], TurnSummary):
            break
    assert any(isinstance(each, Round) for each in seen)


async def test_a_drafter_that_cannot_be_opened_leaves_nothing_open(
    service, target, draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    session = await service.client.create_session()
    with monkeypatch.context() as patched:
        patched.setattr(Drafting, "open", fail)
        with pytest.raises(RuntimeError, match="planted"):
            await left_after(running(service, session.id), 99)
    await check_all_is_free(service, target, draft)
    (record,) = await service.ledger.turns(session.id)
    assert record.finish_reason is FinishReason.FAILED


async def test_an_error_of_its_reader_fails_the_turn(service, target, draft) -> None:
    async def read(turn: RunningTurn) -> None:
        async with turn:
            async for _ in turn:
                raise ZeroDivisionError

    session = await service.client.create_session()
    with pytest.raises(ZeroDivisionError):
        await read(running(service, session.id))
    await check_all_is_free(service, target, draft)
    (record,) = await service.ledger.turns(session.id)
    assert record.finish_reason is FinishReason.FAILED


async def messages_before_leaving(call: Any, messages: int) -> AsyncIterator[Any]:
    for _ in range(messages):
        message = await call.read()
        if message is grpc.aio.EOF:
            return
        yield message


@pytest.mark.usefixtures("patient")
async def test_callers_that_cancel_at_every_message_leave_all_slots(service, target, draft) -> None:
    """More of them than there are slots, over the wire."""
    for messages in range(16):
        session = await service.client.create_session()
        loop = LOOPS[messages % 3]
        call = service.stub.Generate(request_of(session.id, loop=f"LOOP_MODE_{loop.upper()}"))
        seen = [message async for message in messages_before_leaving(call, messages)]
        assert len(seen) == messages or seen[-1].HasField("summary")
        call.cancel()
        await until_idle(session)
    await check_all_is_free(service, target, draft)
    replies = await asyncio.gather(*(generate(service.client, PROMPT, **OPTIONS) for _ in range(8)))
    expected = await target_alone(service.client, PROMPT, max_new_tokens=12, seed=6)
    assert [reply.tokens for reply in replies] == [expected] * 8
