"""The promise over real processes: same target, prompt, sampling and seed, same tokens."""

from __future__ import annotations

import json
import subprocess
import sys

from outrider_server.models import held_out_prompts

from .processes import reply_to

PROMPTS = held_out_prompts()
SAMPLINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.7, "top_p": 0.9, "seed": 2**63},
]
VARIANTS = [
    {"draft": "model", "loop": "synchronous"},
    {"draft": "model", "loop": "run_ahead", "max_window": 7},
    {"draft": "auto", "loop": "run_ahead"},
    {"draft": "ngram", "loop": "synchronous", "max_window": 3},
    {"draft": "model", "loop": "synchronous", "max_window": 1},
    {"draft": "off", "loop": "run_ahead"},
    {"draft": "auto", "loop": "adaptive"},
    {"draft": "model", "loop": "adaptive"},
]
CLIENT = """
import json, sys, outrider
with outrider.Client(sys.argv[1]) as client:
    reply = client.create_session().generate(sys.argv[2], max_new_tokens=16, seed=5, draft="off")
    print(json.dumps([event.token for event in reply]))
"""


def test_speculation_changes_no_token_of_72_sequences(client):
    compared, accepted = 0, 0
    for number in range(9):
        prompt, options = PROMPTS[number], {"max_new_tokens": 24, **SAMPLINGS[number % 3]}
        expected = reply_to(client, prompt, draft="off", loop="synchronous", **options).tokens
        assert expected
        for variant in VARIANTS:
            reply = reply_to(client, prompt, **options, **variant)
            assert reply.tokens == expected, (number, variant)
            compared += 1
            accepted += reply.summary.accepted
    assert compared == 72
    assert accepted > 72, "the draft was of no use, so this test says little"


def test_a_second_turn_is_the_same_too(client):
    texts = {}
    for variant in VARIANTS:
        session = client.create_session()
        session.generate(PROMPTS[10], max_new_tokens=12, seed=1, **variant).read()
        texts[str(variant)] = (
            session.generate("\n\ndef", max_new_tokens=12, seed=2, **variant).read().text
        )
    assert len(set(texts.values())) == 1, texts


def test_a_client_in_another_process_gets_the_same_tokens(client, session):
    expected = reply_to(client, PROMPTS[11], max_new_tokens=16, seed=5).tokens
    command = [sys.executable, "-c", CLIENT, session.address, PROMPTS[11]]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert json.loads(output) == expected
