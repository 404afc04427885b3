"""Several session services over one ledger: one owns a session at a time, and no token is lost."""

from __future__ import annotations

import grpc
import outrider
import pytest
from outrider_server.session.records import OWNER

from .harness import Stack, generate, until_idle
from .reference import as_one_turn, target_alone

PROMPT = "try:\n    import numpy\n"
LOOPS = pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])


@pytest.fixture
async def other(stack: Stack, service):
    """A second session service over the ledger and the target of the first."""
    return await stack.start_session("other")


@pytest.fixture
async def distant(stack: Stack, service, twin):
    """A second session service over the same ledger, with a target that the first knows nothing of."""
    address = await stack.start_target(twin, "distant-target")
    return await stack.start_session("distant", target=address)


@LOOPS
@pytest.mark.parametrize("rival", ["other", "distant"])
async def test_the_service_that_lost_a_session_is_aborted_and_no_token_is_lost(
    service, other, distant, loop, rival
):
    rivals = {"other": other, "distant": distant}
    session = await service.client.create_session()
    options = {"max_new_tokens": 400, "logit_bias": {0: -100.0}, "loop": loop}
    loser = session.generate(PROMPT, seed=1, **options)
    for _ in range(10):
        await anext(loser)
    stolen = await rivals[rival].client.open_session(session.id)
    winner = await stolen.generate("\nnext", seed=2, max_new_tokens=20, loop=loop).read()
    with pytest.raises(outrider.StaleEpochError) as caught:
        await loser.read()
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.ABORTED, "STALE_EPOCH")
    tokens = list((await until_idle(session)).tokens)
    start, length = loser.started.start_position, len(loser.tokens)
    assert 10 <= length < 400
    assert tokens[start : start + length] == loser.tokens
    kept = winner.started.start_position - winner.started.prompt_tokens - start
    expected = await target_alone(
        service.client, PROMPT, seed=1, **(options | {"max_new_tokens": kept})
    )
    assert tokens[start : start + kept] == expected
    assert tokens[winner.started.start_position :] == winner.tokens
    assert winner.tokens == await as_one_turn(service.client, stolen, winner)


async def test_a_session_that_another_service_ran_meanwhile_is_taken_back(service, other):
    session = await service.client.create_session()
    await session.generate(PROMPT, max_new_tokens=4).read()
    stolen = await other.client.open_session(session.id)
    await stolen.generate("a", max_new_tokens=4).read()
    back = await session.generate("b", max_new_tokens=4, seed=3).read()
    assert back.tokens == await as_one_turn(service.client, session, back)
    assert (await service.ledger.get_session(session.id, OWNER)).epoch == 3


async def test_a_restarted_service_goes_on_by_id_from_its_ledger(service, stack: Stack):
    first = await generate(service.client, PROMPT, max_new_tokens=30, seed=4)
    (session_id,) = [info.id async for info in service.client.sessions()]
    await stack.kill("session")
    restarted = await stack.start_session()
    session = await restarted.client.open_session(session_id)
    assert session.position == first.summary.position
    second = await session.generate("\nx =", max_new_tokens=30, seed=5).read()
    assert second.summary.prefilled_tokens <= second.started.prompt_tokens + 1
    assert second.tokens == await as_one_turn(restarted.client, session, second)


async def test_a_service_that_is_cut_off_in_a_turn_leaves_what_it_committed(service, stack: Stack):
    session = await service.client.create_session()
    reply = session.generate(PROMPT, max_new_tokens=600, seed=6, logit_bias={0: -100.0})
    for _ in range(10):
        await anext(reply)
    await stack.kill("session")
    with pytest.raises(outrider.OutriderError):
        await reply.read()
    restarted = await stack.start_session()
    again = await restarted.client.open_session(session.id)
    tokens = list((await again.info(with_tokens=True)).tokens)
    start = reply.started.start_position
    assert tokens[start : start + len(reply.tokens)] == reply.tokens
    following = await again.generate("\n", max_new_tokens=8, seed=7).read()
    assert following.tokens == await as_one_turn(restarted.client, again, following)
