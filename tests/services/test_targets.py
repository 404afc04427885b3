"""Several targets behind one session service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import outrider
import pytest
from outrider_server.host.engine_host import EngineHost

from .harness import SessionService, Stack, generate, running_engine
from .reference import as_one_turn, target_alone

PROMPT = "with open(path) as file:\n"
OPTIONS = {"max_new_tokens": 120, "seed": 6, "logit_bias": {0: -100.0}}


@pytest.fixture(scope="module")
def second(target_folder: Path) -> Iterator[EngineHost]:
    with running_engine(target_folder, "target", slots=2, rows=2) as host:
        yield host


@pytest.fixture(scope="module")
def first(target_folder: Path) -> Iterator[EngineHost]:
    with running_engine(target_folder, "target", slots=2, rows=2) as host:
        yield host


@pytest.fixture
async def pair(stack: Stack, first: EngineHost, second: EngineHost) -> SessionService:
    """A session service over two targets, without a draft; its client resumes nothing."""
    addresses = [await stack.start_target(first), await stack.start_target(second, "second")]
    return await stack.start_session(target=",".join(addresses), with_draft=False)


def sessions_of(host: EngineHost) -> set[str]:
    return set(host.engine.table._sessions)


async def test_sessions_spread_and_stay(pair, first, second) -> None:
    sessions = [await pair.client.create_session() for _ in range(4)]
    started = [session.generate(PROMPT, **OPTIONS) for session in sessions]
    await asyncio.gather(*(anext(reply) for reply in started))
    await asyncio.gather(*(reply.read() for reply in started))
    homes = [sessions_of(first), sessions_of(second)]
    ids = {session.id for session in sessions}
    assert [len(home & ids) for home in homes] == [2, 2]
    for session in sessions:
        reply = await session.generate("\n", max_new_tokens=4, seed=1).read()
        assert reply.summary.prefilled_tokens <= 2
    assert [sessions_of(first) & ids, sessions_of(second) & ids] == [home & ids for home in homes]


@pytest.mark.parametrize("loop", ["synchronous", "adaptive"])
async def test_a_turn_goes_on_at_another_target_when_its_own_dies(
    pair, stack, first, second, loop
) -> None:
    whole = await target_alone(pair.client, PROMPT, **OPTIONS)
    session = await pair.client.create_session()
    reply = session.generate(PROMPT, **OPTIONS, loop=loop)
    for _ in range(5):
        await anext(reply)
    name = "target" if session.id in sessions_of(first) else "second"
    await stack.kill(name)
    await reply.read()
    assert reply.tokens == whole
    assert [event.index for event in reply.events] == list(range(120))
    assert reply.summary.tokens == 120
    info = await session.info(with_tokens=True)
    assert (info.turn_count, list(info.tokens[-120:])) == (1, whole)
    other = second if name == "target" else first
    assert session.id in sessions_of(other)
    following = await session.generate("\n", max_new_tokens=8, seed=3).read()
    assert following.tokens == await as_one_turn(pair.client, session, following)


async def test_a_target_that_is_back_is_used_again(pair, stack, first, second) -> None:
    await stack.kill("target")
    for _ in range(2):
        await generate(pair.client, "x", max_new_tokens=4)
    await stack.start_target(first)
    sessions = [await pair.client.create_session() for _ in range(4)]
    replies = [session.generate(PROMPT, **OPTIONS) for session in sessions]
    await asyncio.gather(*(reply.read() for reply in replies))
    assert sessions_of(first) & {session.id for session in sessions}


async def test_without_any_target_a_turn_is_unavailable_and_leaves_nothing(pair, stack) -> None:
    session = await pair.client.create_session()
    for name in ("target", "second"):
        await stack.kill(name)
    with pytest.raises(outrider.UnavailableError) as caught:
        await session.generate("x").read()
    assert caught.value.retry_after_ms > 0
    assert (await session.info()).turn_count == 0


async def test_a_full_target_sends_turns_to_the_other(pair, first, second) -> None:
    sessions = [await pair.client.create_session() for _ in range(4)]
    replies = [session.generate(PROMPT, **OPTIONS) for session in sessions]
    await asyncio.gather(*(anext(reply) for reply in replies))
    assert first.engine.table.open_count + second.engine.table.open_count == 4
    await asyncio.gather(*(reply.read() for reply in replies))


async def test_a_target_with_another_model_is_left_out(pair, stack, draft) -> None:
    await stack.kill("second")
    await stack.start_target(draft, "second")
    sessions = [await pair.client.create_session() for _ in range(3)]
    for session in sessions:
        await session.generate("x", max_new_tokens=4).read()
    assert not sessions_of(draft) & {session.id for session in sessions}
    await stack.kill("second")


async def paused(session: outrider.AsyncSession) -> None:
    """Returns when the session's turn waits for its reader."""
    last = -1
    while (position := (await session.info()).position) != last:
        last = position
        await asyncio.sleep(0.3)


async def test_who_was_cut_off_does_not_take_back_what_another_has_taken_over(
    stack, first, second
) -> None:
    """Its reader slept, so it did not notice; then its target dies, and it would look for another."""
    addresses = [await stack.start_target(first), await stack.start_target(second, "second")]
    asleep = await stack.start_session(target=addresses[0], with_draft=False)
    awake = await stack.start_session("awake", target=addresses[1], with_draft=False)
    options = OPTIONS | {"max_new_tokens": 500, "loop": "synchronous"}
    whole = await target_alone(awake.client, PROMPT, **(OPTIONS | {"max_new_tokens": 500}))
    session = await asleep.client.create_session()
    lost = session.generate(PROMPT, **options, logprobs=20)
    await anext(lost)
    await paused(session)
    kept = (await awake.client.open_session(session.id)).attach()
    await anext(kept)
    await paused(session)
    await stack.kill("target")
    with pytest.raises(outrider.StaleEpochError):
        await lost.read()
    assert (await kept.read()).tokens == whole
    assert lost.tokens == whole[: len(lost.tokens)]


async def test_a_target_that_is_gone_from_its_name_ends_its_turns_and_takes_no_other(
    stack, first, second
) -> None:
    here, there = await stack.start_target(first), await stack.start_target(second, "second")
    service = await stack.start_session(target=here, with_draft=False)
    session = await service.client.create_session()
    reply = session.generate(PROMPT, **OPTIONS)
    await anext(reply)
    await service.targets.move_to([there])
    await service.targets.move_to([there])
    next_one = await generate(service.client, PROMPT, **OPTIONS)
    await reply.read()
    assert reply.tokens == next_one.tokens == await target_alone(service.client, PROMPT, **OPTIONS)
    assert session.id in sessions_of(first)
    assert session.id not in sessions_of(second)
    moved = await session.generate("\n", max_new_tokens=4, seed=1).read()
    assert moved.tokens == await as_one_turn(service.client, session, moved)
    assert session.id in sessions_of(second)


async def test_a_target_that_comes_back_is_used_again(stack, first, second) -> None:
    here, there = await stack.start_target(first), await stack.start_target(second, "second")
    service = await stack.start_session(target=here, with_draft=False)
    whole = await target_alone(service.client, PROMPT, **OPTIONS)
    for addresses in ([there], [here, there], [there], [here], [there], [there], [here]):
        await service.targets.move_to(addresses)
        assert (await generate(service.client, PROMPT, **OPTIONS)).tokens == whole
    assert [place.address for place in service.targets._pool._leaving] == [there]


async def test_a_target_that_fails_asks_for_another_look(pair, stack) -> None:
    assert not pair.targets.failures.is_set()
    await stack.kill("target")
    await asyncio.gather(*(generate(pair.client, PROMPT, max_new_tokens=2) for _ in range(2)))
    assert pair.targets.failures.is_set()
