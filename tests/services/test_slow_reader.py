"""A reader that stops reading stops the turn; what is under way stays bounded, and nothing is lost."""

from __future__ import annotations

import asyncio

from .reference import target_alone

PROMPT = "with open(path) as file:\n"
OPTIONS = {"max_new_tokens": 600, "seed": 6, "logit_bias": {0: -100.0}}


async def test_a_turn_waits_for_its_reader(service) -> None:
    session = await service.client.create_session()
    reply = session.generate(PROMPT, **OPTIONS, logprobs=20)
    await anext(reply)
    prompt = reply.started.prompt_tokens
    committed = 0
    for _ in range(200):
        before, committed = committed, (await session.info()).position - prompt
        if committed == before:
            break
        await asyncio.sleep(0.25)
    assert committed == before
    print(f"{committed} of 600 tokens were committed while nobody read")
    assert 1 <= committed < 300
    await reply.read()
    assert reply.tokens == await target_alone(service.client, PROMPT, **OPTIONS)
