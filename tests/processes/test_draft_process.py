"""The draft's process may die at any time: it costs speed alone, and it is used again once it is back."""

from __future__ import annotations

import pytest
from outrider_server.models import held_out_prompts

from .processes import until

PROMPT = held_out_prompts()[20]


@pytest.mark.parametrize("loop", ["synchronous", "run_ahead"])
def test_a_killed_draft_changes_no_token_and_speculates_again_when_it_is_back(client, draft, loop):
    options = {"max_new_tokens": 150, "seed": 3, "logit_bias": {0: -100.0}, "loop": loop}
    expected = client.create_session().generate(PROMPT, draft="off", **options).read().tokens
    conversation = client.create_session()
    reply = conversation.generate(PROMPT, draft="model", **options)
    for _ in range(10):
        next(reply)
    draft.kill()
    reply.read()
    assert reply.tokens == expected
    assert reply.summary.degraded
    assert reply.summary.accepted > 0

    missed = conversation.generate("\n", max_new_tokens=8, draft="model", loop=loop).read()
    assert missed.summary.degraded
    assert missed.summary.proposed == 0

    draft.start_again()
    draft.wait_until_ready()
    until(lambda: client.describe().draft is not None)
    again = conversation.generate(
        "\ndef f(", max_new_tokens=40, seed=4, draft="model", loop=loop
    ).read()
    assert again.summary.proposed > 0
    assert again.summary.accepted > 0
