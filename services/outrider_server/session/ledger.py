"""The ledger: the durable log of sessions, their turns and their committed tokens.

Owns the records and the promises that every store keeps (`tests/session/ledger_conformance.py` says
them as tests). Must not know how a store keeps them, nor gRPC, nor the decode loop.

What a call has acknowledged survives the process. Every write to a session names the epoch, and the
ones that add tokens the length, that the writer believes in: of two writers one wins, and the other
changes nothing. A cancelled call may have written or not; read the session again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from outrider_server.speculation.types import FinishReason, TokenLogprobs, TokenSource

MAX_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session as the ledger holds it."""

    session_id: str
    owner: str
    model_fingerprint: str
    epoch: int
    """Fencing number; 0 until the session is first taken over."""
    length: int
    """Number of committed tokens."""
    turn_count: int
    created_us: int
    """Microseconds since 1970."""
    updated_us: int
    """When the session was last written to, in microseconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """A turn as the ledger holds it."""

    session_id: str
    turn_index: int
    request_id: str
    start_position: int
    """Position of the first prompt token."""
    prompt_tokens: int
    """Number of tokens that the input added."""
    parameters: str
    """What the turn was asked for, as JSON; the ledger does not read it."""
    finish_reason: FinishReason | None = None
    """None while the turn runs, and for ever when its process died."""

    @property
    def generated_from(self) -> int:
        """Position of the first generated token."""
        return self.start_position + self.prompt_tokens


@dataclass(frozen=True, slots=True)
class LedgerToken:
    """A generated token, and what its event says of it."""

    token: int
    source: TokenSource
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class NewTurn:
    """What a turn starts with."""

    request_id: str
    prompt_tokens: tuple[int, ...]
    parameters: str = "{}"


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some of an owner's sessions, newest first."""

    sessions: tuple[SessionRecord, ...]
    next_page_token: str
    """Empty when this is the last page."""


class Ledger(Protocol):
    """Every call raises Unavailable when the store cannot be read or written now, and then has
    changed nothing. A session id that is unknown, or belongs to another owner, raises NotFound."""

    async def create_session(self, owner: str, model_fingerprint: str) -> SessionRecord:
        """Creates an empty session."""
        ...

    async def get_session(self, session_id: str, owner: str) -> SessionRecord:
        """Reads a session."""
        ...

    async def list_sessions(self, owner: str, page_size: int, page_token: str = "") -> SessionPage:
        """Lists the owner's sessions, newest first. Raises InvalidRequest for a page size outside 1
        to 1000, or a page token that did not come from here."""
        ...

    async def delete_session(self, session_id: str, owner: str) -> None:
        """Deletes a session, its turns and its tokens."""
        ...

    async def take_over(self, session_id: str) -> int:
        """Makes the caller the session's only writer; returns the epoch that it has to name."""
        ...

    async def begin_turn(
        self, session_id: str, epoch: int, length: int, turn: NewTurn
    ) -> TurnRecord:
        """Appends the prompt tokens and begins a turn, both or neither.

        Raises StaleEpoch, AlreadyExists for a request id that the session has used, and
        PositionMismatch, in this order."""
        ...

    async def append(
        self, session_id: str, epoch: int, length: int, tokens: Sequence[LedgerToken]
    ) -> None:
        """Commits tokens that the last turn generated, all or none. Raises StaleEpoch when the
        session has another owner, PositionMismatch when it does not have `length` tokens, and
        ValueError when it has no turn."""
        ...

    async def finish_turn(
        self, session_id: str, epoch: int, turn_index: int, finish_reason: FinishReason
    ) -> None:
        """Records why a turn ended. Raises StaleEpoch, and ValueError for an unknown turn."""
        ...

    async def tokens(self, session_id: str, from_position: int = 0) -> list[int]:
        """The committed tokens from a position on."""
        ...

    async def turns(self, session_id: str) -> list[TurnRecord]:
        """All turns, in order."""
        ...

    async def turn_tokens(
        self, session_id: str, turn_index: int, from_index: int = 0
    ) -> list[LedgerToken]:
        """What a turn generated, from an index within it on. Empty for an unknown turn."""
        ...

    async def aclose(self) -> None:
        """Waits for the writes under way and closes the store."""
        ...
