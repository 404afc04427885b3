"""Requests that name no sampling: as the model's folder has it where the service was told so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from outrider_server.core.errors import StartupError
from outrider_server.core.types import SamplingParams

from .harness import Stack, generate

NAMED = {"temperature": 0.4, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.3}
NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
TURN = {"max_new_tokens": 24, "seed": 3, "draft": "off"}
PROMPT = "import os\nimport sys\n"


@pytest.fixture
def named(twin, monkeypatch: pytest.MonkeyPatch):
    """A target whose folder names defaults."""
    loaded = replace(twin.engine.loaded, generation_defaults=NAMED)
    monkeypatch.setattr(twin.engine, "loaded", loaded)
    return twin


async def test_a_silent_request_follows_the_model_where_the_service_was_told_so(
    stack: Stack, named
):
    await stack.start_target(named)
    service = await stack.start_session(with_draft=False, defaults_of_model=True)
    client = service.client
    silent = await generate(client, PROMPT, **TURN)
    assert silent.tokens == (await generate(client, PROMPT, **TURN, **NAMED)).tokens
    neutral = await generate(client, PROMPT, **TURN, **NEUTRAL)
    assert neutral.tokens != silent.tokens, "what a request names goes before it, and 0 is a name"
    half = await generate(client, PROMPT, **TURN, temperature=1.0, repetition_penalty=1.0)
    wanted = NAMED | {"temperature": 1.0, "repetition_penalty": 1.0}
    assert half.tokens == (await generate(client, PROMPT, **TURN, **wanted)).tokens
    session = await client.create_session()
    await session.generate(PROMPT, **TURN, top_k=0).read()
    (turn,) = await service.ledger.turns(session.id)
    recorded = SamplingParams(**(json.loads(turn.parameters)["sampling"] | {"logit_bias": {}}))
    assert recorded == SamplingParams(**(NAMED | {"top_k": 0}))
    described = await client.describe()
    assert described.target.generation_defaults == NAMED
    others = dict.fromkeys(("min_p", "frequency_penalty", "presence_penalty"), 0.0)
    assert described.sampling_defaults == NAMED | others


async def test_untold_the_service_leaves_the_distribution_as_it_is(stack: Stack, named):
    await stack.start_target(named)
    client = (await stack.start_session(with_draft=False)).client
    silent = await generate(client, PROMPT, **TURN)
    assert silent.tokens == (await generate(client, PROMPT, **TURN, **NEUTRAL)).tokens
    described = await client.describe()
    assert described.target.generation_defaults == NAMED
    assert {name: described.sampling_defaults[name] for name in NEUTRAL} == NEUTRAL


async def test_defaults_that_cannot_be_are_refused_at_the_start_and_only_if_asked_for(
    stack: Stack, named, monkeypatch: pytest.MonkeyPatch
):
    loaded = replace(named.engine.loaded, generation_defaults={"top_p": 7.0})
    monkeypatch.setattr(named.engine, "loaded", loaded)
    await stack.start_target(named)
    wanted = "generation_config.json cannot be followed: top_p must be above 0"
    with pytest.raises(StartupError, match=wanted):
        await stack.start_session(with_draft=False, defaults_of_model=True)
    client = (await stack.start_session(with_draft=False)).client
    assert (await generate(client, PROMPT, **TURN)).tokens
