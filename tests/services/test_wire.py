"""The streams of target and draft, as any caller may use or misuse them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from outrider.v1 import draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc, types_pb2
from outrider_server.core.types import tokens_digest

from .harness import generate
from .one_turn import GREEDY, OneTurn, TurnFailed, answers, opening, refused_turn, step
from .tiny_models import CONTEXT_TOKENS, VOCABULARY_SIZE
from .wire import raw_call, read_refusal, refusal

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
JUNK = b"\xff\xfe\xfd"


@pytest.fixture
async def channels(service, stack) -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    """Channels to the three services, by the service's name."""
    async with (
        grpc.aio.insecure_channel(stack.target) as target,
        grpc.aio.insecure_channel(stack.draft) as draft,
        grpc.aio.insecure_channel(f"unix:{stack.folder}/session") as session,
    ):
        yield {"TargetService": target, "DraftService": draft, "SessionService": session}


@pytest.fixture
def target_stub(channels) -> target_pb2_grpc.TargetServiceStub:
    return target_pb2_grpc.TargetServiceStub(channels["TargetService"])


@pytest.fixture
def draft_stub(channels) -> draft_pb2_grpc.DraftServiceStub:
    return draft_pb2_grpc.DraftServiceStub(channels["DraftService"])


@pytest.mark.parametrize(
    "method",
    [
        "TargetService/VerifyTurns",
        "TargetService/DescribeModel",
        "TargetService/Release",
        "DraftService/Draft",
        "SessionService/Generate",
        "SessionService/GetSession",
        "SessionService/Attach",
    ],
)
async def test_bytes_that_are_no_message_are_refused_without_a_word_of_ours(channels, method):
    refused = await refusal(raw_call(channels[method.partition("/")[0]], method, JUNK))
    assert (refused.code, refused.reason) == INVALID
    assert refused.message == "the message is not a valid protobuf of this method"


async def test_bytes_that_are_no_message_in_the_middle_of_a_stream_are_refused(channels):
    turn = target_pb2.TurnLineRequest(request=opening("junk"))
    first = target_pb2.VerifyTurnsRequest(turns=[turn]).SerializeToString()
    call = raw_call(channels["TargetService"], "TargetService/VerifyTurns", first, JUNK)
    assert (await refusal(call)).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_turn_has_to_begin_with_open(target_stub):
    for first in (target_pb2.VerifyRequest(), step(0, [1])):
        refused = await refused_turn(target_stub, first)
        assert (refused.code, refused.reason, refused.field) == (*INVALID, "open")


async def test_a_stream_to_the_draft_has_to_begin_with_open(draft_stub):
    commit = draft_pb2.DraftRequest(commit=draft_pb2.DraftCommit(tokens=[1]))
    for first in ([], [draft_pb2.DraftRequest()], [commit]):
        refused = await refusal(draft_stub.Draft(iter(first)))
        assert (refused.code, refused.reason, refused.field) == (*INVALID, "open")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (opening(""), "session_id"),
        (opening("s" * 65), "session_id"),
        (opening("s", 0), "epoch"),
        (opening("s", committed_length=-1), "committed_length"),
        (opening("s", committed_length=CONTEXT_TOKENS + 1), "committed_length"),
        (opening("s", generated_from=-1), "generated_from"),
        (opening("s", logprobs=21), "logprobs"),
        (opening("s", withheld_token_ids=[VOCABULARY_SIZE]), "withheld_token_ids"),
        (opening("s", withheld_token_ids=range(VOCABULARY_SIZE)), "withheld_token_ids"),
        (opening("s", min_new_tokens=-1), "min_new_tokens"),
    ],
)
async def test_an_open_out_of_range_is_refused(target_stub, request_, field):
    refused = await refused_turn(target_stub, request_)
    assert (refused.code, refused.reason, refused.field) == (*INVALID, field)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (step(0, []), "context_tokens"),
        (step(0, [1], [2] * 8), "proposed_tokens"),
        (step(0, [VOCABULARY_SIZE]), "tokens"),
        (step(0, [1], [-1]), "tokens"),
        (step(0, [1] * (CONTEXT_TOKENS + 1)), "start_position"),
        (step(0, [1], [2], [float("nan")]), "survival"),
        (step(0, [1], [2], [1.01]), "survival"),
        (step(0, [1], [2], [-0.01]), "survival"),
        (step(0, [1], [2], [float("inf")]), "survival"),
        (step(0, [1], [2], [0.5, 0.5]), "survival"),
        (step(0, [1], [], [0.5]), "survival"),
        (opening("bad step"), "step"),
    ],
)
async def test_a_step_out_of_range_is_refused(target_stub, request_, field):
    refused = await refused_turn(target_stub, opening("bad step"), request_)
    assert (refused.code, refused.reason, refused.field) == (*INVALID, field)


async def test_a_step_beyond_the_slot_is_refused_with_the_position(target_stub):
    for start in (5, -1):
        refused = await refused_turn(
            target_stub, opening("gap"), step(0, [1, 2, 3]), step(start, [4])
        )
        assert refused.code is grpc.StatusCode.OUT_OF_RANGE
        assert (refused.reason, refused.numbers) == ("POSITION_MISMATCH", {"position": "3"})


async def test_an_old_epoch_is_refused_with_the_current_one(target_stub):
    await answers(target_stub, opening("owned", 7), step(0, [1]))
    release = target_pb2.ReleaseRequest(session_id="owned", epoch=6)
    for refused in (
        await refused_turn(target_stub, opening("owned", 6)),
        await refusal(target_stub.Release(release)),
    ):
        assert refused.code is grpc.StatusCode.ABORTED
        assert (refused.reason, refused.numbers) == ("STALE_EPOCH", {"current_epoch": "7"})


async def test_a_repeated_step_is_answered_alike(target_stub):
    _, first, again = await answers(
        target_stub, opening("again"), step(0, [1, 2, 3]), step(0, [1, 2, 3])
    )
    _, rolled_back = await answers(
        target_stub, opening("again", committed_length=2), step(2, [3], [9, 9])
    )
    assert first.verdict.tokens == again.verdict.tokens == rolled_back.verdict.tokens
    assert (first.verdict.start_position, rolled_back.verdict.agreed) == (3, 0)


async def test_the_session_that_is_opened_twice_belongs_to_the_later_stream(target_stub):
    early, late = OneTurn(target_stub), OneTurn(target_stub)
    await early.ask(opening("twice"))
    await late.ask(opening("twice"))
    with pytest.raises(TurnFailed) as caught:
        await early.ask(step(0, [1]))
    assert read_refusal(caught.value.status).code is grpc.StatusCode.ABORTED
    assert (await late.ask(step(0, [1]))).HasField("verdict")
    await late.leave()


async def test_release_forgets_an_idle_session_and_refuses_an_open_one(target_stub):
    request = target_pb2.ReleaseRequest(session_id="released", epoch=1)
    turn = OneTurn(target_stub)
    await turn.ask(opening("released"))
    refused = await refusal(target_stub.Release(request))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    await turn.leave()
    for _ in range(2):
        await target_stub.Release(request)


def draft_opening(target, **fields) -> draft_pb2.DraftRequest:
    settings = {
        "session_id": "drafted",
        "epoch": 1,
        "lead": 4,
        "sampling": GREEDY,
        "vocabulary_fingerprint": target.engine.loaded.vocabulary_fingerprint,
    }
    return draft_pb2.DraftRequest(open=draft_pb2.DraftOpen(**(settings | fields)))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"lead": 0}, "lead"),
        ({"lead": 65}, "lead"),
        ({"epoch": 0}, "epoch"),
        ({"burst": 5}, "burst"),
        ({"vocabulary_size": -1}, "vocabulary_size"),
        ({"kept_length": -1}, "kept_length"),
        ({"committed_length": 2, "kept_length": 3}, "kept_length"),
    ],
)
async def test_a_draft_open_out_of_range_is_refused(draft_stub, target, fields, field):
    refused = await refusal(draft_stub.Draft(iter([draft_opening(target, **fields)])))
    assert (refused.code, refused.reason, refused.field) == (*INVALID, field)


async def test_a_caller_of_another_vocabulary_is_refused_by_the_draft(draft_stub, target):
    request = draft_opening(target, vocabulary_fingerprint="another")
    refused = await refusal(draft_stub.Draft(iter([request])))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.reason == "VOCABULARY_MISMATCH"


async def test_a_commit_that_the_draft_cannot_take_is_refused(draft_stub, target):
    def commit(start: int, *tokens: int) -> draft_pb2.DraftRequest:
        return draft_pb2.DraftRequest(
            commit=draft_pb2.DraftCommit(start_position=start, tokens=tokens)
        )

    async def turn(request: draft_pb2.DraftRequest) -> AsyncIterator[draft_pb2.DraftRequest]:
        yield draft_opening(target)
        yield request
        await asyncio.Event().wait()

    gap = await refusal(draft_stub.Draft(turn(commit(3, 1))))
    assert (gap.code, gap.reason) == (grpc.StatusCode.OUT_OF_RANGE, "POSITION_MISMATCH")
    junk = await refusal(draft_stub.Draft(turn(commit(0, VOCABULARY_SIZE))))
    assert (junk.code, junk.reason, junk.field) == (*INVALID, "tokens")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"lead": -1}, "lead"),
        ({"lead": 65}, "lead"),
        ({"burst": 0}, "burst"),
        ({"burst": 65}, "burst"),
        ({"lead": 0, "burst": -1}, "burst"),
    ],
)
async def test_a_commit_with_a_pace_that_cannot_be_is_refused(draft_stub, target, fields, field):
    commit = draft_pb2.DraftCommit(start_position=0, tokens=[1, 2], **fields)
    requests = [draft_opening(target), draft_pb2.DraftRequest(commit=commit)]
    refused = await refusal(draft_stub.Draft(iter(requests)))
    assert (refused.code, refused.reason, refused.field) == (*INVALID, field)


async def test_a_draft_rests_and_goes_on_as_its_commits_say(draft_stub, target):
    """Rests from the first commit on, gathers four, sends them in one message with their time."""
    call = draft_stub.Draft()
    await call.write(draft_opening(target, committed_length=2))
    assert (await call.read()).HasField("opened")
    resting = draft_pb2.DraftCommit(start_position=0, tokens=[1, 2], lead=0)
    await call.write(draft_pb2.DraftRequest(commit=resting))
    joined = draft_pb2.DraftCommit(start_position=2, tokens=[3, 4, 5], lead=4, burst=4)
    await call.write(draft_pb2.DraftRequest(commit=joined))
    message = (await call.read()).proposal
    assert (message.start_position, len(message.tokens), message.branch) == (5, 4, 0)
    assert message.draft_us > 0
    call.cancel()


async def test_a_draft_keeps_what_the_session_keeps_and_reads_the_rest_anew(draft_stub, target):
    before, after = [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 900, 800, 700]

    async def turn(tokens: list[int], length: int, **fields: Any) -> list[int]:
        """What the draft proposes after the tokens, of which it has to hold so many."""
        call = draft_stub.Draft()
        await call.write(draft_opening(target, committed_length=len(tokens), **fields))
        opened = (await call.read()).opened
        assert (opened.length, opened.digest) == (length, tokens_digest(tokens[:length]))
        commit = draft_pb2.DraftCommit(start_position=length, tokens=tokens[length:], burst=4)
        await call.write(draft_pb2.DraftRequest(commit=commit))
        proposed = list((await call.read()).proposal.tokens)
        call.cancel()
        return proposed

    first = await turn(before, 0, session_id="kept")
    second = await turn(after, 4, session_id="kept", epoch=2, kept_length=4)
    assert second == await turn(after, 0, session_id="anew") != first
    assert await turn(after, 7, session_id="kept", epoch=3) == second, "of before: all stays"


async def test_a_draft_proposes_no_id_that_its_target_lacks(draft_stub, target):
    """Of its 4096 ids it may use 300 only, of which an unbounded draw would hardly take 32 in a row."""
    call = draft_stub.Draft()
    sampled = types_pb2.SamplingParams(temperature=2.0)
    fields = {"committed_length": 2, "lead": 32, "vocabulary_size": 300, "sampling": sampled}
    await call.write(draft_opening(target, session_id="bounded", **fields))
    assert (await call.read()).HasField("opened")
    committed = draft_pb2.DraftCommit(start_position=0, tokens=[1, 2], burst=32)
    await call.write(draft_pb2.DraftRequest(commit=committed))
    tokens = (await call.read()).proposal.tokens
    assert len(tokens) == 32
    assert max(tokens) < 300
    call.cancel()


async def test_a_verdict_says_how_much_was_verified_and_what_reading_took(target_stub):
    _, first, second = await answers(
        target_stub,
        opening("counted"),
        step(0, [1, 2, 3], [9, 9], [0.9, 0.5]),
        step(2, [3], []),
    )
    assert first.verdict.HasField("verified")
    assert (first.verdict.verified, second.verdict.verified) == (2, 0)
    assert first.verdict.prefill_us > 0
    assert second.verdict.prefill_us == 0
    assert first.verdict.step_us > 0


@pytest.mark.usefixtures("patient")
async def test_after_all_that_the_services_still_serve(service, channels):
    for method in ("TargetService/VerifyTurns", "DraftService/Draft"):
        await refusal(raw_call(channels[method.partition("/")[0]], method, JUNK))
    reply = await generate(
        service.client, "x", max_new_tokens=20, seed=1, draft="model", loop="run_ahead"
    )
    assert reply.summary.proposed > 0
