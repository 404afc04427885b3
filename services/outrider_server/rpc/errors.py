"""The one table between domain errors and gRPC statuses, read in both directions.

A status carries a google.rpc.ErrorInfo of domain "outrider", whose reason names the error and whose
metadata its numbers; BadRequest names a field; RetryInfo says when to try again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from ..core import errors

DOMAIN = "outrider"
MAX_DIGITS = 19

WRITE_FAILED = "Internal error from Core"
"""What grpc.aio makes of a write that meets the end of its stream; the status that ended it is lost."""


@dataclass(frozen=True, slots=True)
class _Entry:
    error: type[errors.OutriderError]
    code: grpc.StatusCode
    reason: str


TABLE = (
    _Entry(errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    _Entry(errors.NotFound, grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    _Entry(errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"),
    _Entry(errors.TurnRunning, grpc.StatusCode.FAILED_PRECONDITION, "TURN_RUNNING"),
    _Entry(errors.ModelMismatch, grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH"),
    _Entry(errors.VocabularyMismatch, grpc.StatusCode.FAILED_PRECONDITION, "VOCABULARY_MISMATCH"),
    _Entry(errors.StaleEpoch, grpc.StatusCode.ABORTED, "STALE_EPOCH"),
    _Entry(errors.PositionMismatch, grpc.StatusCode.OUT_OF_RANGE, "POSITION_MISMATCH"),
    _Entry(errors.ProtocolViolation, grpc.StatusCode.INTERNAL, "PROTOCOL_VIOLATION"),
    _Entry(errors.Exhausted, grpc.StatusCode.RESOURCE_EXHAUSTED, "EXHAUSTED"),
    _Entry(errors.LeaseHeld, grpc.StatusCode.UNAVAILABLE, "LEASE_HELD"),
    _Entry(errors.Unavailable, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    _Entry(errors.LedgerUnavailable, grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE"),
    _Entry(errors.NonFiniteLogits, grpc.StatusCode.INTERNAL, "NON_FINITE_LOGITS"),
    _Entry(errors.LedgerUnusable, grpc.StatusCode.FAILED_PRECONDITION, "LEDGER_UNUSABLE"),
    _Entry(errors.IllegalMove, grpc.StatusCode.INTERNAL, "ILLEGAL_MOVE"),
    _Entry(errors.InternalError, grpc.StatusCode.INTERNAL, "INTERNAL"),
)

_BY_ERROR = {entry.error: entry for entry in TABLE}
_BY_REASON = {entry.reason: entry for entry in TABLE}
_UNNAMED: dict[grpc.StatusCode, type[errors.OutriderError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Exhausted,
}

_SILENT = {
    grpc.StatusCode.UNAVAILABLE: "cannot be reached",
    grpc.StatusCode.DEADLINE_EXCEEDED: "does not answer",
    grpc.StatusCode.CANCELLED: "ended the call",
}
"""What gRPC says by itself, where no service has said anything. A call that this side has cancelled has no
status: CANCELLED is another's end of it."""


def to_status(error: BaseException) -> status_pb2.Status:
    """The status of an error. What is not in the table becomes INTERNAL without a word of its text."""
    entry = _BY_ERROR.get(type(error))  # type: ignore[arg-type]
    if entry is None:
        entry, message = _BY_REASON["INTERNAL"], "the service failed; its log says why"
    else:
        message = str(error)
    info = error_details_pb2.ErrorInfo(reason=entry.reason, domain=DOMAIN)
    details: list[Message] = [info]
    match error:
        case errors.InvalidRequest(field=field):
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=field, description=message
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case errors.StaleEpoch(current_epoch=epoch):
            info.metadata["current_epoch"] = str(epoch)
        case errors.PositionMismatch(position=position):
            info.metadata["position"] = str(position)
        case errors.TryLater(retry_after_ms=delay_ms):
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(delay_ms)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=_number(entry.code), message=message, details=packed)


def from_rpc_error(error: grpc.RpcError, peer: str) -> errors.OutriderError:
    """The domain error behind a failed call. `peer` names the service for what has no reason."""
    status = _status_of(error)
    if status is not None and (named := _named_error(status)) is not None:
        return named
    # The aio error of a call is no grpc.Call, though it has the methods of one.
    known = isinstance(error, (grpc.Call, grpc.aio.AioRpcError))
    code = error.code() if known else grpc.StatusCode.UNKNOWN
    if known and error.details() == WRITE_FAILED:
        return errors.Unavailable(f"the {peer} service ended the stream")
    kind = _UNNAMED.get(code, errors.ProtocolViolation)
    said = _SILENT.get(code, f"answered {code.name}")
    return kind(f"the {peer} service {said}")


def from_status(status: status_pb2.Status, peer: str) -> errors.OutriderError:
    """The domain error behind a status that came as a message. `peer` as in `from_rpc_error`."""
    unnamed = errors.ProtocolViolation(f"the {peer} service answered with status {status.code}")
    return _named_error(status) or unnamed


def _named_error(status: status_pb2.Status) -> errors.OutriderError | None:
    """The error that a status names by its reason; None where it names none of this system's."""
    info, field, retry_after_ms = error_details_pb2.ErrorInfo(), "", 500
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad_request = error_details_pb2.BadRequest()
            detail.Unpack(bad_request)
            field = bad_request.field_violations[0].field if bad_request.field_violations else ""
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    entry = _BY_REASON.get(info.reason) if info.domain == DOMAIN else None
    if entry is None:
        return None
    builders: dict[type, Callable[[], errors.OutriderError]] = {
        errors.InvalidRequest: lambda: errors.InvalidRequest(field, status.message),
        errors.StaleEpoch: lambda: errors.StaleEpoch(
            status.message, _count(info.metadata.get("current_epoch", ""))
        ),
        errors.PositionMismatch: lambda: errors.PositionMismatch(
            status.message, _count(info.metadata.get("position", ""))
        ),
        errors.Exhausted: lambda: errors.Exhausted(status.message, retry_after_ms),
        errors.LeaseHeld: lambda: errors.LeaseHeld(status.message, retry_after_ms),
        errors.Unavailable: lambda: errors.Unavailable(status.message, retry_after_ms),
        errors.LedgerUnavailable: lambda: errors.LedgerUnavailable(status.message, retry_after_ms),
    }
    return builders.get(entry.error, lambda: entry.error(status.message))()


def _count(text: str) -> int:
    """A number of a peer's; 0 for what is none."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else 0


def _status_of(error: grpc.RpcError) -> status_pb2.Status | None:
    try:
        status: status_pb2.Status | None = rpc_status.from_call(cast(grpc.Call, error))
        return status
    except (AttributeError, ValueError):
        return None


def _number(code: grpc.StatusCode) -> int:
    number: int = code_pb2.Code.Value(code.name)
    return number
