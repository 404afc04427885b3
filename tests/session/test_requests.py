"""A turn as it was asked for, and as the ledger gives it back."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from outrider.v1 import session_pb2
from outrider_server.core.errors import InvalidRequest
from outrider_server.core.surroundings import CHANCE, random_id
from outrider_server.core.types import Draw
from outrider_server.session.ledger.ledger import TurnRecord
from outrider_server.session.requests import TurnRequest, parse_turn, recorded_request, what_differs

from .sample_tokenizers import END
from .test_model import served

ENDS = {"stop_token_ids": [5, 3], "ignore_end_tokens": True, "min_new_tokens": 4}


def parsed(**fields: Any) -> TurnRequest:
    message = session_pb2.GenerateRequest(text="x", seed=1, request_id="one", **fields)
    return parse_turn(message, served((7,), END), CHANCE, random_id)


def record_of(request: TurnRequest, *left_out: str) -> TurnRecord:
    parameters = json.loads(request.parameters())
    kept = {name: value for name, value in parameters.items() if name not in left_out}
    return TurnRecord(
        session_id="s",
        turn_index=0,
        request_id=request.request_id,
        start_position=0,
        prompt_tokens=1,
        parameters=json.dumps(kept),
    )


def test_what_ends_a_turn_is_recorded_and_read_back():
    request = parsed(**ENDS)
    read = recorded_request(record_of(request))
    assert (read.stop_token_ids, read.ignore_end_tokens, read.min_new_tokens) == ((5, 3), True, 4)
    assert read.parameters() == request.parameters()
    assert what_differs(request, True, record_of(request)) == []
    for name in ENDS:
        other = parsed(**{key: value for key, value in ENDS.items() if key != name})
        assert what_differs(other, True, record_of(request)) == [name]


def test_a_turn_recorded_before_these_were_asked_for_is_the_same_without_them():
    record = record_of(parsed(), *ENDS)
    assert what_differs(parsed(), True, record) == []
    assert what_differs(parsed(min_new_tokens=1), True, record) == ["min_new_tokens"]
    assert recorded_request(record).end_tokens((7,)) == (7,)


def test_a_turn_ends_with_the_models_tokens_and_its_own():
    assert parsed().end_tokens((7, 1)) == (1, 7)
    assert parsed(stop_token_ids=[7, 3]).end_tokens((7, 1)) == (1, 3, 7)
    assert parsed(stop_token_ids=[3], ignore_end_tokens=True).end_tokens((7, 1)) == (3,)


def test_some_token_must_be_left_to_draw():
    everything = {"stop_token_ids": range(600)}
    assert len(parsed(**everything).stop_token_ids) == 600
    with pytest.raises(InvalidRequest) as refused:
        parsed(min_new_tokens=1, **everything)
    assert refused.value.field == "stop_token_ids"


def test_what_ends_a_turn_is_withheld_as_long_as_it_must_not_end():
    request = parsed(stop_token_ids=[3], min_new_tokens=2)
    draw = request.draw(10, (7, 1))
    assert (draw.withheld, draw.withheld_until) == ((1, 3, 7), 12)
    plain = parsed(stop_token_ids=[3])
    assert plain.draw(10, (7, 1)) == Draw(plain.sampling, 1, 10)
    assert parsed(min_new_tokens=2, ignore_end_tokens=True).draw(10, (7, 1)).withheld_until == 0


CHAT = session_pb2.ChatInput(
    tools='[{"a": 1}]',
    documents='[{"bb": 2}]',
    template_options='{"ccc": 3}',
    messages=[
        session_pb2.ChatMessage(role="user", content="four"),
        session_pb2.ChatMessage(
            role="user", parts=[session_pb2.ContentPart(text=text) for text in ("fi", "ve")]
        ),
        session_pb2.ChatMessage(
            role="assistant",
            reasoning_content="thinks",
            tool_calls=[session_pb2.ToolCall(name="call", arguments='{"x": 10}')],
        ),
    ],
)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"text": "\N{GRINNING FACE}" * 3}, 3),
        ({"tokens": session_pb2.TokenInput(tokens=[1, 2])}, 0),
        ({"chat": CHAT}, 10 + 11 + 10 + 4 + 4 + 6 + 9),
    ],
    ids=["text", "tokens", "chat"],
)
def test_what_is_still_to_be_read_is_counted_in_characters(asked: dict[str, Any], size: int):
    message = session_pb2.GenerateRequest(seed=1, **asked)
    assert parse_turn(message, served((7,), END), CHANCE, random_id).size == size


def test_a_seed_and_an_id_that_are_left_open_are_what_the_process_draws() -> None:
    message = session_pb2.GenerateRequest(text="x")
    turn = parse_turn(message, served((7,), END), Random(3), lambda: "drawn")
    assert (turn.seed, turn.request_id) == (Random(3).getrandbits(53), "drawn")
