"""Over the wire, the tokens are the target's, whoever proposes and however the loop is paced."""

from __future__ import annotations

import pytest

from .harness import generate
from .reference import model_logprobs, target_alone

SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0, "seed": 7},
    "filtered": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "seed": 2**64 - 1},
    "penalised": {
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.3,
        "logit_bias": {5: 2.0, 4095: -3.0},
        "seed": 0,
    },
}
PROMPT = "for name in names:\n    print(name)\nfor name in names:\n"


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])
async def test_every_draft_and_window_gives_the_tokens_of_the_target_alone(service, sampling, loop):
    options = {"max_new_tokens": 24, **SAMPLINGS[sampling]}
    expected = await target_alone(service.client, PROMPT, **options)
    for draft in ("auto", "model", "ngram", "off"):
        for window in (None, 1, 7):
            reply = await generate(
                service.client, PROMPT, draft=draft, loop=loop, max_window=window, **options
            )
            assert reply.tokens == expected, (draft, window)


async def test_greedy_tokens_are_the_most_probable_of_the_plain_library(service, target_folder):
    session = await service.client.create_session()
    reply = await session.generate(PROMPT, max_new_tokens=64, temperature=0.0).read()
    tokens = (await session.info(with_tokens=True)).tokens
    logprobs = model_logprobs(target_folder, tokens)
    start = len(tokens) - len(reply.tokens)
    assert reply.tokens == logprobs.argmax(dim=-1)[start - 1 : -1].tolist()


@pytest.mark.parametrize("loop", ["synchronous", "run_ahead"])
@pytest.mark.parametrize("sampling", ["greedy", "sampled"])
async def test_the_draft_is_of_use(service, sampling, loop):
    """Guards the tests above, which say little about a draft that never agrees.

    Sampled, agreement comes from the noise that the two share. Whether an adaptive turn asks
    the draft depends on what it costs here; `test_adaptive.py` makes it worth asking.
    """
    options = {"max_new_tokens": 96, "draft": "model", "loop": loop, **SAMPLINGS[sampling]}
    summary = (await generate(service.client, PROMPT, **options)).summary
    assert summary.accepted < summary.proposed
    assert summary.agreement > (0.4 if sampling == "sampled" else 0.2)


async def test_another_seed_gives_another_reply(service):
    replies = [
        await target_alone(service.client, PROMPT, seed=seed, max_new_tokens=16) for seed in (1, 2)
    ]
    assert replies[0] != replies[1]
