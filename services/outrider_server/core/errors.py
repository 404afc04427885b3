"""The exceptions of the domain, split by whose fault they are.

    OutriderError
    ├── CallerError              you misused me: change the request
    │   ├── InvalidRequest           a field is outside its range
    │   ├── NotFound                 no such session
    │   ├── AlreadyExists            the request id was used before
    │   ├── TurnRunning              one turn at a time
    │   ├── ModelMismatch            the session belongs to another target
    │   └── VocabularyMismatch       draft and target do not share a vocabulary
    ├── FencingError             somebody else moved on: read the state again
    │   ├── StaleEpoch               the session has a newer owner
    │   └── PositionMismatch         the request starts where the service is not
    ├── PeerError                another service misbehaved
    │   └── ProtocolViolation        it broke the contract of the stream
    ├── TryLater                 nothing is wrong with the request
    │   ├── Exhausted                every slot or queue is full
    │   ├── LeaseHeld                another service runs the session
    │   └── Unavailable              a service that is needed cannot be reached
    │       └── LedgerUnavailable        the ledger's store cannot be read or written now
    ├── InternalError            our own failure
    │   ├── NonFiniteLogits          the model gave no number
    │   ├── LedgerUnusable           the ledger's store has to be mended first
    │   └── IllegalMove              a turn was moved where its lifecycle does not allow
    └── StartupError             a service cannot start as it was told to
        └── ModelRefused             the model folder cannot be served

`rpc/errors.py` holds the one table that turns them into gRPC statuses and back. Every message is one
sentence that a user can act on; it is all that leaves the process.
"""

from __future__ import annotations

from random import Random


class OutriderError(Exception):
    """Base of every error that the services raise on purpose."""


class CallerError(OutriderError):
    """The request is wrong and would be wrong again."""


class InvalidRequest(CallerError):
    """A field of the request is outside its range; nothing was computed or written.

    `field` is the path of the field in the request's proto, for example "sampling.top_p".
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(CallerError):
    """There is no such session."""


class AlreadyExists(CallerError):
    """What the request wants to create is there already."""


class TurnRunning(CallerError):
    """The session runs a turn, and takes one at a time."""


class ModelMismatch(CallerError):
    """The session was made with another target."""


class VocabularyMismatch(CallerError):
    """The draft's vocabulary is not the target's."""


class FencingError(OutriderError):
    """The caller's picture of a session is out of date."""


class StaleEpoch(FencingError):
    """The session has a newer owner. `current_epoch` is the highest epoch seen."""

    def __init__(self, message: str, current_epoch: int) -> None:
        super().__init__(message)
        self.current_epoch = current_epoch


class PositionMismatch(FencingError):
    """The request starts beyond what the service holds. `position` is where the service stands."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class PeerError(OutriderError):
    """Another service misbehaved."""


class ProtocolViolation(PeerError):
    """A message broke the contract of its stream."""


class TryLater(OutriderError):
    """Nothing is wrong with the request. `retry_after_ms` is a fair time to wait before trying again."""

    def __init__(self, message: str, retry_after_ms: int = 500) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


SPREAD = 0.5
"""The share of a time to wait that is added at random, so that who is refused together comes back apart."""


def spread_ms(least_ms: float, chance: Random) -> int:
    """A time to wait of at least so many milliseconds, and of one."""
    return max(1, round(least_ms * chance.uniform(1.0, 1.0 + SPREAD)))


class Exhausted(TryLater):
    """Every slot or queue is full."""


class LeaseHeld(TryLater):
    """Another service runs the session; its lease ends after `retry_after_ms` unless renewed."""


class Unavailable(TryLater):
    """A service that is needed cannot be reached."""


class LedgerUnavailable(Unavailable):
    """The ledger's store cannot be read or written now; what was acknowledged is in it.

    `is_away` where it cannot be reached, or another server has taken its work over: it may be back soon.
    """

    def __init__(self, message: str, retry_after_ms: int = 500, *, is_away: bool = False) -> None:
        super().__init__(message, retry_after_ms)
        self.is_away = is_away


class InternalError(OutriderError):
    """Our own failure."""


class NonFiniteLogits(InternalError):
    """The model gave a logit that is no number; nothing was decided."""


class LedgerUnusable(InternalError):
    """The ledger's store is read-only, damaged, or not one of this version, until somebody mends it."""


class IllegalMove(InternalError):
    """A turn was moved where its lifecycle does not allow; its state is unchanged."""


class StartupError(OutriderError):
    """A service cannot start as it was told to. Never crosses the wire."""


def require(holds: bool, message: str) -> None:
    """Raises StartupError with the message unless a setting holds."""
    if not holds:
        raise StartupError(message)


class ModelRefused(StartupError):
    """The model folder cannot be served; the message names the reason."""
