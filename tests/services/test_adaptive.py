"""Adaptive turns over real services: the same tokens, whatever is proposed, paced or left out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from outrider_server.engine import engine
from outrider_server.engine.engine import BatchResult, Engine
from outrider_server.engine.layout import Layout
from outrider_server.engine.scheduling.batching import Demand
from outrider_server.session import drafting

from .harness import SessionService, generate
from .reference import target_alone

STEP_SECONDS = 0.02
"""Long beside a guess of the tiny draft, so that drafting pays."""
DRAFTS = ("auto", "model", "ngram", "off")
PROMPTS = [f"for name in names_{number}:\n    print(name)\n" * 2 for number in range(6)]
OPTIONS: dict[str, Any] = {"max_new_tokens": 40, "seed": 5, "logit_bias": {0: -100.0}}


@pytest.fixture
def large_target(target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the target the steps of a large model."""
    decide = Engine.decide

    def decide_slowly(engine: Engine, rows: Any) -> BatchResult:
        result = decide(engine, rows)
        if engine is not target.engine:
            return result
        time.sleep(STEP_SECONDS)
        return replace(result, seconds=result.seconds + STEP_SECONDS)

    monkeypatch.setattr(Engine, "decide", decide_slowly)


@pytest.fixture
def crowded_target(target, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A target that leaves out proposals as it likes; returns how many, step by step."""
    plan, choice, left_out = engine.plan_rows, random.Random(3), []

    def plan_less(demands: Sequence[Demand], layout: Layout, step_ms: Any) -> list[int]:
        kept = plan(demands, layout, step_ms)
        if layout is not target.engine.runner.layout:
            return kept
        fewer = [choice.randint(1, count) for count in kept]
        left_out.append(sum(kept) - sum(fewer))
        return fewer

    monkeypatch.setattr(engine, "plan_rows", plan_less)
    return left_out


async def replies_at_once(service: SessionService, count: int, **options: Any) -> list[Any]:
    """So many turns that run together, each of a session and a prompt of its own."""
    turns = [generate(service.client, prompt, **options) for prompt in PROMPTS[:count]]
    return await asyncio.gather(*turns)


@pytest.mark.parametrize("sessions", [1, 6])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
async def test_every_draft_gives_the_tokens_of_the_target_alone(
    service, request, temperature, sessions
):
    options = OPTIONS | {"temperature": temperature}
    expected = [
        await target_alone(service.client, prompt, **options) for prompt in PROMPTS[:sessions]
    ]
    request.getfixturevalue("large_target")
    for draft in DRAFTS:
        replies = await replies_at_once(service, sessions, draft=draft, **options)
        assert [reply.tokens for reply in replies] == expected, draft


async def test_adaptive_is_what_a_turn_gets_that_asks_for_nothing(
    service, large_target, monkeypatch
):
    made: list[Any] = []

    def remember(*arguments: Any) -> Any:
        made.append(arguments)
        return paced(*arguments)

    paced = drafting.PacedDrafter
    monkeypatch.setattr(drafting, "PacedDrafter", remember)
    await generate(service.client, PROMPTS[0], **OPTIONS)
    assert len(made) == 1
    await generate(service.client, PROMPTS[0], loop="run_ahead", **OPTIONS)
    assert len(made) == 1


@pytest.fixture
def weighed(target, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(guesses, chances told with them) of each row that comes to the target."""
    plan, told = engine.plan_rows, []

    def remember(demands: Sequence[Demand], layout: Layout, step_ms: Any) -> list[int]:
        if layout is target.engine.runner.layout:
            told.extend((length - 1, len(survival or ())) for length, survival in demands)
        return plan(demands, layout, step_ms)

    monkeypatch.setattr(engine, "plan_rows", remember)
    return told


async def test_an_adaptive_turn_says_how_likely_n_grams_are_and_a_pinned_one_insists(
    service, weighed
):
    await generate(service.client, PROMPTS[0], draft="ngram", **OPTIONS)
    assert sum(guesses for guesses, _ in weighed) > 0
    assert all(guesses == chances for guesses, chances in weighed)
    for loop in ("run_ahead", "synchronous"):
        weighed.clear()
        await generate(service.client, PROMPTS[0], draft="ngram", loop=loop, **OPTIONS)
        assert sum(guesses for guesses, _ in weighed) > 0
        assert not any(chances for _, chances in weighed)


@pytest.mark.parametrize("proposer", ["model", "auto"])
async def test_a_draft_that_is_worth_its_time_is_used(service, large_target, proposer):
    """Guards the tests of this file, which say little where the draft rests."""
    summary = (await generate(service.client, PROMPTS[0], draft=proposer, **OPTIONS)).summary
    assert summary.accepted > 5
    assert summary.rounds < 35
    assert summary.guessed > 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])
@pytest.mark.parametrize("sessions", [1, 6])
async def test_proposals_that_are_left_out_change_no_token(
    service, request, loop, temperature, sessions
):
    """A row that was cut may decide the very token that was left out: that is no mismatch."""
    options = OPTIONS | {"temperature": temperature, "loop": loop}
    expected = [
        await target_alone(service.client, prompt, **(options | {"loop": "synchronous"}))
        for prompt in PROMPTS[:sessions]
    ]
    request.getfixturevalue("large_target")
    left_out = request.getfixturevalue("crowded_target")
    for draft in ("auto", "model"):
        replies = await replies_at_once(service, sessions, draft=draft, **options)
        assert [reply.tokens for reply in replies] == expected, draft
        for reply in replies:
            summary = reply.summary
            assert summary.accepted <= summary.proposed
            assert summary.rounds == summary.tokens - summary.accepted
    if loop != "adaptive":  # there the machine's speed decides how much is proposed
        assert sum(left_out) > 10


@pytest.mark.usefixtures("patient")
async def test_the_summary_tells_where_the_time_went(service, draft, large_target):
    before_ms = draft.engine.counters.device_seconds * 1000
    reply = await generate(service.client, PROMPTS[0], draft="model", loop="synchronous", **OPTIONS)
    summary = reply.summary
    rounding_ms = summary.rounds * 0.001
    assert STEP_SECONDS * 1000 * summary.rounds <= summary.target_ms + rounding_ms
    assert summary.target_ms <= summary.verify_ms + rounding_ms
    assert summary.verify_ms + summary.draft_wait_ms <= summary.duration_ms
    assert summary.guessed >= summary.proposed > 0
    spent_ms = draft.engine.counters.device_seconds * 1000 - before_ms
    assert 0 < summary.draft_ms <= spent_ms + summary.guessed * 0.001
    assert summary.draft_wait_ms > 0


@pytest.mark.parametrize("proposer", ["off", "ngram"])
async def test_a_turn_without_a_model_draft_spends_nothing_on_it(service, proposer):
    summary = (await generate(service.client, PROMPTS[0], draft=proposer, **OPTIONS)).summary
    assert (summary.draft_ms, summary.guessed, summary.draft_wait_ms) == (0, 0, 0)
    assert 0 < summary.target_ms <= summary.verify_ms + summary.rounds * 0.001


async def test_sessions_together_each_count_the_whole_of_a_step_that_they_shared(
    service, large_target
):
    replies = await replies_at_once(service, 6, draft="off", **OPTIONS)
    for reply in replies:
        assert reply.summary.target_ms >= STEP_SECONDS * 1000 * reply.summary.rounds
        assert reply.summary.verify_ms <= reply.summary.duration_ms
