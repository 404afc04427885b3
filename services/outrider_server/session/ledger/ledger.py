"""The ledger: the durable log of sessions, their turns and their committed tokens.

Owns the records and the promises that every store keeps (`tests/session/ledger_conformance.py` says
them as tests). Must not know how a store keeps them, nor gRPC, nor the decode loop.

What a call has acknowledged survives the process. Every write to a session names the epoch, and the
ones that add or drop tokens the length, that the writer believes in: of two writers one wins, and
the other changes nothing. A cancelled call may have written or not; read the session again. Times
are the store's own, so that several services on one store agree about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from outrider_server.core.types import FinishReason, TokenLogprobs, TokenSource

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
    ttl_seconds: int = 0
    """How long the session lives after its last write; 0 for ever."""
    expires_us: int | None = None
    """When it expires unless it is written to before; None never."""
    holder: str = ""
    """Who holds the lease, or held it last; empty for nobody."""
    lease_until_us: int = 0
    """When the lease ends; in the past, or 0, when nobody holds one."""
    is_held: bool = False
    """True when the lease ran as the record was read, by the store's clock."""


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
    rewound_tokens: int = 0
    """Number of tokens that the session held from there on, and that the prompt took the place of."""
    parameters: str
    """What the turn was asked for, as JSON; the ledger does not read it."""
    finish_reason: FinishReason | None = None
    """None while the turn runs, and for ever when its process died."""
    is_cut: bool = False
    """True where a rewind or a fork left out some of its tokens, or another turn's prompt stands in their
    place before it had ended; its finish reason is CANCELLED."""
    chat: str | None = None
    """What it said in a chat, as JSON; None for another input, and empty where a cut left less than all
    of its prompt. The ledger does not read it."""
    reply: str | None = None
    """The text of what it generated, once a later turn has told."""

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
    start_position: int | None = None
    """Where the prompt stands; None at the session's end."""
    chat: str | None = None
    """As in the record."""
    last_reply: str | None = None
    """The reply of the turn before, where it is to be kept."""


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some of an owner's sessions, newest first."""

    sessions: tuple[SessionRecord, ...]
    next_page_token: str
    """Empty when this is the last page."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to be a session's only writer."""

    epoch: int
    """What the writer's calls have to name."""
    until_us: int
    """Before this time nobody else takes the session over unforced; 0 without a lease."""


class Ledger(Protocol):
    """Every call raises LedgerUnavailable when the store cannot be read or written now, and then has
    changed nothing; over a network the answer to a write may be lost, and then it may stand whole.
    Repeating it is safe: a write that stands moved the length. A session id that is unknown, has
    expired or belongs to another owner raises NotFound. An expired session on which a lease runs is
    still there."""

    async def create_session(
        self, owner: str, model_fingerprint: str, ttl_seconds: int | None = None
    ) -> SessionRecord:
        """Creates an empty session. It expires `ttl_seconds` after its last write; None takes the
        ledger's default, 0 never. Raises InvalidRequest outside 0 to MAX_TTL_SECONDS."""
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

    async def fork(
        self, session_id: str, owner: str, at_position: int | None = None
    ) -> SessionRecord:
        """Makes a new session of the first `at_position` committed tokens, or of all, with the
        turns that a rewind would keep, and as long a life. Raises InvalidRequest for a position outside
        0 to the length.

        Turns of the copy get request ids of their own: a request id of the original begins a new
        turn in the copy, and replays nothing. Its last turn is cut when not all of it was copied,
        or when it had not ended. The original is not changed."""
        ...

    async def sweep(self, limit: int = 100) -> int:
        """Deletes at most `limit` sessions that have expired and that no lease holds, the longest
        expired first; returns how many."""
        ...

    async def take_over(
        self,
        session_id: str,
        holder: str = "",
        lease_seconds: float | None = 0.0,
        *,
        force: bool = False,
    ) -> Lease:
        """Makes the caller the session's only writer, in a new epoch. With `lease_seconds` nobody
        but `holder` takes it over before these have passed; None lasts until it is ended. Raises
        LeaseHeld while another holder's lease runs, unless forced, and ValueError outside 0 to
        MAX_LEASE_SECONDS."""
        ...

    async def renew(self, session_id: str, epoch: int, lease_seconds: float) -> Lease:
        """Lets the lease end `lease_seconds` from now, even one that has run out. Raises
        StaleEpoch when another has taken the session over, and ValueError as `take_over`."""
        ...

    async def release(self, session_id: str, epoch: int) -> None:
        """Ends the lease. The epoch stays valid until somebody takes over. Raises StaleEpoch."""
        ...

    async def begin_turn(
        self, session_id: str, epoch: int, length: int, turn: NewTurn
    ) -> TurnRecord:
        """Writes the prompt tokens and begins a turn, both or neither.

        A prompt that stands before the session's end takes the place of what is there, and the next
        epoch, `epoch + 1`, begins with it, as with a rewind. Turns before keep all their tokens for
        themselves, but can be gone on with no more.

        Raises InvalidRequest for a request id with a NUL character, StaleEpoch, AlreadyExists for a
        request id that the session has used, by a turn that a rewind dropped too, PositionMismatch,
        and ValueError for a start outside 0 to the length, in this order."""
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
        """Records why a turn ended, and ends the lease: who hears of the end may begin the next turn
        anywhere. Raises StaleEpoch, and ValueError for an unknown turn."""
        ...

    async def rewind(
        self, session_id: str, epoch: int, length: int, to_position: int
    ) -> SessionRecord:
        """Drops the committed tokens from `to_position` on, and begins a new epoch, which the
        record names: a write from before, delivered late, cannot pass for one of after.

        At the session's end it drops nothing, and only fences.

        The last turn that began before `to_position` is kept, and all turns before it; those after it
        are gone. Their request ids stay used, so that a late repeat of such a request generates nothing.
        The turn that wrote the first token dropped is cut, if it is kept: it loses its tokens from there
        on. The lease stays. Raises StaleEpoch, PositionMismatch, and InvalidRequest for a position
        outside 0 to the length, in this order."""
        ...

    async def take_back(
        self, session_id: str, epoch: int, length: int, turn_index: int
    ) -> SessionRecord:
        """Drops a turn and those after it, as a rewind does, and gives the session back all that it held
        before, what the turn's prompt took the place of included. Raises StaleEpoch, PositionMismatch,
        and ValueError for an unknown turn, in this order."""
        ...

    async def tokens(self, session_id: str, from_position: int = 0) -> list[int]:
        """The committed tokens from a position on."""
        ...

    async def turns(self, session_id: str) -> list[TurnRecord]:
        """All turns, in order."""
        ...

    async def find_turn(self, session_id: str, request_id: str) -> TurnRecord | None:
        """The turn of a request id; None when there is none, or a rewind dropped it."""
        ...

    async def turn_tokens(
        self, session_id: str, turn_index: int, from_index: int = 0
    ) -> list[LedgerToken]:
        """What a turn generated, from an index within it on, whether the session still holds it or
        another turn's prompt stands in its place. Empty for an unknown turn."""
        ...

    async def aclose(self) -> None:
        """Waits for the writes under way and closes the store."""
        ...
