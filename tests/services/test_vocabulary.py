"""Draft and target of one tokenizer: however it was written, and however many rows each model has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import outrider
import pytest
from outrider_server.host.engine_host import EngineHost

from . import tiny_models
from .harness import Stack, generate, running_engine
from .reference import target_alone
from .tiny_models import VOCABULARY_SIZE

PROMPT = "import os\nimport sys\n"
OPTIONS = {"max_new_tokens": 24, "seed": 21}
ROWS = {"target": VOCABULARY_SIZE + 128, "draft": VOCABULARY_SIZE + 64}


@pytest.fixture(scope="module")
def wide_target(models: Path) -> Iterator[EngineHost]:
    folder = tiny_models.save_model(
        models / "wide-target", change=tiny_models.widen(ROWS["target"])
    )
    with running_engine(folder, "target") as host:
        yield host


@pytest.fixture(scope="module")
def wide_draft(models: Path) -> Iterator[EngineHost]:
    folder = tiny_models.save_model(models / "wide-draft", change=tiny_models.widen(ROWS["draft"]))
    with running_engine(tiny_models.rewrite_tokenizer(folder), "draft") as host:
        yield host


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"top_k": 50, "min_p": 0.001}])
@pytest.mark.usefixtures("patient")
async def test_rows_beyond_the_tokenizer_change_no_token_and_no_draft_is_refused(
    stack: Stack, target, wide_target, wide_draft, sampling
):
    """The tokens are those of the target before its rows were added, and the draft agrees with it."""
    narrow_target = await stack.start_target(target, "narrow-target")
    narrow = await stack.start_session("narrow-session", target=narrow_target, with_draft=False)
    expected = await target_alone(narrow.client, PROMPT, **OPTIONS, **sampling)
    await stack.start_target(wide_target)
    await stack.start_draft(wide_draft)
    service = await stack.start_session()
    for loop in ("synchronous", "run_ahead"):
        reply = await generate(
            service.client, PROMPT, draft="model", loop=loop, **OPTIONS, **sampling
        )
        assert reply.tokens == expected
        assert not reply.summary.degraded_reason
        assert reply.summary.accepted == reply.summary.proposed > 0


async def test_the_description_tells_both_numbers_and_no_other_id_is_taken(
    stack: Stack, wide_target, wide_draft
):
    await stack.start_target(wide_target)
    await stack.start_draft(wide_draft)
    client = (await stack.start_session()).client
    described = await client.describe()
    assert not described.draft_note
    for model, rows in ((described.target, ROWS["target"]), (described.draft, ROWS["draft"])):
        found = (model.vocabulary_size, model.tokenizer_size, model.output_rows)
        assert found == (VOCABULARY_SIZE, VOCABULARY_SIZE, rows)
    session = await client.create_session()
    for turn in ([VOCABULARY_SIZE], "x"):
        with pytest.raises(outrider.InvalidRequestError, match="vocabulary"):
            await session.generate(turn, logit_bias={VOCABULARY_SIZE: 1.0}).read()
