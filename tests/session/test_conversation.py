"""A chat's turn reads what transformers makes of the whole conversation, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from outrider.v1 import session_pb2
from outrider_server.core.description import TokenizerFiles
from outrider_server.core.errors import InvalidRequest
from outrider_server.core.surroundings import CHANCE, random_id
from outrider_server.core.types import FinishReason
from outrider_server.session.conversation import Held, messages_of, prompt_for, turn_text
from outrider_server.session.ledger.ledger import TurnRecord
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.session.requests import parse_turn
from outrider_server.session.text.model import ServedModel
from tokenizers import Tokenizer as RawTokenizer

from .ledger_fixtures import generated
from .sample_tokenizers import BEGIN, END, byte_fallback_raw, byte_level_raw, metaspace_raw
from .test_model import description

TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{ '<|turn|>' + message.content + ' [/INST]' }}
    {%- else %}{{ message.content.split('dog')[-1] + eos_token }}{% endif %}
{%- endfor %}
"""
TOKENIZERS: dict[str, Callable[[], RawTokenizer]] = {
    "byte level": byte_level_raw,
    "byte fallback": byte_fallback_raw,
    "byte fallback, first word only": lambda: byte_fallback_raw(legacy=False),
    "metaspace": metaspace_raw,
}
REPLIES = ("The quick brown fox", "", "jumps over the lazy dog again", "is it not? the weather")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    async with aclosing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        yield ledger


def served(raw: RawTokenizer, context_tokens: int = 400, template: str = TEMPLATE) -> ServedModel:
    files = TokenizerFiles(raw.to_str().encode(), template, BEGIN, END)
    size = raw.get_vocab_size(with_added_tokens=True)
    return ServedModel.of(replace(description((), size), max_context_tokens=context_tokens), files)


async def held_of(ledger: SqliteLedger, session_id: str) -> Held:
    turns = await ledger.turns(session_id)
    last = await ledger.turn_tokens(session_id, len(turns) - 1)
    return Held(await ledger.tokens(session_id), turns, last)


def asking(text: str, model: ServedModel, **options: Any) -> Any:
    request = session_pb2.GenerateRequest(session_id="s", **options)
    request.chat.messages.add(role="user", content=text)
    return parse_turn(request, model, CHANCE, random_id)


@pytest.mark.parametrize("raw", TOKENIZERS.values(), ids=TOKENIZERS)
async def test_every_turn_reads_what_transformers_reads_and_a_reply_is_what_it_decodes(
    ledger: SqliteLedger, raw: Callable[[], RawTokenizer]
) -> None:
    transformers = pytest.importorskip("transformers")
    peer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw(), bos_token=BEGIN, eos_token=END, chat_template=TEMPLATE
    )
    model = served(raw())
    session_id = (await ledger.create_session("", "model")).session_id
    epoch = (await ledger.take_over(session_id)).epoch
    messages: list[dict[str, str]] = []
    for index, reply in enumerate(REPLIES):
        held = await held_of(ledger, session_id)
        request = asking("is it?", model)
        prompt = prompt_for(request.input, held, model)
        messages.append({"role": "user", "content": "is it?"})
        tokens = [*held.tokens[: prompt.kept], *prompt.tokens]
        assert tokens == peer.apply_chat_template(messages)["input_ids"]
        record = await ledger.begin_turn(
            session_id, epoch, len(held.tokens), prompt.new_turn(request)
        )
        epoch += bool(record.rewound_tokens)
        written = [*raw().encode(reply, add_special_tokens=False).ids, peer.eos_token_id]
        await ledger.append(session_id, epoch, len(tokens), generated(*written))
        await ledger.finish_turn(session_id, epoch, index, FinishReason.END_TOKEN)
        last = messages_of(await held_of(ledger, session_id), model)[-1]
        assert last.content == peer.decode(written, skip_special_tokens=True)
        told = turn_text(record, tokens, model).accept(written)
        assert "".join(told.texts) == last.content, "it is the same while it is told"
        messages.append({"role": "assistant", "content": last.content})
    turns = await ledger.turns(session_id)
    assert [turn.reply for turn in turns[:-1]] == [
        message["content"] for message in messages[1:-1:2]
    ], "each is kept when the next turn begins"
    assert all(turn.rewound_tokens for turn in turns[3:]), "the third reply has lost its beginning"


async def test_a_conversation_that_the_context_cannot_hold_is_refused(ledger: SqliteLedger) -> None:
    model = served(byte_level_raw(), context_tokens=20)
    nothing = Held([], [], [])
    asked = asking("x", model)
    length = len(prompt_for(asked.input, nothing, model).tokens)
    for room in (length, length + 1):
        small = served(byte_level_raw(), context_tokens=room)
        if room > length:
            assert prompt_for(asked.input, nothing, small).kept == 0
            continue
        with pytest.raises(InvalidRequest, match=f"less than the context of {room}") as refused:
            prompt_for(asked.input, nothing, small)
        assert refused.value.field == "input"


def held_after(asked: Any, model: ServedModel, *reply: int) -> Held:
    """A session of one turn that was replied to."""
    prompt = prompt_for(asked.input, Held([], [], []), model).tokens
    record = TurnRecord(
        session_id="s",
        turn_index=0,
        request_id="first",
        start_position=0,
        prompt_tokens=len(prompt),
        parameters=asked.parameters(),
        finish_reason=FinishReason.LENGTH,
        chat=asked.chat(),
        reply="told",
    )
    return Held([*prompt, *reply], [record], generated(*reply))


def test_a_prompt_that_the_session_holds_whole_still_has_a_token_of_its_own() -> None:
    model = served(byte_level_raw(), template="{{ messages[-1].content }}")
    asked = asking("the quick brown fox", model)
    held = held_after(asked, model, 5, 6)
    prompt = prompt_for(asked.input, held, model)
    length = len(held.tokens) - 2
    assert (prompt.kept, prompt.tokens) == (length - 1, (held.tokens[length - 1],))
    small = served(byte_level_raw(), length, "{{ messages[-1].content }}")
    with pytest.raises(InvalidRequest, match=f"less than the context of {length}"):
        prompt_for(asked.input, held, small)
    assert held.size >= len(held.tokens), "a chat reads all of it anew"


def test_a_token_that_the_model_lacks_is_refused_where_it_stays_only() -> None:
    model = served(byte_level_raw(), template="{{ messages[-1].content }}")
    asked, unknown = asking("the quick brown fox", model), 10**6
    assert prompt_for(asked.input, held_after(asked, model, 5, unknown), model).kept
    with pytest.raises(InvalidRequest, match=f"token id {unknown} at position 0"):
        prompt_for(asked.input, Held([unknown], [], []), model)


def test_a_conversation_is_told_also_where_the_context_has_become_too_small_for_it() -> None:
    model = served(byte_level_raw(), template="{{ messages[-1].content }}")
    asked = asking("the quick brown fox", model)
    held = held_after(asked, model, 5, 6)
    held = replace(held, turns=[replace(held.turns[0], reply=None)])
    small = served(byte_level_raw(), 2, "{{ messages[-1].content }}")
    assert messages_of(held, small) == messages_of(held, model)
    assert messages_of(held, small)[-1].content
    with pytest.raises(InvalidRequest, match="less than the context of 2"):
        prompt_for(asked.input, held, small)


@pytest.mark.parametrize(
    "said",
    [
        {"role": "user", "content": "word " * 100_000},
        {"role": "system", "parts": [session_pb2.ContentPart(text="word " * 100_000)]},
    ],
    ids=["content", "part"],
)
def test_a_message_that_no_context_holds_is_refused_before_the_template_reads_it(
    said: dict[str, Any],
) -> None:
    model = served(byte_level_raw(), template="{{ raise_exception('it was read') }}")
    chat = session_pb2.ChatInput(messages=[session_pb2.ChatMessage(**said)])
    request = parse_turn(
        session_pb2.GenerateRequest(session_id="s", chat=chat), model, CHANCE, random_id
    )
    with pytest.raises(InvalidRequest, match="more tokens than the context of 400 holds"):
        prompt_for(request.input, Held((), (), ()), model)


def test_what_an_assistant_said_may_be_of_any_length_where_the_template_leaves_it_out() -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    model = served(byte_level_raw(), template=template)
    messages = [
        session_pb2.ChatMessage(role="assistant", content="word " * 100_000),
        session_pb2.ChatMessage(role="user", content="is it?"),
    ]
    chat = session_pb2.ChatInput(messages=messages)
    request = parse_turn(
        session_pb2.GenerateRequest(session_id="s", chat=chat), model, CHANCE, random_id
    )
    prompt = prompt_for(request.input, Held((), (), ()), model)
    assert model.tokenizer.decode(prompt.tokens, special=False) == "is it?"
