"""Every method of the three services, what a plausible caller of it says, and the codes that it documents."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from outrider.v1 import draft_pb2, session_pb2, target_pb2, types_pb2

SESSIONS = tuple(f"engine-{number}" for number in range(5))
"""Sessions of target and draft: fewer than slots, so that calls meet each other."""

Say = Callable[[random.Random, str], list[Message]]
"""The messages of one call; the session is one that the session service has."""


@dataclass(frozen=True)
class Method:
    """`codes` beside OK and INVALID_ARGUMENT; what the caller causes itself counts for every method."""

    path: str
    say: Say
    codes: frozenset[StatusCode]


def _sampling(draws: random.Random) -> types_pb2.SamplingParams:
    sampling = types_pb2.SamplingParams(
        temperature=draws.choice((0.0, 0.7, 1.0)), top_k=draws.choice((0, 40))
    )
    if draws.random() < 0.3:
        sampling.logit_bias[draws.randrange(4096)] = draws.choice((-100.0, 5.0))
    return sampling


def _tokens(draws: random.Random, most: int) -> list[int]:
    return [draws.randrange(4096) for _ in range(draws.randrange(1, most))]


def _generate(draws: random.Random, session: str) -> list[Message]:
    request = session_pb2.GenerateRequest(
        session_id=session,
        max_new_tokens=draws.choice((1, 3, 12)),
        sampling=_sampling(draws),
        seed=draws.randrange(9),
        draft=draws.randrange(5),
        loop=draws.randrange(4),
        request_id=draws.choice(("", "one", "two")),
    )
    match draws.randrange(3):
        case 0:
            request.text = draws.choice(("def f(", "x", "import os\n"))
        case 1:
            request.tokens.tokens.extend(_tokens(draws, 6))
        case 2:
            request.chat.messages.add(role="user", content="hello")
    if draws.random() < 0.2:
        request.stop.append("\n")
    if draws.random() < 0.2:
        request.logprobs = draws.randrange(21)
    return [request]


def _open(draws: random.Random) -> target_pb2.VerifyOpen:
    return target_pb2.VerifyOpen(
        session_id=draws.choice(SESSIONS),
        epoch=draws.choice((1, 1, 2, 3)),
        committed_length=draws.choice((0, 0, 3)),
        sampling=_sampling(draws),
        seed=draws.randrange(9),
    )


def _step(draws: random.Random, start: int) -> target_pb2.VerifyStep:
    context, proposed = _tokens(draws, 6), _tokens(draws, 7)[1:]
    return target_pb2.VerifyStep(
        start_position=start,
        context_tokens=context,
        proposed_tokens=proposed,
        survival=[0.5] * draws.randrange(len(proposed) + 1),
    )


def _verify_turns(draws: random.Random, _: str) -> list[Message]:
    messages: list[Message] = []
    for turn in range(draws.randrange(1, 4)):
        requests = [target_pb2.VerifyRequest(open=_open(draws))]
        steps = (_step(draws, 0) for _ in range(draws.randrange(3)))
        requests += (target_pb2.VerifyRequest(step=step) for step in steps)
        said = [target_pb2.TurnLineRequest(turn=turn, request=request) for request in requests]
        together = [said] if draws.random() < 0.5 else [[request] for request in said]
        messages += [target_pb2.VerifyTurnsRequest(turns=turns) for turns in together]
        if draws.random() < 0.5:
            end = target_pb2.TurnLineRequest(turn=turn, end=target_pb2.TurnLineEnd())
            messages.append(target_pb2.VerifyTurnsRequest(turns=[end]))
    return messages


def _draft(draws: random.Random, fingerprint: str) -> list[Message]:
    opening = draft_pb2.DraftOpen(
        session_id=draws.choice(SESSIONS),
        epoch=draws.choice((1, 1, 2, 3)),
        sampling=_sampling(draws),
        seed=draws.randrange(9),
        lead=draws.choice((1, 8, 64)),
        burst=draws.choice((0, 1)),
        vocabulary_fingerprint=fingerprint,
    )
    messages: list[Message] = [draft_pb2.DraftRequest(open=opening)]
    start = 0
    for _ in range(draws.randrange(4)):
        commit = draft_pb2.DraftCommit(start_position=start, tokens=_tokens(draws, 5))
        start += len(commit.tokens)
        messages.append(draft_pb2.DraftRequest(commit=commit))
    return messages


def _one(make: Callable[[random.Random, str], Message]) -> Say:
    return lambda draws, session: [make(draws, session)]


def _engine_calls(service: str) -> list[Method]:
    refused = frozenset({StatusCode.ABORTED, StatusCode.FAILED_PRECONDITION})

    def named(draws: random.Random) -> dict[str, object]:
        return {"session_id": draws.choice(SESSIONS), "epoch": draws.choice((1, 2, 3))}

    return [
        Method(
            f"{service}/DescribeModel",
            _one(
                lambda draws, _: target_pb2.DescribeModelRequest(
                    with_tokenizer=draws.random() < 0.2
                )
            ),
            frozenset(),
        ),
        Method(
            f"{service}/Release",
            _one(lambda draws, _: target_pb2.ReleaseRequest(**named(draws))),
            refused,
        ),
        Method(
            f"{service}/Fork",
            _one(
                lambda draws, _: target_pb2.ForkRequest(
                    **named(draws),
                    fork_session_id=draws.choice(SESSIONS),
                    length=draws.randrange(5),
                )
            ),
            refused | {StatusCode.ALREADY_EXISTS, StatusCode.RESOURCE_EXHAUSTED},
        ),
    ]


_UNKNOWN = frozenset({StatusCode.NOT_FOUND})
_BUSY = _UNKNOWN | {StatusCode.FAILED_PRECONDITION}
_TURN = _BUSY | {StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE, StatusCode.ABORTED}
_STEP = frozenset({StatusCode.ABORTED, StatusCode.OUT_OF_RANGE, StatusCode.RESOURCE_EXHAUSTED})

TURN_CODES = _STEP | {StatusCode.FAILED_PRECONDITION}
"""Beside INVALID_ARGUMENT: how a turn of the target may fail."""

SESSION_METHODS = (
    Method(
        "outrider.v1.SessionService/CreateSession",
        _one(lambda draws, _: session_pb2.CreateSessionRequest()),
        frozenset(),
    ),
    Method(
        "outrider.v1.SessionService/GetSession",
        _one(
            lambda draws, session: session_pb2.GetSessionRequest(
                session_id=session, with_tokens=True
            )
        ),
        _UNKNOWN,
    ),
    Method(
        "outrider.v1.SessionService/ListSessions",
        _one(lambda draws, _: session_pb2.ListSessionsRequest(page_size=draws.randrange(6))),
        frozenset(),
    ),
    Method(
        "outrider.v1.SessionService/DeleteSession",
        _one(
            lambda draws, session: session_pb2.DeleteSessionRequest(
                session_id=draws.choice((session, "gone", "gone"))
            )
        ),
        _BUSY,
    ),
    Method(
        "outrider.v1.SessionService/ForkSession",
        _one(lambda draws, session: session_pb2.ForkSessionRequest(session_id=session)),
        _BUSY,
    ),
    Method(
        "outrider.v1.SessionService/RewindSession",
        _one(lambda draws, session: session_pb2.RewindSessionRequest(session_id=session)),
        _BUSY | {StatusCode.UNAVAILABLE, StatusCode.ABORTED},
    ),
    Method("outrider.v1.SessionService/Generate", _generate, _TURN | {StatusCode.ALREADY_EXISTS}),
    Method(
        "outrider.v1.SessionService/Attach",
        _one(
            lambda draws, session: session_pb2.AttachRequest(
                session_id=session,
                from_index=draws.choice((0, 0, 1)),
                request_id=draws.choice(("", "one")),
            )
        ),
        _TURN | {StatusCode.OUT_OF_RANGE},
    ),
    Method(
        "outrider.v1.SessionService/Describe",
        _one(lambda draws, _: session_pb2.DescribeRequest()),
        frozenset(),
    ),
    Method(
        "grpc.health.v1.Health/Check",
        _one(lambda draws, _: health_pb2.HealthCheckRequest()),
        _UNKNOWN,
    ),
    Method(
        "grpc.health.v1.Health/List",
        _one(lambda draws, _: health_pb2.HealthListRequest()),
        frozenset(),
    ),
    Method(
        "grpc.health.v1.Health/Watch",
        _one(lambda draws, _: health_pb2.HealthCheckRequest()),
        frozenset(),
    ),
)
TARGET_METHODS = (
    Method("outrider.v1.TargetService/VerifyTurns", _verify_turns, frozenset()),
    *_engine_calls("outrider.v1.TargetService"),
)
DRAFT_METHODS = (
    Method("outrider.v1.DraftService/Draft", _draft, TURN_CODES),
    *_engine_calls("outrider.v1.DraftService"),
)
