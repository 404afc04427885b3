"""What is said of an argument that cannot be sent: what was given and what is wanted, in a user's words."""

from __future__ import annotations

import outrider
import pytest

CALLS = 'calls of the form {"function": {"name": ..., "arguments": ...}}'
INPUT = "input is text, a list of token ids or a list of chat messages, not"
NO_CONTENT = (
    "a chat message of 'user' has no content: give it text, which may be empty; only one with tool_calls "
    "does without"
)
PARTS = 'parts of the form {"type": "text", "text": ...}'


def user(content: object) -> list[object]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (5, f"{INPUT} 5"),
        (["a"], f"{INPUT} ['a']"),
        ([[1]], f"{INPUT} [[1]]"),
        ([], "input is empty: give at least one token id or chat message"),
        ([1.5], "a token id of input is an integer, not 1.5"),
        ([1, True], "a token id of input is an integer, not True"),
        ([2**31], "a token id of input is too large: 2147483648"),
        ([-(2**31) - 1], "a token id of input is too small: -2147483649"),
        ([10**5000], "a token id of input is too large: a value of type int"),
        ([1, "a"], "input begins with a token id, so it holds only these, not 'a'"),
        ([1, {"a": 1}], "input begins with a token id, so it holds only these, not {'a': 1}"),
        ([*user("x"), 5], "input begins with a chat message, so it holds only these, not 5"),
        (user(5), f"input.content is text, or a list of {PARTS}, not 5"),
        (user([5]), f"input.content has {PARTS}, not 5"),
        (user(None), NO_CONTENT),
        ([{"role": "user", "tool_calls": []}], NO_CONTENT),
        ([outrider.ChatMessage("user", None)], NO_CONTENT),
        ([{"role": None}], 'input has chat messages of "role" and "content", not {\'role\': None}'),
        (
            [{"role": "user", "content": "x", "colour": 1}],
            "a chat message has no field 'colour'; it has role, content, reasoning_content, name, "
            "tool_calls, tool_call_id",
        ),
        ([{"role": "assistant", "tool_calls": 5}], f"input.tool_calls is a list of {CALLS}, not 5"),
        ([{"role": "assistant", "tool_calls": [5]}], f"input.tool_calls has {CALLS}, not 5"),
    ],
)
async def test_an_input_is_told_what_it_is_and_what_is_wanted(client, content, message):
    session = await client.create_session()
    with pytest.raises(outrider.InvalidRequestError) as caught:
        session.generate(content)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 10**10}, "max_new_tokens is too large: 10000000000"),
        ({"max_new_tokens": -(10**10)}, "max_new_tokens is too small: -10000000000"),
        ({"top_k": 2**31}, "sampling.top_k is too large: 2147483648"),
        ({"temperature": 10**309}, f"sampling.temperature is too large: 1{'0' * 36}..."),
        ({"seed": -1}, "seed is 0 to 18446744073709551615, not -1"),
        ({"stop": 5}, "stop is a text or a list of texts, not 5"),
        ({"stop": ["a", 5]}, "each of stop is text, not 5"),
        ({"logit_bias": {"1": 1}}, "a token id of sampling.logit_bias is an integer, not '1'"),
        ({"logit_bias": {1: "x"}}, "a bias of sampling.logit_bias is a number, not 'x'"),
        ({"stop_token_ids": ["a"]}, "a token id of stop_token_ids is an integer, not 'a'"),
        ({"tools": []}, "tools goes with chat messages only, not with text"),
    ],
)
async def test_an_argument_is_told_what_it_is_and_what_is_wanted(client, arguments, message):
    session = await client.create_session()
    with pytest.raises(outrider.InvalidRequestError) as caught:
        session.generate("hi", **arguments)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "name",
    [
        *("max_new_tokens", "max_window", "logprobs", "min_new_tokens", "seed", "top_k"),
        *("temperature", "top_p", "min_p", "repetition_penalty", "timeout_ms"),
    ],
)
async def test_true_is_no_number(client, name):
    session = await client.create_session()
    with pytest.raises(outrider.InvalidRequestError, match=r"is an? (integer|number), not True"):
        session.generate("hi", **{name: True})


async def test_true_is_no_position_and_no_size(client, service):
    session = await client.create_session()
    service.requests.get()
    for call in (
        *(session.rewind(True), session.fork(True), client.create_session(ttl_seconds=True)),
        anext(client.sessions(page_size=True)),
    ):
        with pytest.raises(outrider.InvalidRequestError, match="is an integer, not True"):
            await call
    for arguments in (
        {"logit_bias": {True: 1}},
        {"logit_bias": {1: True}},
        {"stop_token_ids": [True]},
    ):
        with pytest.raises(outrider.InvalidRequestError, match="not True"):
            session.generate("hi", **arguments)
    with pytest.raises(outrider.InvalidRequestError, match="from_index is an integer, not True"):
        session.attach(from_index=True)
    with pytest.raises(outrider.InvalidRequestError, match="resume_ms is a number, not True"):
        outrider.AsyncClient("127.0.0.1:1", resume_ms=True)
    assert service.requests.empty()


async def test_a_page_size_of_zero_is_left_to_the_service(client, service):
    service.add_sessions(3)
    assert len([info async for info in client.sessions(page_size=0)]) == 3
    assert service.requests.get().page_size == 0
