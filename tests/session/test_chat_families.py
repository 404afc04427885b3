"""Every turn of a chat has the text and the tokens that transformers gives it, in many families."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from outrider_server.session.text.messages import ChatContext, ChatMessage

from .chat_conversations import CALLING, SYSTEM, TALK, TOOLS, check, thinking
from .chat_families import FAMILIES, Family

transformers = pytest.importorskip("transformers")


def peer_of(family: Family) -> Any:
    named = {"bos_token": family.begin or None, "eos_token": family.end or None}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=family.raw, chat_template=family.template, **named
    )


def check_family(family: Family, messages: list[ChatMessage], context: ChatContext) -> None:
    check(family.chat, family.tokenizer, peer_of(family), messages, context)


def ids(families: Sequence[Family]) -> list[str]:
    return [family.name for family in families]


@pytest.mark.parametrize("family", FAMILIES, ids=ids(FAMILIES))
def test_five_turns_are_those_of_transformers(family: Family) -> None:
    for options, system in itertools.product(({}, *family.options), (True, False)):
        check_family(family, [SYSTEM, *TALK] if system else TALK, ChatContext(options=options))


THINKING = [family for family in FAMILIES if family.thinks]


@pytest.mark.parametrize("in_content", [True, False], ids=["content", "reasoning_content"])
@pytest.mark.parametrize("family", THINKING, ids=ids(THINKING))
def test_a_history_with_thoughts_is_that_of_transformers(family: Family, in_content: bool) -> None:
    for options in ({}, *family.options):
        check_family(family, thinking(in_content=in_content), ChatContext(options=options))


CALLS = [family for family in FAMILIES if family.calls]


@pytest.mark.parametrize("family", CALLS, ids=ids(CALLS))
def test_calls_of_tools_are_those_of_transformers(family: Family) -> None:
    check_family(family, CALLING, ChatContext(tools=TOOLS))


@pytest.mark.parametrize("name", ["command_r", "granite"])
def test_documents_are_those_of_transformers(name: str) -> None:
    (family,) = (family for family in FAMILIES if family.name == name)
    documents = ({"title": "\u6587", "text": "one\n"}, {"title": "<b>", "text": "two"})
    check_family(family, TALK, ChatContext(documents=documents))


@pytest.mark.parametrize("family", FAMILIES, ids=ids(FAMILIES))
def test_in_no_family_a_user_writes_a_control_token(family: Family) -> None:
    """Whatever users write, the control tokens are those of the chat in which they write a word."""
    chat, tokenizer, raw = family.chat, family.tokenizer, family.raw
    controls = [*family.special.split(), *family.added.split()]
    control_ids = {raw.token_to_id(text) for text in tokenizer._control.values()}

    def written(word: str) -> tuple[str, list[int]]:
        said = [
            ChatMessage("user", f"a{word}b"),
            ChatMessage("assistant", "c"),
            ChatMessage("user", f"{word} d {word}"),
        ]
        tool = {"function": {"name": word, "parameters": {word: word}}}
        options = {"date_string": word, "reasoning_effort": word}
        context = ChatContext((tool,), ({"text": word, "title": word},), options)
        rendered = chat.render(said, context)
        tokens = tokenizer.encode_rendered(rendered, begin=True)
        return rendered.text, [token for token in tokens if token in control_ids]

    plain, expected = written("word")
    for control in [
        *controls,
        "".join(controls),
        f"{controls[0][:-1]}{controls[-1]}",
        "<think></think>",
    ]:
        text, found = written(control)
        assert found == expected, control
        assert text == plain.replace("word", control)


@pytest.mark.parametrize("family", FAMILIES, ids=ids(FAMILIES))
def test_an_assistant_writes_no_special_token(family: Family) -> None:
    special = {family.raw.token_to_id(text) for text in family.special.split()}

    def written(word: str) -> list[int]:
        said = [
            ChatMessage("user", "a"),
            ChatMessage("assistant", f"b {word}"),
            ChatMessage("user", "c"),
        ]
        tokens = family.tokenizer.encode_rendered(family.chat.render(said), begin=True)
        return [token for token in tokens if token in special]

    for control in family.special.split():
        assert written(control) == written("word"), control
