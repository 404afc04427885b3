"""Sessions that run at once share the target's steps."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from outrider_server.engine.engine import Engine

from .harness import generate
from .reference import target_alone

SESSIONS = 6
STEP_SECONDS = 0.02
OPTIONS = {"max_new_tokens": 24, "logit_bias": {0: -100.0}}


@pytest.fixture
def slow_steps(target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the target the steps of a large model: longer than the way of a verdict and back."""
    decide = Engine.decide

    def decide_slowly(engine: Engine, rows):
        result = decide(engine, rows)
        if engine is not target.engine:
            return result
        time.sleep(STEP_SECONDS)
        return replace(result, seconds=result.seconds + STEP_SECONDS)

    monkeypatch.setattr(Engine, "decide", decide_slowly)


@pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])
async def test_sessions_at_once_share_steps_and_change_no_token(service, target, loop, request):
    """Whoever waits while a step runs shares the next one, and it waits for those just answered."""
    prompts = [f"def function_{number}():\n" for number in range(SESSIONS)]
    expected = [
        await target_alone(service.client, prompt, seed=seed, **OPTIONS)
        for seed, prompt in enumerate(prompts)
    ]
    request.getfixturevalue("slow_steps")
    counters = target.engine.counters
    rows, steps = counters.verify_rows, counters.verify_steps
    turns = [
        generate(service.client, prompt, seed=seed, loop=loop, draft="off", **OPTIONS)
        for seed, prompt in enumerate(prompts)
    ]
    replies = await asyncio.gather(*turns)
    rows, steps = counters.verify_rows - rows, counters.verify_steps - steps
    assert [reply.tokens for reply in replies] == expected
    assert rows == sum(reply.summary.rounds for reply in replies)
    print(f"{loop}: {rows / steps:.2f} rows a step")
    assert rows / steps > 3
