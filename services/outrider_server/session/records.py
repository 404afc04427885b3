"""What the ledger holds of a session, read for whoever opens a turn or asks for it."""

from __future__ import annotations

from ..core.errors import ModelMismatch, NotFound
from .conversation import Held
from .ledger.ledger import Ledger, LedgerToken, SessionRecord, TurnRecord

OWNER = ""


class SessionRecords:
    """The sessions that were made with one target."""

    def __init__(self, ledger: Ledger, model_fingerprint: str) -> None:
        self._ledger = ledger
        self._model_fingerprint = model_fingerprint

    async def session(self, session_id: str) -> SessionRecord:
        """A session. Raises NotFound, and ModelMismatch for one of another target's."""
        session = await self._ledger.get_session(session_id, OWNER)
        if session.model_fingerprint != self._model_fingerprint:
            raise ModelMismatch(
                f"the session was made with another target (model {session.model_fingerprint[:12]}, and this"
                f" service's is {self._model_fingerprint[:12]}); start the target as it was, or create a new"
                " session"
            )
        return session

    async def held(self, session_id: str, *, with_turns: bool = True) -> Held:
        """A session's tokens; of its turns nothing where these are not asked for."""
        tokens = await self._ledger.tokens(session_id)
        turns = await self._ledger.turns(session_id) if with_turns else []
        generated = await self.generated(turns[-1]) if turns else []
        return Held(tokens, turns, generated)

    async def turn(self, session_id: str, request_id: str) -> tuple[bool, TurnRecord]:
        """Whether it is the last one, and a turn by its id, by default the last. Raises NotFound."""
        turns = await self._ledger.turns(session_id)
        last = turns[-1] if turns else None
        found = await self._ledger.find_turn(session_id, request_id) if request_id else last
        if found is None or last is None:
            raise NotFound("the session has no such turn; begin one with Generate")
        return found.turn_index == last.turn_index, found

    async def generated(self, record: TurnRecord) -> list[LedgerToken]:
        """What a turn has decided."""
        return await self._ledger.turn_tokens(record.session_id, record.turn_index)
