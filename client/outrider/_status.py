"""gRPC statuses to exceptions: the one table, and the reading of a status's details.

A reason of the service decides where there is one (ErrorInfo of domain "outrider"); the status code
decides otherwise, so that proxies, old services and gRPC itself are covered too.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from outrider import _transport, errors

DOMAIN = "outrider"

REASONS: dict[str, type[errors.OutriderError]] = {
    "INVALID_REQUEST": errors.InvalidRequestError,
    "NOT_FOUND": errors.NotFoundError,
    "ALREADY_EXISTS": errors.AlreadyExistsError,
    "TURN_RUNNING": errors.TurnRunningError,
    "MODEL_MISMATCH": errors.ModelMismatchError,
    "VOCABULARY_MISMATCH": errors.VocabularyMismatchError,
    "STALE_EPOCH": errors.StaleEpochError,
    "POSITION_MISMATCH": errors.PositionMismatchError,
    "PROTOCOL_VIOLATION": errors.ProtocolViolationError,
    "EXHAUSTED": errors.ExhaustedError,
    "LEASE_HELD": errors.UnavailableError,
    "UNAVAILABLE": errors.UnavailableError,
    "LEDGER_UNAVAILABLE": errors.UnavailableError,
    "INTERNAL": errors.InternalError,
    "LEDGER_UNUSABLE": errors.LedgerUnusableError,
    "NON_FINITE_LOGITS": errors.NonFiniteLogitsError,
}

CODES: dict[StatusCode, type[errors.OutriderError]] = {
    StatusCode.CANCELLED: errors.UnavailableError,  # a call that is cancelled here has no status
    StatusCode.UNKNOWN: errors.InternalError,
    StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    StatusCode.DEADLINE_EXCEEDED: errors.DeadlineError,
    StatusCode.NOT_FOUND: errors.NotFoundError,
    StatusCode.ALREADY_EXISTS: errors.AlreadyExistsError,
    StatusCode.PERMISSION_DENIED: errors.AccessError,
    StatusCode.UNAUTHENTICATED: errors.AccessError,
    StatusCode.RESOURCE_EXHAUSTED: errors.ExhaustedError,
    StatusCode.FAILED_PRECONDITION: errors.CallerError,
    StatusCode.ABORTED: errors.FencingError,
    StatusCode.OUT_OF_RANGE: errors.PositionMismatchError,
    StatusCode.UNIMPLEMENTED: errors.UnimplementedError,
    StatusCode.INTERNAL: errors.InternalError,
    StatusCode.UNAVAILABLE: errors.UnavailableError,
    StatusCode.DATA_LOSS: errors.InternalError,
}

_TOO_LARGE = re.compile("larger than max|exceeds maximum size")
"""How gRPC's libraries tell a message above their limit from what time would mend."""

DetailT = TypeVar("DetailT", bound=Message)


def from_rpc_error(
    failure: grpc.aio.AioRpcError, target: str, note: str = ""
) -> errors.OutriderError:
    """The exception of the SDK for a call that gRPC reports as failed; `note` for what no service said."""
    # The type stubs leave the methods of RpcError out; every AioRpcError has code() and details().
    status = cast(Any, failure)
    code: StatusCode = status.code()
    message: str = status.details() or f"the call failed with {code.name}"
    details = _details(failure)
    info = _detail(details, error_details_pb2.ErrorInfo)
    reason: str = info.reason if info is not None and info.domain == DOMAIN else ""
    kind = REASONS.get(reason) or CODES.get(code, errors.InternalError)
    if kind is errors.ExhaustedError and not reason and _TOO_LARGE.search(message):
        return errors.CallerError(f"a message of the call is too large: {message}", code=code)
    if not reason:
        message = _transport.sentence(message, target) + note
    return kind(message, code=code, reason=reason, **_extras(kind, details))


def _extras(kind: type[errors.OutriderError], details: list[Any]) -> dict[str, Any]:
    """The further arguments that an exception of this kind takes, where the details have them."""
    if issubclass(kind, errors.InvalidRequestError):
        bad = _detail(details, error_details_pb2.BadRequest)
        if bad is not None and bad.field_violations:
            return {"field": bad.field_violations[0].field}
    if issubclass(kind, errors.TryLaterError):
        retry = _detail(details, error_details_pb2.RetryInfo)
        if retry is not None:
            return {"retry_after_ms": retry.retry_delay.ToMilliseconds()}
    return {}


def _details(failure: grpc.aio.AioRpcError) -> list[Any]:
    """The details of a status; none where they are missing or cannot be read."""
    try:
        status = rpc_status.from_call(cast(grpc.Call, failure))
    except (DecodeError, ValueError):
        return []
    return [] if status is None else list(status.details)


def _detail(details: list[Any], kind: type[DetailT]) -> DetailT | None:
    for packed in details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            try:
                packed.Unpack(detail)
            except DecodeError:
                return None
            return detail
    return None
