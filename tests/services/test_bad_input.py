"""A bad request is refused by code, reason and field, before anything is computed or written."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from outrider.v1 import session_pb2, types_pb2
from outrider_server.session.records import OWNER

from .tiny_models import CONTEXT_TOKENS, VOCABULARY_SIZE
from .wire import refusal

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
NAN, INFINITY = float("nan"), float("inf")
SAMPLING = {
    "temperature": [-0.1, 100.1, NAN, INFINITY],
    "top_p": [0.0, 1.1, NAN, -1.0],
    "top_k": [-1],
    "min_p": [-0.1, 1.1, NAN],
    "repetition_penalty": [0.0, 100.1, -1.0, NAN, INFINITY],
    "frequency_penalty": [-100.1, 100.1, NAN],
    "presence_penalty": [-100.1, 100.1, NAN],
    "logit_bias": [
        {VOCABULARY_SIZE: 1.0},
        {-1: 1.0},
        {1: NAN},
        {1: -INFINITY},
        dict.fromkeys(range(1025), 0.5),
    ],
}
TURN: dict[str, list[dict[str, Any]]] = {
    "input": [{}, {"text": "word " * CONTEXT_TOKENS}],
    "text": [{"text": ""}],
    "tokens": [
        {"tokens": session_pb2.TokenInput()},
        {"tokens": session_pb2.TokenInput(tokens=[1, VOCABULARY_SIZE])},
        {"tokens": session_pb2.TokenInput(tokens=[-1])},
    ],
    "chat": [{"chat": session_pb2.ChatInput()}, {"chat": {"messages": [{"role": "owner"}]}}],
    "chat.tools": [{"chat": {"messages": [{"role": "user"}], "tools": "{"}}],
    "max_new_tokens": [{"text": "x", "max_new_tokens": count} for count in (0, -1)],
    "max_window": [{"text": "x", "max_window": window} for window in (-1, 8)],
    "logprobs": [{"text": "x", "logprobs": count} for count in (-1, 21)],
    "stop": [{"text": "x", "stop": stop} for stop in (["a"] * 17, [""], ["a" * 257])],
    "request_id": [{"text": "x", "request_id": "r" * 129}],
    "stop_token_ids": [
        {"text": "x", "stop_token_ids": ids} for ids in ([1, VOCABULARY_SIZE], [-1], [1] * 1025)
    ],
    "min_new_tokens": [
        {"text": "x", "min_new_tokens": -1},
        {"text": "x", "min_new_tokens": 257},
        {"text": "x", "min_new_tokens": 3, "max_new_tokens": 2},
    ],
    "parse_control_tokens": [
        {"tokens": session_pb2.TokenInput(tokens=[1]), "parse_control_tokens": True},
        {"chat": session_pb2.ChatInput(), "parse_control_tokens": True},
    ],
    "draft": [{"text": "x", "draft": 99}],
    "loop": [{"text": "x", "loop": 99}],
}
CASES = [
    *(
        pytest.param({"text": "x", "sampling": {name: value}}, f"sampling.{name}", id=f"{name}-{i}")
        for name, values in SAMPLING.items()
        for i, value in enumerate(values)
    ),
    *(
        pytest.param(fields, name, id=f"{name}-{i}")
        for name, cases in TURN.items()
        for i, fields in enumerate(cases)
    ),
]


@pytest.mark.parametrize(("fields", "field"), CASES)
async def test_a_bad_field_is_named_and_nothing_is_done(service, target, fields, field):
    session = await service.client.create_session()
    steps = target.engine.counters.verify_steps
    request = session_pb2.GenerateRequest(session_id=session.id)
    sampling = fields.get("sampling")
    if sampling is not None:
        bias = sampling.get("logit_bias", {})
        request.sampling.CopyFrom(types_pb2.SamplingParams(**{**sampling, "logit_bias": bias}))
    rest = {name: value for name, value in fields.items() if name != "sampling"}
    request.MergeFrom(session_pb2.GenerateRequest(**rest))
    refused = await refusal(service.stub.Generate(request))
    assert (refused.code, refused.reason) == INVALID
    assert refused.field == field
    assert refused.message
    record = await service.ledger.get_session(session.id, OWNER)
    assert (record.length, record.turn_count, record.epoch) == (0, 0, 0)
    assert target.engine.counters.verify_steps == steps


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Generate", session_pb2.GenerateRequest(session_id="nobody", text="x")),
        ("Generate", session_pb2.GenerateRequest(text="x")),
        ("GetSession", session_pb2.GetSessionRequest(session_id="nobody")),
        ("DeleteSession", session_pb2.DeleteSessionRequest(session_id="nobody")),
    ],
)
async def test_an_unknown_session_is_not_found(service, method, request_):
    refused = await refusal(getattr(service.stub, method)(request_))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_session_runs_one_turn_at_a_time(service):
    session = await service.client.create_session()
    reply = session.generate("x", max_new_tokens=250, draft="off", logit_bias={0: -100.0})
    await anext(reply)
    second = session_pb2.GenerateRequest(session_id=session.id, text="y")
    delete = session_pb2.DeleteSessionRequest(session_id=session.id)
    for call in (service.stub.Generate(second), service.stub.DeleteSession(delete)):
        refused = await refusal(call)
        assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.reason == "TURN_RUNNING"
    await reply.read()
    assert len(reply.tokens) == 250
    assert (await session.info()).turn_count == 1


async def test_a_request_id_is_used_once(service):
    session = await service.client.create_session()
    await session.generate("x", max_new_tokens=2, request_id="one").read()
    again = session_pb2.GenerateRequest(session_id=session.id, text="x", request_id="one")
    refused = await refusal(service.stub.Generate(again))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert (await session.info()).position == session.position
    other = await service.client.create_session()
    await other.generate("x", max_new_tokens=2, request_id="one").read()


async def test_a_session_of_another_target_is_refused(service):
    record = await service.ledger.create_session(OWNER, "another model")
    request = session_pb2.GenerateRequest(session_id=record.session_id, text="x")
    refused = await refusal(service.stub.Generate(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "junk"}, "page_token"),
    ],
)
async def test_a_bad_page_is_refused(service, fields, field):
    call = service.stub.ListSessions(session_pb2.ListSessionsRequest(**fields))
    refused = await refusal(call)
    assert (refused.code, refused.reason, refused.field) == (*INVALID, field)


async def test_pages_list_every_session_once_newest_first(service):
    created = [(await service.client.create_session()).id for _ in range(5)]
    listed = [info.id async for info in service.client.sessions(page_size=2)]
    assert listed == created[::-1]


async def test_positions_that_a_session_does_not_have_are_refused(service):
    session = await service.client.create_session()
    await session.generate("x", max_new_tokens=4, seed=1).read()
    for position in (-1, session.position + 1, 2**31 - 1):
        for message, call in (
            (session_pb2.RewindSessionRequest, service.stub.RewindSession),
            (session_pb2.ForkSessionRequest, service.stub.ForkSession),
        ):
            refused = await refusal(call(message(session_id=session.id, position=position)))
            assert (refused.code, refused.reason, refused.field) == (*INVALID, "position")
            assert str(session.position) in refused.message
            unknown = await refusal(call(message(session_id="unknown", position=0)))
            assert unknown.code is grpc.StatusCode.NOT_FOUND
    assert (await session.info()).position == session.position


@pytest.mark.parametrize(
    ("megabytes", "code", "says"),
    [
        (5, grpc.StatusCode.INVALID_ARGUMENT, "this service takes at most"),
        (17, grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    ],
)
async def test_a_message_above_the_limit_is_told_from_a_busy_service_and_the_connection_lives(
    service, megabytes: int, code: grpc.StatusCode, says: str
):
    session = await service.client.create_session()
    request = session_pb2.GenerateRequest(session_id=session.id, text="x" * (megabytes << 20))
    with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
        _ = [message async for message in service.stub.Generate(request)]
    assert caught.value.code() is code
    assert rpc_status.from_call(caught.value) is None or code is not (
        grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert (await session.info()).turn_count == 0
