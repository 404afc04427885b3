"""Whatever the draft does, the tokens stay the target's; the summary says where it was missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import outrider
import pytest
from outrider_server.host.engine_host import EngineHost

from . import fake_drafts, tiny_models
from .fake_drafts import FallingDraft, ScriptedDraft, SilentDraft, WrongDraft
from .harness import Stack, generate, running_engine, serving, until
from .reference import target_alone

PROMPT = "import os\nimport sys\n"
OPTIONS = {"max_new_tokens": 40, "seed": 21}
LOOPS = ["synchronous", "run_ahead", "adaptive"]
MAX_WAIT_MS = 5_000
"""Waiting for a useless draft in every round would take 10 s."""
HARMLESS = {
    "wrong branches": ScriptedDraft(fake_drafts.wrong_branches, unasked=20),
    "wrong tokens": WrongDraft(*range(5, 12)),
}
LOST = {
    "wrong positions": ScriptedDraft(fake_drafts.wrong_positions, unasked=20),
    "a token beyond the vocabulary": WrongDraft(5, 6, 7, tiny_models.VOCABULARY_SIZE),
    "a negative token": WrongDraft(-1, 5, 6, 7),
    "a huge token": WrongDraft(2**31 - 1, 5, 6, 7),
    "a flood": ScriptedDraft(fake_drafts.flood, unasked=2000),
    "empty proposals": ScriptedDraft(fake_drafts.empty_proposals, unasked=2000),
    "garbage order": ScriptedDraft(fake_drafts.garbage_order),
    "opened twice": ScriptedDraft(fake_drafts.opened_again, unasked=2),
    "nothing set": ScriptedDraft(fake_drafts.nothing_set, unasked=2),
    "a false length": ScriptedDraft(fake_drafts.false_length, unasked=2),
    "an early end": ScriptedDraft(fake_drafts.early_end),
    "nothing at all": SilentDraft(),
    "a status": FallingDraft(),
}


@pytest.fixture(scope="module")
def other_vocabulary(models: Path) -> Iterator[EngineHost]:
    folder = tiny_models.rename_a_token(tiny_models.save_model(models / "other-vocabulary"))
    with running_engine(folder, "draft") as host:
        yield host


@pytest.fixture(scope="module")
def other_tokenizer(models: Path) -> Iterator[EngineHost]:
    folder = tiny_models.save_model(models / "other-tokenizer", change=tiny_models.blur)
    with running_engine(tiny_models.train_another_tokenizer(folder), "draft") as host:
        yield host


@pytest.fixture(scope="module")
def numberless(models: Path) -> Iterator[EngineHost]:
    folder = tiny_models.save_model(models / "numberless-draft", change=tiny_models.spoil)
    with running_engine(folder, "draft") as host:
        yield host


async def check_tokens(
    client: outrider.AsyncClient, *, degraded: bool | None
) -> list[outrider.Summary]:
    """Runs every loop, as `model` and as `auto`; their tokens must be the target's."""
    expected = await target_alone(client, PROMPT, **OPTIONS)
    summaries = []
    for loop in LOOPS:
        for draft in ("model", "auto"):
            reply = await generate(client, PROMPT, draft=draft, loop=loop, **OPTIONS)
            assert reply.tokens == expected
            assert degraded in (None, reply.summary.degraded)
            assert bool(reply.summary.degraded_reason) is reply.summary.degraded
            assert reply.summary.draft_wait_ms < MAX_WAIT_MS
            summaries.append(reply.summary)
    return summaries


def surprises(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the services logged because they did not know what it was."""
    return [record.message for record in caplog.records if record.name.startswith("outrider")]


@pytest.mark.parametrize("lie", [*HARMLESS, *LOST])
async def test_a_lying_draft_changes_no_token(stack: Stack, target, lie, caplog):
    await stack.start_target(target)
    await stack.start_draft((HARMLESS | LOST)[lie])
    service = await stack.start_session()
    await check_tokens(service.client, degraded=True if lie in LOST else None)
    assert not surprises(caplog)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("loop", ["synchronous", "run_ahead"])
async def test_a_draft_that_is_always_wrong_proposes_in_vain(stack: Stack, target, loop):
    await stack.start_target(target)
    await stack.start_draft(WrongDraft(*range(5, 12)))
    service = await stack.start_session()
    reply = await generate(service.client, PROMPT, draft="model", loop=loop, **OPTIONS)
    assert reply.summary.proposed > 40
    assert {event.source for event in reply.events if event.token != 5} == {"target"}
    assert reply.tokens == await target_alone(service.client, PROMPT, **OPTIONS)


async def test_a_draft_that_sends_garbage_bytes_changes_no_token(stack: Stack, target, caplog):
    await stack.start_target(target)
    async with serving(stack.draft, fake_drafts.garbage_draft):
        service = await stack.start_session()
        await check_tokens(service.client, degraded=True)
        await stack.kill("session")
    assert not surprises(caplog)


async def test_a_draft_of_another_vocabulary_is_refused_and_the_turn_goes_on(
    other_vocabulary: EngineHost, stack: Stack, target
):
    await stack.start_target(target)
    await stack.start_draft(other_vocabulary)
    service = await stack.start_session()
    for summary in await check_tokens(service.client, degraded=True):
        assert "vocabulary" in summary.degraded_reason
    assert "vocabulary" in (await service.client.describe()).draft_note


async def test_a_draft_of_another_tokenizer_is_refused_while_ngrams_go_on(
    other_tokenizer: EngineHost, stack: Stack, target
):
    """The weights are a good draft's and the sizes are equal: the tokenizer alone is another.

    The reply repeats one token, which n-grams foresee.
    """
    loaded, wanted = other_tokenizer.engine.loaded, target.engine.loaded
    assert loaded.vocabulary_size == wanted.vocabulary_size
    assert loaded.vocabulary_fingerprint != wanted.vocabulary_fingerprint
    await stack.start_target(target)
    await stack.start_draft(other_tokenizer)
    service = await stack.start_session()
    description = await service.client.describe()
    assert "vocabulary is not the target's" in description.draft_note
    options = OPTIONS | {"logit_bias": {11: 60.0}, "loop": "synchronous"}
    expected = await target_alone(service.client, PROMPT, **options)
    for draft, degraded in (("model", True), ("auto", True), ("ngram", False), ("off", False)):
        reply = await generate(service.client, PROMPT, draft=draft, **options)
        assert reply.tokens == expected
        assert reply.summary.degraded is degraded
        assert ("vocabulary" in reply.summary.degraded_reason) is degraded
        sources = {event.source for event in reply.events}
        assert sources == ({"target", "ngram"} if draft in ("auto", "ngram") else {"target"})


async def test_a_draft_without_numbers_is_lost_and_the_turn_goes_on(
    numberless: EngineHost, stack: Stack, target
):
    await stack.start_target(target)
    await stack.start_draft(numberless)
    service = await stack.start_session()
    for summary in await check_tokens(service.client, degraded=True):
        # A commit that meets the end of the stream loses the status that says why it ended.
        reason = summary.degraded_reason
        assert "no numbers" in reason or "ended the stream" in reason


async def test_a_model_draft_is_missed_where_none_is_configured(stack: Stack, target):
    await stack.start_target(target)
    service = await stack.start_session(with_draft=False)
    wanted = await generate(service.client, PROMPT, draft="model", **OPTIONS)
    assert wanted.summary.degraded
    assert "no draft" in wanted.summary.degraded_reason
    for draft in ("auto", "ngram", "off"):
        reply = await generate(service.client, PROMPT, draft=draft, **OPTIONS)
        assert reply.tokens == wanted.tokens
        assert not reply.summary.degraded
    description = await service.client.describe()
    assert description.draft is None
    assert description.draft_note == "no draft service is configured"


async def test_a_draft_that_is_down_is_missed(stack: Stack, target):
    await stack.start_target(target)
    service = await stack.start_session()
    await check_tokens(service.client, degraded=True)
    assert (await service.client.describe()).draft is None


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_draft_that_dies_in_the_middle_changes_no_token(service, stack, loop):
    options = {"max_new_tokens": 120, "seed": 22, "loop": loop}
    expected = await target_alone(service.client, PROMPT, **(options | {"loop": None}))
    session = await service.client.create_session()
    reply = session.generate(PROMPT, draft="model", **options)
    for _ in range(10):
        await anext(reply)
    await stack.kill("draft")
    await reply.read()
    assert reply.tokens == expected
    assert reply.summary.degraded
    if loop != "adaptive":  # there the machine's speed decides whether the draft is asked
        assert reply.summary.proposed > 0


@pytest.mark.usefixtures("patient")
async def test_a_draft_that_comes_back_is_used_by_the_next_turn(service, stack, draft):
    await stack.kill("draft")
    session = await service.client.create_session()
    assert (await session.generate(PROMPT, **OPTIONS).read()).summary.degraded
    await stack.start_draft(draft)
    async with outrider.AsyncClient(f"unix:{stack.folder}/session") as client:

        async def found() -> bool:
            return (await client.describe()).draft is not None

        await until(found)
    reply = await session.generate("def f():", draft="model", loop="run_ahead", **OPTIONS).read()
    assert reply.summary.proposed > 0


@pytest.mark.usefixtures("patient")
async def test_drafts_come_and_go_between_turns(service, stack) -> None:
    """A draft that is gone from its name drafts no more, and changes no token."""
    expected = await target_alone(service.client, PROMPT, **OPTIONS)
    for addresses, is_missing in (([], True), ([stack.draft], False), ([], True)):
        await service.drafts.move_to(addresses)
        reply = await generate(service.client, PROMPT, draft="model", loop="run_ahead", **OPTIONS)
        assert reply.tokens == expected
        assert reply.summary.degraded is is_missing
        described = await service.client.describe()
        assert (described.draft is None) is is_missing
    assert "no draft has an address" in described.draft_note


@pytest.mark.usefixtures("patient")
async def test_a_draft_that_is_gone_ends_the_turn_that_it_drafts_for(service, stack) -> None:
    options = {"draft": "model", "loop": "synchronous", "seed": 21, "logit_bias": {0: -100.0}}
    session = await service.client.create_session()
    reply = session.generate(PROMPT, max_new_tokens=200, **options)
    await anext(reply)
    await service.drafts.move_to([])
    await service.drafts.move_to([])
    await reply.read()
    assert not reply.summary.degraded
    assert any(event.source == "draft" for event in reply.events[100:])
    await service.drafts.move_to([])
    assert service.drafts._pool._leaving == []
