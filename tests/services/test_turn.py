"""One turn, end to end: its events, its text, its summary, and where it ends."""

from __future__ import annotations

import itertools

import outrider
import pytest
from outrider_server.models import TARGET_FOLDER
from tokenizers import Tokenizer

from .harness import generate
from .reference import model_logprobs
from .tiny_models import CONTEXT_TOKENS, END_TOKEN

PROMPT = "def main():\n    return"
LOOPS = pytest.mark.parametrize("loop", ["synchronous", "run_ahead", "adaptive"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TARGET_FOLDER / "tokenizer.json"))


@pytest.mark.parametrize("loop", ["synchronous", "run_ahead"])
async def test_events_come_in_order_and_their_texts_are_the_decoded_reply(service, tokenizer, loop):
    reply = await generate(service.client, PROMPT, max_new_tokens=80, seed=5, loop=loop)
    assert [event.index for event in reply.events] == list(range(80))
    assert reply.text == tokenizer.decode(reply.tokens)
    assert {event.source for event in reply.events} >= {"draft", "target"}


@LOOPS
async def test_the_summary_agrees_with_the_events(service, loop):
    session = await service.client.create_session()
    reply = await session.generate(PROMPT, max_new_tokens=50, seed=5, loop=loop).read()
    summary, sources = reply.summary, [event.source for event in reply.events]
    assert summary.tokens == len(reply.tokens) == 50
    assert summary.accepted == sum(source != "target" for source in sources)
    assert summary.rounds == summary.tokens - summary.accepted
    assert summary.accepted <= summary.proposed <= summary.rounds * 7
    assert 0 < summary.ttft_ms <= summary.duration_ms
    assert summary.finish_reason is outrider.FinishReason.LENGTH
    assert summary.position == session.position == (await session.info()).position


async def test_the_start_tells_what_was_accepted(service, tokenizer):
    session = await service.client.create_session()
    first = await session.generate(PROMPT, max_new_tokens=3, seed=11, request_id="one").read()
    length = len(tokenizer.encode(PROMPT).ids)
    assert first.started == outrider.Started("one", length, length, 11)
    second = await session.generate("x", max_new_tokens=3).read()
    assert second.started.start_position == length + 3 + second.started.prompt_tokens
    assert second.started.seed == second.summary.seed


async def test_a_chosen_seed_reproduces_the_reply(service):
    first = await generate(service.client, PROMPT, max_new_tokens=24)
    again = await generate(service.client, PROMPT, max_new_tokens=24, seed=first.summary.seed)
    assert again.tokens == first.tokens


@pytest.mark.parametrize("wanted", [None, 0, 5])
async def test_logprobs_are_the_models(service, target_folder, wanted):
    session = await service.client.create_session()
    reply = await session.generate(
        PROMPT, max_new_tokens=24, temperature=0.6, top_k=20, seed=3, logprobs=wanted
    ).read()
    if wanted is None:
        assert {(event.logprob, event.top_logprobs) for event in reply.events} == {(None, ())}
        return
    tokens = (await session.info(with_tokens=True)).tokens
    expected = model_logprobs(target_folder, tokens)[len(tokens) - len(reply.tokens) - 1 :]
    for event, row in zip(reply.events, expected, strict=False):
        assert event.logprob == pytest.approx(float(row[event.token]), abs=1e-3)
        top = row.topk(wanted)
        assert [entry.token for entry in event.top_logprobs] == top.indices.tolist()
        assert [entry.logprob for entry in event.top_logprobs] == pytest.approx(
            top.values.tolist(), abs=1e-3
        )


async def test_a_stop_string_across_the_border_of_tokens_ends_the_turn(service):
    options = {"max_new_tokens": 40, "seed": 8}
    whole = await generate(service.client, PROMPT, **options)
    texts = [event.text for event in whole.events]
    at = next(i for i in range(10, 40) if len(texts[i]) > 1 and len(texts[i + 1]) > 1)
    stop = texts[at][-1] + texts[at + 1][0]
    shown = "".join(texts).partition(stop)[0]
    for draft in ("off", "auto"):
        reply = await generate(
            service.client, PROMPT, stop=[stop, "never\0"], draft=draft, **options
        )
        assert reply.summary.finish_reason is outrider.FinishReason.STOP_STRING
        assert reply.text == shown
        assert reply.tokens == whole.tokens[: len(reply.tokens)]
        assert len(reply.tokens) <= at + 2


@LOOPS
async def test_an_end_token_ends_the_turn_and_has_no_text(service, loop):
    options = {"max_new_tokens": 200, "seed": 4, "logit_bias": {END_TOKEN: 7.0}, "loop": loop}
    reply = await generate(service.client, PROMPT, **options)
    assert reply.summary.finish_reason is outrider.FinishReason.END_TOKEN
    assert 1 < len(reply.tokens) < 200
    assert reply.tokens.index(END_TOKEN) == len(reply.tokens) - 1
    assert "endoftext" not in reply.text


@LOOPS
async def test_a_turn_ends_where_the_context_is_full(service, loop):
    session = await service.client.create_session()
    prompt = list(itertools.islice(itertools.cycle(range(100, 200)), CONTEXT_TOKENS - 9))
    reply = await session.generate(prompt, max_new_tokens=100, seed=1, loop=loop).read()
    assert reply.summary.finish_reason is outrider.FinishReason.LENGTH
    assert (len(reply.tokens), session.position) == (9, CONTEXT_TOKENS)
    with pytest.raises(outrider.InvalidRequestError, match="context"):
        await session.generate([1]).read()


async def test_chat_is_rendered_by_the_models_template(service):
    chat = [outrider.ChatMessage("user", "say hello"), {"role": "assistant", "content": "hel"}]
    session = await service.client.create_session()
    reply = await session.generate(chat, max_new_tokens=4, seed=1).read()
    text = (await session.info(with_tokens=True)).text
    assert text.startswith("# user: say hello\nhel\n")
    assert text.endswith(reply.text)


async def test_tokens_are_taken_as_they_are(service):
    session = await service.client.create_session()
    reply = await session.generate([17, 4095, 3], max_new_tokens=4, seed=1).read()
    tokens = (await session.info(with_tokens=True)).tokens
    assert tokens == (17, 4095, 3, *reply.tokens)
