"""Every exception that the SDK raises, split by what to do about it.

    OutriderError                .code, .reason, .message
    ├── CallerError              change the call: it would fail again
    │   ├── InvalidRequestError      a field is outside its range (.field)
    │   ├── NotFoundError            no such session
    │   ├── AlreadyExistsError       the request id was used before
    │   ├── TurnRunningError         one turn at a time
    │   ├── ModelMismatchError       the session belongs to another target
    │   ├── VocabularyMismatchError  draft and target do not share a vocabulary
    │   ├── UnimplementedError       the service does not offer this call
    │   └── AccessError              the service does not let this caller in
    ├── FencingError             somebody else moved on: look at the session again
    │   ├── StaleEpochError          the session has a newer owner
    │   └── PositionMismatchError    the request starts where the service is not
    ├── TryLaterError            nothing is wrong with the call (.retry_after_ms)
    │   ├── ExhaustedError           every slot or queue is full
    │   └── UnavailableError         the service, or one that it needs, cannot be reached
    ├── StoppedError             the call was ended before its time
    │   ├── DeadlineError            its timeout_ms ran out
    │   └── CallCancelledError       it was cancelled, or its client closed
    ├── ServiceError             the other side failed
    │   ├── InternalError            a failure of the service itself
    │   │   ├── LedgerUnusableError      its ledger has to be mended first
    │   │   └── NonFiniteLogitsError     the model gave no number
    │   ├── ProtocolViolationError   one service broke its contract with another
    │   └── StreamBrokenError        a reply ended or went wrong in the middle
    └── UsageError               an object of the SDK was used out of turn; nothing was sent
        ├── ClosedError              it was closed before
        └── UnfinishedError          the reply has not ended yet

`_status.py` holds the table that makes them from gRPC statuses.
"""

from __future__ import annotations

from typing import ClassVar

from grpc import StatusCode


class OutriderError(Exception):
    """Base of every exception of the SDK.

    `message` is one sentence. `code` is the gRPC status code, or the nearest one where no call was
    made. `reason` is the service's own word, for example "TURN_RUNNING"; empty where it gave none.
    """

    default_code: ClassVar[StatusCode] = StatusCode.UNKNOWN

    def __init__(self, message: str, *, code: StatusCode | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.reason = reason


class CallerError(OutriderError):
    """The call is wrong and would be wrong again."""

    default_code = StatusCode.FAILED_PRECONDITION


class InvalidRequestError(CallerError):
    """A field is outside its range; nothing was computed or written.

    `field` is its path in the request, for example "sampling.top_p"; empty where it is not known.
    """

    default_code = StatusCode.INVALID_ARGUMENT

    def __init__(
        self, message: str, *, code: StatusCode | None = None, reason: str = "", field: str = ""
    ) -> None:
        super().__init__(message, code=code, reason=reason)
        self.field = field


class NotFoundError(CallerError):
    """There is no such session."""

    default_code = StatusCode.NOT_FOUND


class AlreadyExistsError(CallerError):
    """The session has used this request id."""

    default_code = StatusCode.ALREADY_EXISTS


class TurnRunningError(CallerError):
    """The session runs a turn, and takes one at a time."""


class ModelMismatchError(CallerError):
    """The session was made with another target."""


class VocabularyMismatchError(CallerError):
    """The draft's vocabulary is not the target's."""


class UnimplementedError(CallerError):
    """The service does not offer this call: it is an older one, or none of sessions."""

    default_code = StatusCode.UNIMPLEMENTED


class AccessError(CallerError):
    """The service does not know this caller, or does not allow it the call."""

    default_code = StatusCode.PERMISSION_DENIED


class FencingError(OutriderError):
    """The picture of the session that the call was made from is out of date."""

    default_code = StatusCode.ABORTED


class StaleEpochError(FencingError):
    """Another call, here or in another client or service, took the session over.

    What was committed stays. `session.info()` tells what that is; `session.attach()` goes on with the
    session's last turn.
    """


class PositionMismatchError(FencingError):
    """The request starts beyond what the service holds."""

    default_code = StatusCode.OUT_OF_RANGE


class TryLaterError(OutriderError):
    """Nothing is wrong with the call.

    `retry_after_ms` is a fair time to wait: what the service asked for, or 500 where it gave none.
    """

    default_code = StatusCode.UNAVAILABLE

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        reason: str = "",
        retry_after_ms: int = 500,
    ) -> None:
        super().__init__(message, code=code, reason=reason)
        self.retry_after_ms = retry_after_ms


class ExhaustedError(TryLaterError):
    """Every slot or queue is full."""

    default_code = StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(TryLaterError):
    """The service, or one that it needs, cannot be reached."""


class StoppedError(OutriderError):
    """The call was ended before its time. What a turn had committed stands."""

    default_code = StatusCode.CANCELLED


class DeadlineError(StoppedError):
    """The call's `timeout_ms` ran out."""

    default_code = StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(StoppedError):
    """The call was cancelled, or its client was closed."""


class ServiceError(OutriderError):
    """The other side failed."""

    default_code = StatusCode.INTERNAL


class InternalError(ServiceError):
    """A failure of the service itself."""


class LedgerUnusableError(InternalError):
    """The service's ledger is read-only, damaged or gone, until whoever runs the service mends it."""

    default_code = StatusCode.FAILED_PRECONDITION


class NonFiniteLogitsError(InternalError):
    """The model gave a logit that is no number."""


class ProtocolViolationError(ServiceError):
    """One service broke its contract with another."""


class StreamBrokenError(ServiceError):
    """A reply's stream was lost, or out of order, after the turn was accepted.

    The events that arrived are committed. `session.info()` tells what else is.
    """


class UsageError(OutriderError):
    """An object of the SDK was used out of turn; nothing was sent."""

    default_code = StatusCode.FAILED_PRECONDITION


class ClosedError(UsageError):
    """The client or session was closed before."""


class UnfinishedError(UsageError):
    """The reply has not ended, so it has no summary yet."""
