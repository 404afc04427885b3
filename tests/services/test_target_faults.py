"""When the target fails, nothing is decided; what was committed stands, and the next turn works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import outrider
import pytest
from outrider_server.core.types import FinishReason
from outrider_server.host.engine_host import EngineHost

from . import tiny_models
from .harness import Stack, drain, running_engine, until, until_idle
from .reference import as_one_turn

PROMPT = "class Session:\n"
LOOPS = pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])


@pytest.fixture(scope="module")
def numberless(models: Path) -> Iterator[EngineHost]:
    folder = tiny_models.save_model(models / "numberless-target", change=tiny_models.spoil)
    with running_engine(folder, "target", slots=2, rows=2) as host:
        yield host


@LOOPS
async def test_logits_that_are_no_numbers_end_the_turn_with_nothing_decided(
    numberless: EngineHost, stack: Stack, loop
):
    await stack.start_target(numberless)
    service = await stack.start_session(with_draft=False)
    session = await service.client.create_session()
    reply = session.generate(PROMPT, loop=loop)
    with pytest.raises(outrider.NonFiniteLogitsError, match="no numbers") as caught:
        await reply.read()
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert caught.value.reason == "NON_FINITE_LOGITS"
    info = await until_idle(session)
    assert info.position == reply.started.prompt_tokens
    (turn,) = await service.ledger.turns(session.id)
    assert turn.finish_reason is FinishReason.FAILED


@LOOPS
async def test_a_target_that_goes_away_is_unavailable_and_loses_nothing(
    service, stack, target, loop
):
    session = await service.client.create_session()
    reply = session.generate(PROMPT, max_new_tokens=400, seed=1, loop=loop)
    for _ in range(10):
        await anext(reply)
    await stack.kill("target")
    with pytest.raises(outrider.UnavailableError) as caught:
        await reply.read()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert caught.value.retry_after_ms > 0
    info = await until_idle(session)
    assert list(info.tokens[reply.started.start_position :])[: len(reply.tokens)] == reply.tokens
    (turn,) = await service.ledger.turns(session.id)
    assert turn.finish_reason is FinishReason.FAILED

    await stack.start_target(target)
    following = await next_turn(session)
    assert following.tokens == await as_one_turn(service.client, session, following)


async def test_a_target_that_is_down_is_unavailable_at_the_start_of_a_turn(service, stack):
    await stack.kill("target")
    session = await service.client.create_session()
    with pytest.raises(outrider.UnavailableError) as caught:
        await session.generate(PROMPT).read()
    assert caught.value.reason == "UNAVAILABLE"
    assert caught.value.retry_after_ms > 0
    assert not (await until_idle(session)).turn_running


async def test_a_target_that_lost_its_cache_reads_the_session_anew(
    twin: EngineHost, service, stack
):
    session = await service.client.create_session()
    await session.generate(PROMPT, max_new_tokens=30, seed=1).read()
    length = session.position
    await stack.kill("target")
    await stack.start_target(twin)
    following = await next_turn(session)
    assert following.summary.prefilled_tokens == length + following.started.prompt_tokens
    assert following.tokens == await as_one_turn(service.client, session, following)


async def test_a_turn_that_failed_is_no_hindrance_to_delete(service, stack):
    session = await service.client.create_session()
    reply = session.generate(PROMPT, max_new_tokens=400)
    await anext(reply)
    await stack.kill("target")
    await drain(reply)
    await until_idle(session)
    await session.delete()
    with pytest.raises(outrider.NotFoundError):
        await service.client.get_session(session.id)


async def next_turn(session: outrider.AsyncSession) -> outrider.AsyncReply:
    """The first turn that finds the target back."""
    replies: list[outrider.AsyncReply] = []

    async def answered() -> bool:
        replies.append(session.generate([30, 31], max_new_tokens=12, seed=2))
        await drain(replies[-1])
        return len(replies[-1].tokens) == 12

    await until(answered)
    return replies[-1]
