"""Statuses of the service become exceptions of the SDK, whatever their details hold."""

from __future__ import annotations

import grpc
import outrider
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc import StatusCode
from outrider import _status

from .fake_service import Failure, RawStatus, bad_request, error_info, retry_info

# What the services send, written out here so that the SDK's own table is not its judge.
WIRE = [
    ("INVALID_REQUEST", StatusCode.INVALID_ARGUMENT, outrider.InvalidRequestError),
    ("NOT_FOUND", StatusCode.NOT_FOUND, outrider.NotFoundError),
    ("ALREADY_EXISTS", StatusCode.ALREADY_EXISTS, outrider.AlreadyExistsError),
    ("TURN_RUNNING", StatusCode.FAILED_PRECONDITION, outrider.TurnRunningError),
    ("MODEL_MISMATCH", StatusCode.FAILED_PRECONDITION, outrider.ModelMismatchError),
    ("VOCABULARY_MISMATCH", StatusCode.FAILED_PRECONDITION, outrider.VocabularyMismatchError),
    ("STALE_EPOCH", StatusCode.ABORTED, outrider.StaleEpochError),
    ("POSITION_MISMATCH", StatusCode.OUT_OF_RANGE, outrider.PositionMismatchError),
    ("PROTOCOL_VIOLATION", StatusCode.INTERNAL, outrider.ProtocolViolationError),
    ("EXHAUSTED", StatusCode.RESOURCE_EXHAUSTED, outrider.ExhaustedError),
    ("LEASE_HELD", StatusCode.UNAVAILABLE, outrider.UnavailableError),
    ("UNAVAILABLE", StatusCode.UNAVAILABLE, outrider.UnavailableError),
    ("LEDGER_UNAVAILABLE", StatusCode.UNAVAILABLE, outrider.UnavailableError),
    ("INTERNAL", StatusCode.INTERNAL, outrider.InternalError),
    ("LEDGER_UNUSABLE", StatusCode.FAILED_PRECONDITION, outrider.LedgerUnusableError),
    ("NON_FINITE_LOGITS", StatusCode.INTERNAL, outrider.NonFiniteLogitsError),
]


async def raised(client, service, failure) -> outrider.OutriderError:
    """What a call raises that the service fails so."""
    service.failures["Describe"] = failure
    with pytest.raises(outrider.OutriderError) as caught:
        await client.describe()
    assert not isinstance(caught.value, grpc.RpcError)
    return caught.value


def test_the_table_has_every_reason_and_no_other():
    assert set(_status.REASONS) == {reason for reason, _, _ in WIRE}


def test_every_status_code_has_an_exception():
    assert set(_status.CODES) == set(StatusCode) - {StatusCode.OK}


@pytest.mark.parametrize(("reason", "code", "kind"), WIRE, ids=[row[0] for row in WIRE])
async def test_every_reason_maps_to_its_exception(client, service, reason, code, kind):
    error = await raised(client, service, Failure(code, "why", error_info(reason)))
    assert type(error) is kind
    assert (error.code, error.reason, error.message, str(error)) == (code, reason, "why", "why")


@pytest.mark.parametrize(("reason", "code", "kind"), WIRE, ids=[row[0] for row in WIRE])
async def test_every_reason_maps_in_a_stream_too(impatient_client, service, reason, code, kind):
    service.failures["Generate"] = Failure(code, "why", error_info(reason))
    session = await impatient_client.create_session()
    with pytest.raises(kind) as caught:
        await session.generate("hi")
    assert caught.value.reason == reason


@pytest.mark.parametrize("code", list(_status.CODES), ids=lambda code: code.name)
async def test_every_code_without_details_maps(client, service, code):
    error = await raised(client, service, Failure(code, "why"))
    assert type(error) is _status.CODES[code]
    assert (error.code, error.reason, error.message) == (code, "", "why")


async def test_a_status_without_a_message_gets_one(client, service):
    error = await raised(client, service, Failure(StatusCode.ABORTED, ""))
    assert error.message == "the call failed with ABORTED"


async def test_the_field_of_a_bad_request_is_kept(client, service):
    details = [error_info("INVALID_REQUEST"), bad_request("sampling.top_p")]
    error = await raised(client, service, Failure(StatusCode.INVALID_ARGUMENT, "bad", *details))
    assert error.field == "sampling.top_p"


async def test_the_retry_time_is_kept_in_milliseconds(client, service):
    details = [error_info("EXHAUSTED"), retry_info(1250)]
    error = await raised(client, service, Failure(StatusCode.RESOURCE_EXHAUSTED, "full", *details))
    assert error.retry_after_ms == 1250


async def test_the_retry_time_is_kept_without_a_reason(client, service):
    failure = Failure(StatusCode.UNAVAILABLE, "down", retry_info(40))
    assert (await raised(client, service, failure)).retry_after_ms == 40


async def test_a_reason_of_another_domain_counts_for_nothing(client, service):
    stranger = error_info("NOT_FOUND", domain="googleapis.com")
    error = await raised(client, service, Failure(StatusCode.INTERNAL, "why", stranger))
    assert (type(error), error.reason) == (outrider.InternalError, "")


async def test_a_reason_newer_than_the_sdk_falls_back_to_the_code(client, service):
    newer = error_info("QUOTA_SPENT")
    error = await raised(client, service, Failure(StatusCode.RESOURCE_EXHAUSTED, "why", newer))
    assert (type(error), error.reason) == (outrider.ExhaustedError, "QUOTA_SPENT")


def _broken_detail() -> bytes:
    detail = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    return status_pb2.Status(code=5, message="gone", details=[detail]).SerializeToString()


@pytest.mark.parametrize(
    "trailer",
    [
        b"",
        b"\xff\xff\xff",
        status_pb2.Status(code=13, message="gone").SerializeToString(),
        status_pb2.Status(code=5, message="other").SerializeToString(),
        _broken_detail(),
    ],
    ids=["empty", "no message", "other code", "other message", "broken detail"],
)
async def test_malformed_details_leave_the_code_in_charge(client, service, trailer):
    error = await raised(client, service, RawStatus(StatusCode.NOT_FOUND, "gone", trailer))
    assert (type(error), error.message) == (outrider.NotFoundError, "gone")
