"""The table between errors and statuses, walked in both directions and over a real server."""

from __future__ import annotations

import inspect

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from outrider.v1 import target_pb2, target_pb2_grpc
from outrider_server.core import errors
from outrider_server.rpc.errors import DOMAIN, TABLE, from_rpc_error, to_status

from .service import ScriptedTarget, failing, serving

SAMPLES: list[tuple[errors.OutriderError, dict[str, object]]] = [
    (errors.InvalidRequest("sampling.top_p", "top_p is too large"), {"field": "sampling.top_p"}),
    (errors.NotFound("no such session"), {}),
    (errors.AlreadyExists("that request id was used"), {}),
    (errors.TurnRunning("one turn at a time"), {}),
    (errors.ModelMismatch("made with another target"), {}),
    (errors.VocabularyMismatch("another vocabulary"), {}),
    (errors.StaleEpoch("a newer owner", 2**40), {"current_epoch": 2**40}),
    (errors.PositionMismatch("starts too late", 2**31 - 1), {"position": 2**31 - 1}),
    (errors.ProtocolViolation("broke the contract"), {}),
    (errors.Exhausted("every slot runs a turn", 1234), {"retry_after_ms": 1234}),
    (errors.LeaseHeld("belongs to another", 2100), {"retry_after_ms": 2100}),
    (errors.Unavailable("cannot be reached", 50), {"retry_after_ms": 50}),
    (errors.LedgerUnavailable("cannot be written", 60), {"retry_after_ms": 60}),
    (errors.NonFiniteLogits("no number"), {}),
    (errors.LedgerUnusable("the file is damaged"), {}),
    (errors.IllegalMove("cannot move there"), {}),
    (errors.InternalError("our own failure"), {}),
]
NAMES = [type(error).__name__ for error, _ in SAMPLES]
CODES = {
    "InvalidRequest": "INVALID_ARGUMENT",
    "NotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "TurnRunning": "FAILED_PRECONDITION",
    "ModelMismatch": "FAILED_PRECONDITION",
    "VocabularyMismatch": "FAILED_PRECONDITION",
    "StaleEpoch": "ABORTED",
    "PositionMismatch": "OUT_OF_RANGE",
    "ProtocolViolation": "INTERNAL",
    "Exhausted": "RESOURCE_EXHAUSTED",
    "LeaseHeld": "UNAVAILABLE",
    "Unavailable": "UNAVAILABLE",
    "LedgerUnavailable": "UNAVAILABLE",
    "NonFiniteLogits": "INTERNAL",
    "LedgerUnusable": "FAILED_PRECONDITION",
    "IllegalMove": "INTERNAL",
    "InternalError": "INTERNAL",
}


def leaves() -> set[type[errors.OutriderError]]:
    """Every error that is raised as such and may cross the wire; start-up has no wire yet."""
    every = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.OutriderError) and not issubclass(kind, errors.StartupError)
    }
    return {kind for kind in every if not any(other.__base__ is kind for other in every)}


def test_every_error_that_can_cross_the_wire_is_in_the_table_once() -> None:
    listed = [entry.error for entry in TABLE]
    assert leaves() | {errors.InternalError, errors.Unavailable} == set(listed)
    assert len(listed) == len(set(listed)) == len({entry.reason for entry in TABLE})
    assert [entry.error.__name__ for entry in TABLE] == NAMES, "every entry has its sample here"


@pytest.mark.parametrize(("error", "numbers"), SAMPLES, ids=NAMES)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_error_comes_back_as_itself_through_a_server(
    error: errors.OutriderError, numbers: dict[str, object], streamed: bool
) -> None:
    def fail() -> None:
        raise error

    async with serving(ScriptedTarget(fail)) as (_, channel):
        stub = target_pb2_grpc.TargetServiceStub(channel)
        if streamed:
            failed = await failing(stub.VerifyTurns(iter([target_pb2.VerifyTurnsRequest()])))
        else:
            failed = await failing(stub.DescribeModel(target_pb2.DescribeModelRequest()))
    assert failed.code().name == CODES[type(error).__name__]
    assert failed.details() == str(error)
    back = from_rpc_error(failed, "target")
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert {name: getattr(back, name) for name in numbers} == numbers


@pytest.mark.parametrize(("error", "numbers"), SAMPLES, ids=NAMES)
def test_a_status_carries_its_reason_field_delay_and_numbers(
    error: errors.OutriderError, numbers: dict[str, object]
) -> None:
    status = to_status(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == DOMAIN
    assert info.reason == next(entry.reason for entry in TABLE if entry.error is type(error))
    for name in ("current_epoch", "position"):
        assert info.metadata.get(name) == (str(numbers[name]) if name in numbers else None)
    bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    rest = status.details[1:]
    assert len(rest) == len(set(numbers) & {"field", "retry_after_ms"})
    if "field" in numbers:
        assert rest[0].Unpack(bad_request)
        assert bad_request.field_violations[0].field == numbers["field"]
        assert bad_request.field_violations[0].description == str(error)
    if "retry_after_ms" in numbers:
        assert rest[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == numbers["retry_after_ms"]


@pytest.mark.parametrize(
    "error", [ValueError("secret"), errors.ModelRefused("secret"), KeyError("secret"), OSError()]
)
def test_what_is_not_in_the_table_is_internal_without_a_word_of_its_text(error: Exception) -> None:
    status = to_status(error)
    assert "secret" not in str(status)
    assert status.message == "the service failed; its log says why"


class Failed(grpc.RpcError, grpc.Call):
    """A failed call of the sync kind, with a status of another service."""

    def __init__(self, code: grpc.StatusCode, details: list[any_pb2.Any]) -> None:
        status = to_status(errors.NotFound("from elsewhere"))
        del status.details[:]
        status.details.extend(details)
        status.code = code.value[0]
        self._status = rpc_status.to_status(status)

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return self._status.details

    def trailing_metadata(self) -> object:
        return self._status.trailing_metadata


Failed.__abstractmethods__ = frozenset()


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable, "cannot be reached"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.Unavailable, "does not answer"),
        (grpc.StatusCode.CANCELLED, errors.Unavailable, "ended the call"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Exhausted, "answered RESOURCE_EXHAUSTED"),
        (grpc.StatusCode.UNIMPLEMENTED, errors.ProtocolViolation, "answered UNIMPLEMENTED"),
        (grpc.StatusCode.NOT_FOUND, errors.ProtocolViolation, "answered NOT_FOUND"),
        (grpc.StatusCode.UNKNOWN, errors.ProtocolViolation, "answered UNKNOWN"),
    ],
)
@pytest.mark.parametrize("domain", ["", "elsewhere", DOMAIN])
def test_a_status_without_one_of_our_reasons_is_judged_by_its_code(
    code: grpc.StatusCode, kind: type[errors.OutriderError], says: str, domain: str
) -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(domain=domain, reason="NOT_ONE_OF_OURS"))
    back = from_rpc_error(Failed(code, [detail] if domain else []), "draft")
    assert type(back) is kind
    assert str(back) == f"the draft service {says}"


async def test_a_service_that_cannot_be_reached_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("unix:/nowhere/at/all") as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        for timeout in (None, 1e-4):
            with pytest.raises(grpc.RpcError) as failed:
                await stub.DescribeModel(target_pb2.DescribeModelRequest(), timeout=timeout)
            assert type(from_rpc_error(failed.value, "target")) is errors.Unavailable
