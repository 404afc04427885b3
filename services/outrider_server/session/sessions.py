"""What can be asked of this process's sessions: one object behind the public API, whatever its wire.

Owns the parts that turns share. Knows no protobuf. Sessions are told of as (record, whether a turn runs).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from ..core.description import ModelDescription
from ..core.errors import Exhausted, InvalidRequest, OutriderError
from ..core.surroundings import Surroundings
from ..rpc.telemetry import TurnMetrics
from .conversation import Held
from .drafting import Drafting, LoopSettings
from .ledger.ledger import Ledger, SessionRecord
from .ledger.patience import in_time
from .live import LiveSessions
from .opening import TurnOpener
from .peers.drafts import Drafts
from .peers.targets import Targets
from .records import OWNER, SessionRecords
from .requests import TurnRequest
from .running_turn import RunningTurn, TurnParts
from .text.model import ServedModel
from .text.reading import Reading
from .trace import TurnTrace

DEFAULT_PAGE_SIZE = 100
DRAFT_DESCRIBE_TIMEOUT_MS = 500

Found = tuple[SessionRecord, bool]
Metadata = Iterable[tuple[str, str | bytes]]


class Sessions:
    """The sessions of one model. What is refused raises OutriderError, with nothing changed."""

    def __init__(
        self,
        model: ServedModel,
        targets: Targets,
        drafts: Drafts | None,
        ledger: Ledger,
        settings: LoopSettings,
        surroundings: Surroundings,
        lease_seconds: float | None = None,
    ) -> None:
        """`lease_seconds` None is for a ledger that serves this process alone."""
        self.model = model
        self.targets = targets
        self.surroundings = surroundings
        self.live = LiveSessions(ledger, lease_seconds, new_id=surroundings.new_id)
        self.reading = Reading(surroundings.chance)
        self.max_window = min(settings.window, model.description.width - 1)
        self._drafts = drafts
        self._ledger = ledger
        self._records = SessionRecords(ledger, model.description.model_fingerprint)
        self._opener = TurnOpener(model, targets, ledger, self._records, self.live, self.reading)
        self._drafting = Drafting(model, drafts, settings)
        self._parts = TurnParts(
            self._opener,
            self._drafting,
            targets,
            ledger,
            self.live,
            TurnMetrics(),
            model.description.max_context_tokens,
            surroundings.clock,
        )

    async def settle(self) -> None:
        """Waits until nothing is left to write of turns that have ended. No turn can begin any more."""
        await self.live.settle()
        self.reading.close()

    async def create(self, ttl_seconds: int | None) -> Found:
        """An empty session."""
        fingerprint = self.model.description.model_fingerprint
        async with in_time():
            return await self._ledger.create_session(OWNER, fingerprint, ttl_seconds), False

    async def get(
        self, session_id: str, *, with_tokens: bool, with_turns: bool
    ) -> tuple[Found, list[int], Held | None]:
        """A session, and what of it is asked for: its tokens, and what its messages are made of."""
        async with in_time():
            record = await self._ledger.get_session(session_id, OWNER)
            tokens = await self._ledger.tokens(session_id) if with_tokens else []
            held = await self._records.held(session_id) if with_turns else None
        return (record, self.live.runs_turn(record)), tokens, held

    async def page(self, page_size: int, page_token: str) -> tuple[list[Found], str]:
        """A page of sessions, and the token of the next; 0 asks for pages of a usual size."""
        async with in_time():
            page = await self._ledger.list_sessions(
                OWNER, page_size or DEFAULT_PAGE_SIZE, page_token
            )
        found = [(record, self.live.runs_turn(record)) for record in page.sessions]
        return found, page.next_page_token

    async def delete(self, session_id: str) -> None:
        """Deletes a session that runs no turn, and frees its slots."""
        async with in_time():
            record = await self._ledger.get_session(session_id, OWNER)
            self.live.check_idle(record)
            await self._ledger.delete_session(session_id, OWNER)
        self.live.forget(session_id)
        self._drafting.forget(session_id)
        # A slot that is not freed now is reused when it has been idle longest.
        for holder in (self.targets, self._drafts):
            with contextlib.suppress(OutriderError):
                if holder is not None:
                    await holder.release(session_id, max(record.epoch, 1))

    async def fork(self, session_id: str, position: int | None) -> Found:
        """Copies a session that runs no turn up to a position, or all of it, with what its target holds."""
        async with in_time():
            record = await self._ledger.get_session(session_id, OWNER)
            self.live.check_idle(record)
            position = record.length if position is None else position
            _check_position(position, record.length)
            copy = await self._ledger.fork(session_id, OWNER, position)
        # What the target does not copy it reads again.
        with contextlib.suppress(OutriderError):
            await self.targets.fork(session_id, copy.session_id, position, max(record.epoch, 1))
        return copy, False

    async def rewind(self, session_id: str, position: int) -> Found:
        """Drops what a session that runs no turn holds from a position on."""
        return await self._rewound(session_id, position, "")

    async def take_back(self, session_id: str, request_id: str) -> Found:
        """Takes a turn of a session that runs none back, and what came after it; one that is not there was
        taken back before, by a call whose answer was lost perhaps."""
        return await self._rewound(session_id, 0, request_id)

    def generate(
        self, request: TurnRequest, seed_is_given: bool, metadata: Metadata | None
    ) -> RunningTurn:
        """A turn; one that was begun before under the same request id is told again and goes on."""
        self._check_room(request.session_id)
        trace = TurnTrace(request.session_id, metadata, self.surroundings.wall_ns)
        return RunningTurn(
            lambda: self._opener.generate(request, seed_is_given, trace), self._parts, trace
        )

    def attach(
        self, session_id: str, request_id: str, from_index: int, metadata: Metadata | None
    ) -> RunningTurn:
        """A turn that was begun, here or elsewhere, from an index on. Whoever ran it loses the session."""
        trace = TurnTrace(session_id, metadata, self.surroundings.wall_ns)
        return RunningTurn(
            lambda: self._opener.attach(session_id, request_id, from_index, trace),
            self._parts,
            trace,
        )

    async def describe_draft(self) -> tuple[ModelDescription | None, str]:
        """The draft, and what is to be said of it."""
        if self._drafts is None:
            return None, "no draft service is configured"
        try:
            draft = await self._drafts.describe(DRAFT_DESCRIBE_TIMEOUT_MS)
        except OutriderError as error:
            return None, str(error)
        if draft.vocabulary_fingerprint != self.model.description.vocabulary_fingerprint:
            return draft, "the draft's vocabulary is not the target's; it is not used"
        return draft, ""

    def _check_room(self, session_id: str) -> None:
        """Raises Exhausted where no target would take a turn of the session: before anything is read."""
        try:
            self.targets.check_room(session_id)
        except Exhausted:
            self._parts.metrics.refused.add(1)
            raise

    async def _rewound(self, session_id: str, position: int, request_id: str) -> Found:
        """Rewinds under a claim, so that no turn begins meanwhile."""
        async with in_time():
            await self._ledger.get_session(session_id, OWNER)
            claim = self.live.claim(session_id)
            try:
                epoch = await self.live.epoch(session_id)
                try:
                    record = await self._rewind(session_id, epoch, position, request_id)
                except OutriderError as error:
                    self.live.lost(session_id, epoch, error)
                    raise
                self.live.moved(session_id, record.epoch)
            except BaseException:
                self.live.free(claim)
                raise
            await self.live.give_back(claim)
        return record, False

    async def _rewind(
        self, session_id: str, epoch: int, position: int, request_id: str
    ) -> SessionRecord:
        length = (await self._ledger.get_session(session_id, OWNER)).length
        if not request_id:
            _check_position(position, length)
            return await self._ledger.rewind(session_id, epoch, length, position)
        turn = await self._ledger.find_turn(session_id, request_id)
        if turn is None:
            return await self._ledger.rewind(session_id, epoch, length, length)
        return await self._ledger.take_back(session_id, epoch, length, turn.turn_index)


def _check_position(position: int, length: int) -> None:
    """Raises InvalidRequest for a position that the session does not have."""
    if not 0 <= position <= length:
        raise InvalidRequest("position", f"position must be 0 to the session's {length} tokens")
