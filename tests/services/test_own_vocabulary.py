"""The three services with a draft that knows a part of the target's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from outrider_server.host.engine_host import EngineHost
from own_vocabularies import save_cut

from .harness import Stack, generate, running_engine
from .reference import target_alone
from .tiny_models import VOCABULARY_SIZE

PROMPT = "import os\nimport sys\n"
KNOWN = [token for token in range(VOCABULARY_SIZE) if token % 3]
OPTIONS = {"max_new_tokens": 48, "seed": 21}
SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {},
    "filtered": {"top_k": 50, "top_p": 0.95},
    "penalized": {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    "biased": {"logit_bias": {0: 3.0, 7: 3.0}},
    "withheld": {"min_new_tokens": 20},
}


@pytest.fixture(scope="module")
def own_draft(target_folder: Path, models: Path) -> Iterator[EngineHost]:
    """The target's own rows of two thirds of its tokens."""
    folder = save_cut(target_folder, models / "own-draft", KNOWN)
    with running_engine(folder, "draft") as host:
        yield host


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.usefixtures("patient")
async def test_the_tokens_are_the_targets_and_guesses_agree(
    stack: Stack, target: EngineHost, own_draft: EngineHost, name: str
) -> None:
    """The prompt and the reply hold tokens that the draft does not know."""
    await stack.start_target(target)
    await stack.start_draft(own_draft)
    service = await stack.start_session()
    expected = await target_alone(service.client, PROMPT, **OPTIONS, **SAMPLINGS[name])
    for loop in ("synchronous", "run_ahead"):
        reply = await generate(
            service.client, PROMPT, draft="model", loop=loop, **OPTIONS, **SAMPLINGS[name]
        )
        assert reply.tokens == expected
        assert not reply.summary.degraded_reason
        assert 0 < reply.summary.accepted < reply.summary.proposed


async def test_the_description_tells_how_many_tokens_the_draft_knows(
    stack: Stack, target: EngineHost, own_draft: EngineHost
) -> None:
    await stack.start_target(target)
    await stack.start_draft(own_draft)
    described = await (await stack.start_session()).client.describe()
    assert not described.draft_note
    assert described.draft is not None
    assert described.draft.vocabulary_fingerprint == described.target.vocabulary_fingerprint
    assert (described.target.known_tokens, described.draft.known_tokens) == (0, len(KNOWN))
    assert described.draft.vocabulary_size == VOCABULARY_SIZE
    assert described.draft.output_rows == len(KNOWN) + 1
