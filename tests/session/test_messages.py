"""Chat messages: what may stand in them, and the same again from their JSON."""

import json

import pytest
from outrider.v1 import session_pb2
from outrider_server.core.errors import InvalidRequest
from outrider_server.session.text.chat import ChatTemplate
from outrider_server.session.text.messages import (
    MAX_JSON_CHARACTERS,
    ChatContext,
    ChatInput,
    ChatMessage,
    ToolCall,
)
from outrider_server.session.text.sandbox import STEPS
from outrider_server.session.wire import chat_from_proto

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"b": 1, "a": 2.5}}}
CALL = ToolCall("add", {"b": [1, None], "a": "\u4e2d"}, "call00001")
CHAT = ChatInput(
    (
        ChatMessage("system", ("Be ", "brief.")),
        ChatMessage("developer", "Add."),
        ChatMessage("user", "1 + 2?", name="ada"),
        ChatMessage("assistant", reasoning_content="", tool_calls=(CALL, ToolCall("f", "raw"))),
        ChatMessage("tool", "3", name="add", tool_call_id="call00001"),
    ),
    ChatContext((TOOL,), ({"title": "t", "text": "x"},), {"enable_thinking": False}),
)
WIRE = session_pb2.ChatInput(
    messages=[
        {"role": "system", "parts": [{"type": "text", "text": "Be "}, {"text": "brief."}]},
        {"role": "developer", "content": "Add."},
        {"role": "user", "content": "1 + 2?", "name": "ada"},
        {
            "role": "assistant",
            "reasoning_content": "",
            "tool_calls": [
                {"id": CALL.id, "name": "add", "arguments": json.dumps(CALL.arguments)},
                {"name": "f", "arguments": '"raw"'},
            ],
        },
        {"role": "tool", "content": "3", "name": "add", "tool_call_id": CALL.id},
    ],
    tools=json.dumps([TOOL]),
    documents='[{"title": "t", "text": "x"}]',
    template_options='{"enable_thinking": false}',
)


def message(**fields: object) -> session_pb2.ChatInput:
    return session_pb2.ChatInput(messages=[{"role": "user", **fields}])


def test_a_chat_is_the_same_again_from_its_json():
    messages = json.loads(json.dumps([entry.as_json() for entry in CHAT.messages]))
    context = json.loads(json.dumps(CHAT.context.as_json()))
    again = ChatInput(tuple(map(ChatMessage.of_json, messages)), ChatContext.of_json(context))
    assert again == CHAT


def test_an_option_that_was_recorded_before_it_was_reserved_is_left_out():
    recorded = ChatContext(options={"x": 1}).as_json()
    recorded["options"]["bos_token"] = ""
    assert ChatContext.of_json(recorded) == ChatContext(options={"x": 1})


def test_no_option_replaces_what_a_template_is_given():
    template = ChatTemplate("x", "a", "b", pad_token="c", unknown_token="d")._template
    owned = {*template._compiled.environment.globals, *template._tokens, STEPS}
    assert len(owned) >= 13
    for name in owned:
        with pytest.raises(InvalidRequest) as refused:
            ChatContext(options={name: ""})
        assert str(refused.value) == (
            f"template_options cannot set {name!r}, which the service or the template's engine sets"
        )


def test_templates_read_what_is_set_and_nothing_else():
    assert ChatMessage("user", "x").as_json() == {"role": "user", "content": "x"}
    assert CHAT.messages[0].as_json()["content"] == [
        {"type": "text", "text": "Be "},
        {"type": "text", "text": "brief."},
    ]
    assert CHAT.messages[3].as_json()["tool_calls"][0] == {
        "id": "call00001",
        "type": "function",
        "function": {"name": "add", "arguments": CALL.arguments},
    }


def test_a_chat_is_read_from_the_wire():
    assert chat_from_proto(WIRE) == CHAT


def test_keys_of_a_tool_keep_their_order():
    (tool,) = chat_from_proto(WIRE).context.tools
    assert list(tool["function"]["parameters"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("chat", "field", "words"),
    [
        (session_pb2.ChatInput(), "chat", "at least one message"),
        (message(role="owner"), "chat", "system, developer, user, assistant, tool"),
        (message(parts=[{"type": "image_url"}]), "chat", "'image_url'"),
        (message(parts=[{"text": "x"}], content="y"), "chat", "content or parts"),
        (message(reasoning_content="x"), "chat", "reasoning_content"),
        (message(tool_call_id="x"), "chat", "tool_call_id"),
        (message(tool_calls=[{"name": "f"}]), "chat", "tool_calls"),
        (message(role="assistant", tool_calls=[{}]), "chat", "name"),
        (
            message(role="assistant", tool_calls=[{"name": "f", "arguments": "[]"}]),
            "chat.messages.tool_calls.arguments",
            "an object or a string",
        ),
    ],
)
def test_a_message_that_makes_no_sense_is_refused_in_one_sentence(chat, field, words):
    with pytest.raises(InvalidRequest) as refused:
        chat_from_proto(chat)
    assert refused.value.field == field
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("tools", "{}", "an array"),
        ("tools", "[1]", "objects"),
        ("tools", "[", "valid JSON"),
        ("tools", '[{"x": "' + "x" * MAX_JSON_CHARACTERS + '"}]', "characters"),
        ("documents", '["x"]', "objects"),
        ("documents", "[" * 100_000, "deep"),
        ("documents", "[" * 900 + "]" * 900, "deep"),
        ("documents", '[{"x":' * 17 + "1" + "}]" * 17, "deep"),
        ("template_options", "[]", "an object"),
        ("template_options", '{"x": NaN}', "valid JSON"),
        ("template_options", '{"x": "\\ud800"}', "valid JSON"),
        ("template_options", '{"messages": []}', "'messages'"),
        ("template_options", '{"add_generation_prompt": false}', "'add_generation_prompt'"),
        ("template_options", '{"a b": 1}', "'a b', which is no name of a variable"),
        ("template_options", '{"bos_token": ""}', "'bos_token', which the service or"),
        ("template_options", '{"raise_exception": 1}', "'raise_exception', which the service or"),
    ],
)
def test_json_beside_the_messages_is_checked(field, text, words):
    chat = message(content="x")
    setattr(chat, field, text)
    with pytest.raises(InvalidRequest) as refused:
        chat_from_proto(chat)
    assert refused.value.field == f"chat.{field}"
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_documents_as_deep_as_is_said_are_taken():
    chat = message(content="x")
    chat.documents = '[{"x":' * 16 + "1" + "}]" * 16
    assert len(chat_from_proto(chat).context.documents) == 1
