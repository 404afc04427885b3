"""No field is lost between messages and values, in either direction."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime
from typing import Any

import outrider
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from outrider import _chat, _wire
from outrider.v1 import session_pb2, types_pb2

from .fake_service import token_with_logprobs


def filled(kind: Any, counter: Any = None) -> Any:
    """A message whose every field but maps is set, each to a value of its own; enums to their last value."""
    counter = counter or itertools.count(1)
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.message_type is None:
            value = _scalar(field, next(counter))
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        elif field.message_type.full_name == "google.protobuf.Timestamp":
            getattr(message, field.name).FromSeconds(next(counter))
        elif not field.message_type.GetOptions().map_entry:
            inner = filled(field.message_type._concrete_class, counter)
            if field.is_repeated:
                getattr(message, field.name).append(inner)
            else:
                getattr(message, field.name).CopyFrom(inner)
    return message


def _scalar(field: FieldDescriptor, number: int) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"text {number}"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values[-1].number
    return number


def assert_same(message: Any, value: Any, renamed: dict[str, str] | None = None) -> None:
    """Every field of the message stands in the value under its name."""
    for field in message.DESCRIPTOR.fields:
        name = (renamed or {}).get(field.name, field.name)
        got, sent = getattr(value, name), getattr(message, field.name)
        if field.is_repeated:
            assert len(got) == len(sent) == 1
            got, sent = got[0], sent[0]
        if isinstance(got, datetime):
            assert got == datetime.fromtimestamp(sent.seconds, UTC)
        elif isinstance(sent, Duration):
            assert got == sent.seconds
        elif isinstance(got, dict):
            assert got == {entry.name: value for entry, value in sent.ListFields()}
        elif dataclasses.is_dataclass(got):
            assert_same(sent, got)
        elif field.enum_type is not None:
            assert field.enum_type.values_by_number[sent].name.lower().endswith(got)
        else:
            assert got == sent, field.name


def only(message: session_pb2.GenerateEvent) -> Any:
    """What a message holds, which is one thing."""
    (value,) = _wire.turn_messages(message)
    return value


def token_event(event: session_pb2.TokenEvent) -> session_pb2.GenerateEvent:
    return session_pb2.GenerateEvent(tokens=session_pb2.TokenEvents(events=[event]))


def test_a_round_of_tokens_becomes_as_many_events_in_order():
    events = [session_pb2.TokenEvent(index=index, token=9 - index) for index in range(3)]
    message = session_pb2.GenerateEvent(tokens=session_pb2.TokenEvents(events=events))
    read = _wire.turn_messages(message)
    assert [(event.index, event.token) for event in read] == [(0, 9), (1, 8), (2, 7)]


def test_a_summary_keeps_every_field():
    turn = filled(session_pb2.TurnSummary)
    assert_same(turn, only(session_pb2.GenerateEvent(summary=turn)))


def test_a_start_keeps_every_field():
    turn = filled(session_pb2.TurnStarted)
    assert_same(turn, only(session_pb2.GenerateEvent(started=turn)))


def test_a_description_keeps_every_field():
    answer = filled(session_pb2.DescribeResponse)
    assert_same(answer, _wire.description(answer))


def test_a_session_keeps_every_field():
    session = filled(session_pb2.Session)
    assert_same(
        session, _wire.session_info(session), renamed={"session_id": "id", "ttl": "ttl_seconds"}
    )


def test_a_session_that_never_expires_has_no_end():
    info = _wire.session_info(session_pb2.Session())
    assert (info.ttl_seconds, info.expire_time) == (0, None)


def test_a_missing_draft_is_none():
    assert _wire.description(session_pb2.DescribeResponse()).draft is None


def test_an_event_keeps_its_logprobs():
    event = only(token_with_logprobs(4, (9, -0.25), (8, -2.0)))
    tops = (outrider.Logprob(9, -0.25), outrider.Logprob(8, -2.0))
    expected = outrider.Event(4, 104, "a", outrider.TokenSource.TARGET, -0.5, tops)
    assert event == expected


def test_an_event_without_logprobs_has_none():
    event = only(token_event(session_pb2.TokenEvent(index=0)))
    assert (event.logprob, event.top_logprobs) == (None, ())


@pytest.mark.parametrize(
    ("enum", "values"),
    [
        (session_pb2.FinishReason, outrider.FinishReason),
        (session_pb2.TokenSource, outrider.TokenSource),
    ],
)
def test_every_enum_value_has_its_own_word(enum, values):
    words = [value.name.lower() for value in enum.DESCRIPTOR.values]
    assert all(
        sum(word.endswith(value) for word in words) == 1 for value in set(values) - {"unknown"}
    )
    assert len(values) == len(words)


def test_values_newer_than_the_sdk_are_unknown():
    event = session_pb2.TokenEvent(source=99)
    assert only(token_event(event)).source == "unknown"
    turn = session_pb2.TurnSummary(finish_reason=99)
    assert only(session_pb2.GenerateEvent(summary=turn)).finish_reason == "unknown"


async def sent(client, service, content="hi", **arguments) -> session_pb2.GenerateRequest:
    """The request that reaches the service."""
    session = await client.create_session()
    service.requests.get()
    await session.generate(content, **arguments)
    return service.requests.get()


async def test_arguments_left_out_are_left_to_the_service(client, service):
    request = await sent(client, service)
    expected = session_pb2.GenerateRequest(
        session_id="s0",
        text="hi",
        sampling={},
        draft=session_pb2.DRAFT_MODE_AUTO,
        request_id=request.request_id,
    )
    assert request == expected
    assert len(request.request_id) == 32, "made here, so that a turn can be asked for again"
    assert (await sent(client, service)).request_id != request.request_id


async def test_every_argument_reaches_its_field(client, service):
    sampling = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.75,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "frequency_penalty": -1.0,
        "presence_penalty": 2.0,
        "logit_bias": {5: -1.5, 6: 1.0},
    }
    plain = {"max_new_tokens": 9, "seed": 2**64 - 1, "max_window": 0, "logprobs": 0}
    plain |= {"stop_token_ids": [5, 6], "ignore_end_tokens": True, "min_new_tokens": 4}
    plain |= {"parse_control_tokens": True}
    request = await sent(
        client,
        service,
        stop=["a", "b"],
        draft="ngram",
        loop="synchronous",
        request_id="mine",
        **sampling,
        **plain,
    )
    expected = session_pb2.GenerateRequest(
        session_id="s0",
        text="hi",
        sampling=types_pb2.SamplingParams(**sampling),
        stop=["a", "b"],
        draft=session_pb2.DRAFT_MODE_NGRAM,
        loop=session_pb2.LOOP_MODE_SYNCHRONOUS,
        request_id="mine",
        **plain,
    )
    assert request == expected
    unset = set(request.DESCRIPTOR.fields_by_name) - {
        field.name for field, _ in request.ListFields()
    }
    assert unset == {"tokens", "chat"}


async def test_zero_logprobs_and_none_differ_on_the_wire(client, service):
    assert (await sent(client, service, logprobs=0)).HasField("logprobs")
    assert not (await sent(client, service, logprobs=None)).HasField("logprobs")


@pytest.mark.parametrize("content", [[1, 2], (1, 2), range(1, 3)])
async def test_integers_are_sent_as_tokens(client, service, content):
    assert list((await sent(client, service, content)).tokens.tokens) == [1, 2]


async def test_messages_and_dictionaries_are_sent_as_chat(client, service):
    content = [outrider.ChatMessage("system", "be"), {"role": "user", "content": "hi"}]
    messages = (await sent(client, service, content)).chat.messages
    assert [(m.role, m.content) for m in messages] == [("system", "be"), ("user", "hi")]


async def test_a_message_is_sent_with_all_that_it_has(client, service):
    call = outrider.ToolCall("add", {"a": 1}, "id")
    usual = {"id": "id", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    content = [
        outrider.ChatMessage("assistant", reasoning_content="", tool_calls=[call]),
        {"role": "assistant", "content": None, "reasoning_content": "", "tool_calls": [usual]},
        {"role": "tool", "content": [{"type": "text", "text": "1"}], "tool_call_id": "id"},
    ]
    context = {"tools": [{"b": 1, "a": 2}], "template_options": {"enable_thinking": False}}
    chat = (await sent(client, service, content, **context)).chat
    assert chat.messages[0] == chat.messages[1]
    assert chat.messages[0].HasField("reasoning_content")
    assert chat.messages[0].tool_calls[0].arguments == '{"a": 1}'
    told = [_chat.chat_message(message) for message in chat.messages]
    assert (told[0].reasoning_content, told[0].tool_calls) == ("", (call,))
    assert (told[2].content, told[2].tool_call_id) == ([{"type": "text", "text": "1"}], "id")
    assert [(part.type, part.text) for part in chat.messages[2].parts] == [("text", "1")]
    assert (chat.tools, chat.documents) == ('[{"b": 1, "a": 2}]', "")
    assert chat.template_options == '{"enable_thinking": false}'


@pytest.mark.parametrize("part", [{"type": "text", "txt": "hello"}, {"type": "text"}, {}, "hello"])
async def test_a_part_of_text_has_its_text(client, service, part):
    with pytest.raises(outrider.InvalidRequestError, match="has parts of the form"):
        await sent(client, service, [{"role": "user", "content": [part]}])


async def test_of_a_part_that_is_not_text_the_kind_is_sent(client, service):
    content = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    (message,) = (await sent(client, service, content)).chat.messages
    assert [(part.type, part.text) for part in message.parts] == [("image_url", "")]


async def test_a_single_stop_text_is_not_taken_apart(client, service):
    assert list((await sent(client, service, stop="end")).stop) == ["end"]


async def test_an_empty_text_is_the_services_to_refuse(client, service):
    assert (await sent(client, service, "")).WhichOneof("input") == "text"


@pytest.mark.parametrize(
    ("field", "content", "arguments"),
    [
        ("input", 5, {}),
        ("input", b"bytes", {}),
        ("input", bytearray(b"bytes"), {}),
        ("input", {1, 2}, {}),
        ("input", [], {}),
        ("input", {"role": "user", "content": "hi"}, {}),
        ("input", [1, "two"], {}),
        ("input", [1.5], {}),
        ("input", [2**31], {}),
        ("input.content", [{"role": "user"}], {}),
        ("input", [{"content": "x"}], {}),
        ("input", [{"role": "user", "content": "x"}, 3], {}),
        ("input", [{"role": "user", "content": "x", "colour": "red"}], {}),
        ("input.content", [{"role": "user", "content": None}], {}),
        ("input.content", [{"role": "user", "content": 3}], {}),
        ("input.content", [{"role": "user", "content": ["x"]}], {}),
        ("input.tool_calls", [{"role": "user", "content": "x", "tool_calls": [{}]}], {}),
        ("tools", "hi", {"tools": []}),
        ("template_options", [1, 2], {"template_options": {}}),
        ("tools", [{"role": "user", "content": "x"}], {"tools": [{"f": print}]}),
        ("documents", [{"role": "user", "content": "x"}], {"documents": [float("nan")]}),
        ("input", "\ud800", {}),
        ("seed", "hi", {"seed": -1}),
        ("seed", "hi", {"seed": 2**64}),
        ("seed", "hi", {"seed": 1.0}),
        ("max_new_tokens", "hi", {"max_new_tokens": 2**40}),
        ("max_window", "hi", {"max_window": "8"}),
        ("logprobs", "hi", {"logprobs": 1.5}),
        ("sampling.temperature", "hi", {"temperature": "hot"}),
        ("sampling.top_p", "hi", {"top_p": 10**400}),
        ("sampling.top_k", "hi", {"top_k": 0.5}),
        ("sampling.logit_bias", "hi", {"logit_bias": [1]}),
        ("sampling.logit_bias", "hi", {"logit_bias": {"a": 1.0}}),
        ("draft", "hi", {"draft": "both"}),
        ("draft", "hi", {"draft": None}),
        ("loop", "hi", {"loop": "fast"}),
        ("stop", "hi", {"stop": 3}),
        ("stop", "hi", {"stop": [3]}),
        ("stop", "hi", {"stop": b"x"}),
        ("stop", "hi", {"stop": {"a": 1}}),
        ("request_id", "hi", {"request_id": 3}),
        ("stop_token_ids", "hi", {"stop_token_ids": "12"}),
        ("stop_token_ids", "hi", {"stop_token_ids": ["a"]}),
        ("stop_token_ids", "hi", {"stop_token_ids": 3}),
        ("ignore_end_tokens", "hi", {"ignore_end_tokens": 1}),
        ("parse_control_tokens", "hi", {"parse_control_tokens": "yes"}),
        ("min_new_tokens", "hi", {"min_new_tokens": 1.5}),
    ],
)
async def test_what_a_message_cannot_carry_is_refused_at_once(
    client, service, field, content, arguments
):
    session = await client.create_session()
    service.requests.get()
    with pytest.raises(outrider.InvalidRequestError) as caught:
        session.generate(content, **arguments)
    assert caught.value.field == field
    assert caught.value.reason == "INVALID_REQUEST"
    assert service.requests.empty()


async def test_ranges_are_the_services_to_check(client, service):
    request = await sent(client, service, temperature=-3.0, top_k=-1, max_new_tokens=0)
    assert (request.sampling.temperature, request.sampling.top_k) == (-3.0, -1)
