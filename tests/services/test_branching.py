"""Sessions that are rewound and forked: the same tokens as a session that never knew the rest."""

from __future__ import annotations

import asyncio

import outrider
import pytest

from .harness import SessionService
from .reference import as_one_turn

PROMPT = "with open(path) as file:\n"
OPTIONS = {"max_new_tokens": 24, "logit_bias": {0: -100.0}}


async def two_turns(service: SessionService) -> tuple[outrider.AsyncSession, list[int]]:
    """A session with two turns, and where each of them ended."""
    session, ends = await service.client.create_session(), []
    for seed in range(2):
        await session.generate(PROMPT, seed=seed, **OPTIONS).read()
        ends.append(session.position)
    return session, ends


async def test_a_rewound_session_goes_on_as_if_the_rest_had_never_been(service) -> None:
    session, (end, _) = await two_turns(service)
    kept = (await session.info(with_tokens=True)).tokens[:end]
    await session.rewind(end)
    info = await session.info(with_tokens=True)
    assert (info.tokens, info.turn_count, info.position) == (kept, 1, end)
    reply = await session.generate("pass\n", seed=5, max_new_tokens=16).read()
    assert reply.summary.prefilled_tokens <= reply.summary.prompt_tokens + 1
    assert reply.tokens == await as_one_turn(service.client, session, reply)


async def test_a_turn_that_lost_tokens_is_told_and_not_gone_on_with(service) -> None:
    session, (_, end) = await two_turns(service)
    whole = (await session.info(with_tokens=True)).tokens
    await session.rewind(end - 4)
    told = await session.attach().read()
    assert told.tokens == list(whole[-24:-4])
    assert told.summary.finish_reason == "cancelled"
    assert (await session.info()).position == end - 4


async def test_a_session_can_be_rewound_to_nothing(service) -> None:
    session, _ = await two_turns(service)
    await session.rewind(0)
    assert (await session.info()).turn_count == 0
    first = await session.generate(PROMPT, seed=0, **OPTIONS).read()
    assert first.tokens == await as_one_turn(service.client, session, first)


async def test_a_request_id_of_a_turn_that_was_taken_back_generates_nothing(service) -> None:
    session, (end, _) = await two_turns(service)
    await session.generate("x", seed=2, max_new_tokens=4, request_id="once").read()
    await session.rewind(end)
    with pytest.raises(outrider.AlreadyExistsError):
        await session.generate("x", seed=2, max_new_tokens=4, request_id="once").read()
    assert (await session.info()).position == end


@pytest.mark.parametrize("at_end", [False, True])
async def test_a_fork_and_its_original_go_their_own_ways(service, target, at_end) -> None:
    session, ends = await two_turns(service)
    before = await session.info(with_tokens=True)
    copy = await session.fork(None if at_end else ends[0])
    end = ends[1] if at_end else ends[0]
    info = await copy.info(with_tokens=True)
    assert (info.tokens, info.turn_count) == (before.tokens[:end], 2 if at_end else 1)
    reply = await copy.generate("pass\n", seed=5, max_new_tokens=16).read()
    assert reply.summary.prefilled_tokens <= reply.summary.prompt_tokens + 1, "its KV was copied"
    assert reply.tokens == await as_one_turn(service.client, copy, reply)
    assert await session.info(with_tokens=True) == before
    own = await session.generate("pass\n", seed=5, max_new_tokens=16).read()
    assert own.tokens == await as_one_turn(service.client, session, own)
    assert (own.tokens == reply.tokens) is at_end


async def test_a_session_that_runs_a_turn_is_neither_rewound_nor_forked(service) -> None:
    session, _ = await two_turns(service)
    reply = session.generate(PROMPT, seed=3, max_new_tokens=400, logit_bias={0: -100.0})
    await anext(reply)
    for refused in (session.rewind(0), session.fork()):
        with pytest.raises(outrider.TurnRunningError):
            await asyncio.create_task(refused)  # of its reader's own task it would end the reply
    reply.cancel()
