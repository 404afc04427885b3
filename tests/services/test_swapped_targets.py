"""A target that is restarted with something else: no token of it gets into a session of what it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import outrider
import pytest
from outrider_server.host.engine_host import EngineHost

from .harness import SessionService, Stack, generate, running_engine, until_idle
from .reference import target_alone

PROMPT = "with open(path) as file:\n"
OPTIONS = {"max_new_tokens": 80, "seed": 6, "logit_bias": {0: -100.0}}
SMALL = {"slots": 2, "rows": 2}
OTHERS = {
    "weights": (r"other weights|model draft, not target", {}),
    "dtype": ("dtype bfloat16, not float32", {"dtype": "bfloat16"}),
    "quantization": ("quantization int8, not none", {"quantization": "int8"}),
}


@pytest.fixture(scope="module")
def other_attention(target_folder: Path) -> Iterator[EngineHost]:
    """The same weights, computed otherwise."""
    with running_engine(target_folder, "target", attention="eager", **SMALL) as host:
        yield host


@pytest.fixture(scope="module")
def other_draft(target_folder: Path) -> Iterator[EngineHost]:
    """A draft that agrees always."""
    with running_engine(target_folder, "draft") as host:
        yield host


@pytest.fixture(scope="module", params=OTHERS)
def other(
    request: pytest.FixtureRequest, target_folder: Path, draft_folder: Path
) -> Iterator[tuple[EngineHost, str]]:
    """Another model, and what is said of it."""
    says, changes = OTHERS[request.param]
    folder = draft_folder if request.param == "weights" else target_folder
    with running_engine(folder, "target", **SMALL, **changes) as host:
        yield host, says


async def swap(stack: Stack, host: EngineHost, name: str = "target") -> None:
    """The same address, and another process."""
    await stack.kill(name)
    await stack.start_target(host, name)


@pytest.fixture
async def service(stack: Stack, twin: EngineHost) -> SessionService:
    """A session service over one target; its client resumes nothing."""
    await stack.start_target(twin)
    return await stack.start_session(with_draft=False)


async def test_old_and_new_sessions_are_refused_and_told_why(
    service, stack, twin, other, caplog: pytest.LogCaptureFixture
) -> None:
    host, says = other
    session = await service.client.create_session()
    first = await session.generate(PROMPT, **OPTIONS).read()
    assert (await service.client.describe()).target_note == ""
    await swap(stack, host)
    with caplog.at_level(logging.WARNING, "outrider.session"):
        for each in (session, await service.client.create_session(), session):
            before = await each.info()
            with pytest.raises(outrider.ModelMismatchError, match=says) as refused:
                await each.generate("x", max_new_tokens=4).read()
            assert (await each.info()).position == before.position
    assert "start it with that model again, or restart the session service" in str(refused.value)
    assert [record.message for record in caplog.records].count(refused.value.message) == 1
    assert (await service.client.describe()).target_note == refused.value.message
    assert not host.engine.table._sessions, "it gave no slot to what it refused"
    await swap(stack, twin)
    turn = {"max_new_tokens": 8, "seed": 1}
    again = await session.generate("\n", **turn).read()
    whole = await service.client.create_session()
    assert (await whole.generate(PROMPT, **OPTIONS).read()).tokens == first.tokens
    assert (await whole.generate("\n", **turn).read()).tokens == again.tokens
    assert (await service.client.describe()).target_note == ""


async def test_a_turn_that_runs_gets_no_token_of_the_other(service, stack, twin, other) -> None:
    host, says = other
    whole = await target_alone(service.client, PROMPT, **OPTIONS)
    session = await service.client.create_session()
    reply = session.generate(PROMPT, **OPTIONS, loop="synchronous", request_id="turn")
    for _ in range(5):
        await anext(reply)
    await swap(stack, host)
    with pytest.raises(outrider.ModelMismatchError, match=says):
        await reply.read()
    seen = reply.tokens
    info = await until_idle(session)
    start = reply.started.start_position
    kept = list(info.tokens[start:])
    assert kept == whole[: len(kept)]
    assert kept[: len(seen)] == seen == whole[: len(seen)]
    await swap(stack, twin)
    assert (await session.attach("turn").read()).tokens == whole


async def test_one_of_two_gets_no_turn_and_the_other_goes_on(
    stack, twin, target, other, caplog: pytest.LogCaptureFixture
) -> None:
    host, _ = other
    addresses = [await stack.start_target(twin), await stack.start_target(target, "second")]
    pair = await stack.start_session(target=",".join(addresses), with_draft=False)
    whole = await target_alone(pair.client, PROMPT, **OPTIONS)
    session = await pair.client.create_session()
    reply = session.generate(PROMPT, **OPTIONS, loop="synchronous")
    await anext(reply)
    name = "target" if session.id in twin.engine.table._sessions else "second"
    with caplog.at_level(logging.WARNING, "outrider.session"):
        await swap(stack, host, name)
        await reply.read()
        assert reply.tokens == whole
        for _ in range(4):
            assert (await generate(pair.client, PROMPT, **OPTIONS)).tokens == whole
    assert not host.engine.table._sessions
    told = [record.message for record in caplog.records if "serves another model" in record.message]
    assert len(told) == 1


async def test_the_same_weights_computed_otherwise_serve_new_turns_and_go_on_with_none(
    service, stack, twin, other_attention
) -> None:
    whole = await target_alone(service.client, PROMPT, **OPTIONS)
    session = await service.client.create_session()
    reply = session.generate(PROMPT, **OPTIONS, loop="synchronous", request_id="turn")
    for _ in range(5):
        await anext(reply)
    await swap(stack, other_attention)
    with pytest.raises(outrider.ModelMismatchError, match=r"sdpa.*now.*eager"):
        await reply.read()
    seen = reply.tokens
    await until_idle(session)
    assert seen == whole[: len(seen)]
    with pytest.raises(outrider.ModelMismatchError, match="or begin a new turn"):
        await session.attach("turn").read()
    await session.generate("\n", max_new_tokens=4).read()
    another = await service.client.create_session()
    assert len((await another.generate(PROMPT, **OPTIONS).read()).tokens) == 80


async def test_a_draft_that_changes_is_told_of_and_changes_nothing(
    stack, twin, draft, other_draft, caplog: pytest.LogCaptureFixture
) -> None:
    await stack.start_target(twin)
    await stack.start_draft(draft)
    service = await stack.start_session()
    turn = OPTIONS | {"draft": "model", "loop": "synchronous"}
    before = await generate(service.client, PROMPT, **turn)
    await stack.kill("draft")
    await stack.start_draft(other_draft)
    with caplog.at_level(logging.WARNING, "outrider.session"):
        for _ in range(3):
            assert (await generate(service.client, PROMPT, **turn)).tokens == before.tokens
    told = [record.message for record in caplog.records if "the draft at" in record.message]
    assert len(told) == 1
    assert "serves another model than before" in told[0]
