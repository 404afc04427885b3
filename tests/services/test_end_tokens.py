"""What ends a turn: the tokenizer's end token, the request's own, special tokens' text; and not too early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import outrider
import pytest
from models_for_tests import edit_json
from outrider_server.host.engine_host import EngineHost

from .harness import SessionService, Stack, generate, running_engine
from .reference import target_alone
from .tiny_models import END_TOKEN, VOCABULARY_SIZE, blur, save_model

MESSAGE_END = "<|im_end|>"
MESSAGE_END_ID = VOCABULARY_SIZE
ROWS = VOCABULARY_SIZE + 8
PROMPT = "for name in names:\n    print(name)\nfor name in names:\n"
ENDINGS = {MESSAGE_END_ID: 7.0, END_TOKEN: -100.0}
LOOPS = pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])


def save(folder: Path, **options: object) -> Path:
    """A model whose configuration names one end token, and its tokenizer another, beside its file."""
    save_model(folder, vocabulary_size=ROWS, **options)
    beside = {"content": MESSAGE_END, "special": True, "normalized": False}
    edit_json(
        folder / "tokenizer_config.json",
        eos_token=MESSAGE_END,
        added_tokens_decoder={str(MESSAGE_END_ID): beside},
    )
    return folder


@pytest.fixture(scope="module")
def engines(models: Path) -> Iterator[tuple[EngineHost, EngineHost]]:
    target, draft = save(models / "messages"), save(models / "messages draft", change=blur)
    with running_engine(target, "target") as first, running_engine(draft, "draft") as second:
        yield first, second


@pytest.fixture
async def service(stack: Stack, engines: tuple[EngineHost, EngineHost]) -> SessionService:
    await stack.start_target(engines[0])
    await stack.start_draft(engines[1])
    return await stack.start_session()


async def test_the_tokenizers_end_token_ends_a_turn_beside_the_configurations(service):
    assert (await service.client.describe()).target.end_token_ids == (END_TOKEN, MESSAGE_END_ID)
    for token in (END_TOKEN, MESSAGE_END_ID):
        reply = await generate(service.client, PROMPT, seed=4, logit_bias={token: 9.0})
        assert reply.summary.finish_reason is outrider.FinishReason.END_TOKEN
        assert reply.tokens.index(token) == len(reply.tokens) - 1
        assert MESSAGE_END not in reply.text


@LOOPS
async def test_end_tokens_are_ignored_where_asked(service, loop):
    options = {"seed": 4, "logit_bias": ENDINGS, "max_new_tokens": 60, "loop": loop}
    ended = await generate(service.client, PROMPT, **options)
    assert ended.summary.finish_reason is outrider.FinishReason.END_TOKEN
    reply = await generate(service.client, PROMPT, ignore_end_tokens=True, **options)
    assert reply.summary.finish_reason is outrider.FinishReason.LENGTH
    assert reply.tokens[: len(ended.tokens)] == ended.tokens
    assert MESSAGE_END not in reply.text


@LOOPS
async def test_a_turn_ends_with_the_first_stop_token(service, loop):
    options = {"seed": 4, "logit_bias": {END_TOKEN: -100.0}, "max_new_tokens": 40, "loop": loop}
    whole = await generate(service.client, PROMPT, **options)
    stops = [whole.tokens[30], whole.tokens[20]]
    at = min(whole.tokens.index(token) for token in stops)
    for extra in ({}, {"ignore_end_tokens": True}):
        reply = await generate(service.client, PROMPT, stop_token_ids=stops, **extra, **options)
        assert reply.tokens == whole.tokens[: at + 1]
        assert reply.summary.finish_reason is outrider.FinishReason.END_TOKEN
        assert reply.text == "".join(event.text for event in whole.events[:at])


@LOOPS
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 0.9, "top_k": 50}])
async def test_no_end_token_is_drawn_before_its_time_whoever_proposes(service, loop, sampling):
    """An end that the model wants above all comes at the first position where it may."""
    options = {
        **sampling,
        "seed": 4,
        "logit_bias": {MESSAGE_END_ID: 50.0},
        "stop_token_ids": [17],
        "min_new_tokens": 20,
        "max_new_tokens": 40,
    }
    expected = await target_alone(service.client, PROMPT, **options)
    assert (len(expected), expected[-1]) == (21, MESSAGE_END_ID)
    assert {MESSAGE_END_ID, END_TOKEN, 17}.isdisjoint(expected[:-1])
    for draft in ("auto", "model", "ngram"):
        reply = await generate(service.client, PROMPT, draft=draft, loop=loop, **options)
        assert reply.tokens == expected, draft


@pytest.mark.usefixtures("patient")
async def test_a_draft_that_withholds_as_the_target_does_agrees_with_it(service):
    options = {"seed": 4, "logit_bias": {MESSAGE_END_ID: 50.0}, "min_new_tokens": 60}
    reply = await generate(
        service.client, PROMPT, draft="model", loop="synchronous", max_new_tokens=60, **options
    )
    assert reply.summary.agreement > 0.2  # 0 for one that proposes the end each time


async def test_a_turn_that_was_left_withholds_what_it_did(service, stack):
    options = {
        "seed": 4,
        "logit_bias": {MESSAGE_END_ID: 50.0},
        "min_new_tokens": 30,
        "stop_token_ids": [17],
    }
    expected = await target_alone(service.client, PROMPT, **options)
    session = await service.client.create_session()
    reply = session.generate(PROMPT, request_id="one", **options)
    await anext(reply)
    reply.cancel()
    await stack.kill("session")
    service = await stack.start_session()
    session = await service.client.open_session(session.id)
    assert (await session.attach("one").read()).tokens == expected
    again = await session.generate(PROMPT, request_id="one", **options).read()
    assert again.tokens == expected
    other = options | {"min_new_tokens": 29}
    with pytest.raises(outrider.AlreadyExistsError, match="another min_new_tokens"):
        await session.generate(PROMPT, request_id="one", **other).read()


async def test_the_text_of_a_special_token_stops_a_turn(service):
    options = {"seed": 4, "logit_bias": ENDINGS, "ignore_end_tokens": True, "max_new_tokens": 60}
    whole = await generate(service.client, PROMPT, **options)
    at = whole.tokens.index(MESSAGE_END_ID)
    reply = await generate(service.client, PROMPT, stop=[MESSAGE_END], **options)
    assert reply.tokens == whole.tokens[: at + 1]
    assert reply.summary.finish_reason is outrider.FinishReason.STOP_STRING
    assert reply.text == "".join(event.text for event in whole.events[:at])


async def test_control_tokens_of_a_text_are_spelled_unless_they_are_asked_for(service):
    text = f"say{MESSAGE_END}it"
    spelled, parsed = [await service.client.create_session() for _ in range(2)]
    await spelled.generate(text, max_new_tokens=1).read()
    await parsed.generate(text, max_new_tokens=1, parse_control_tokens=True).read()
    prompts = [(await s.info(with_tokens=True)).tokens[:-1] for s in (spelled, parsed)]
    assert MESSAGE_END_ID not in prompts[0]
    assert prompts[1].count(MESSAGE_END_ID) == 1
    assert len(prompts[0]) > len(prompts[1])
