"""The life of a turn: every state, every event, every legal move, in one table.

    ACCEPTED ──prompt recorded──▶ DECODING ──last round recorded──▶ FINISHED
        │                            │
        ├──── caller went away ──────┼──▶ CANCELLED
        └──── an error ──────────────┴──▶ FAILED

A move that is not in the table raises and changes nothing. FINISHED, CANCELLED and FAILED are final.
"""

from __future__ import annotations

import enum

from ..core.errors import IllegalMove


class TurnState(enum.Enum):
    """Where a turn stands."""

    ACCEPTED = "accepted"
    DECODING = "decoding"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


class TurnEvent(enum.Enum):
    """What can happen to a turn."""

    PROMPT_RECORDED = "prompt recorded"
    ROUND_RECORDED = "round recorded"
    LAST_ROUND_RECORDED = "last round recorded"
    CALLER_GONE = "caller gone"
    ERROR = "error"


TRANSITIONS: dict[tuple[TurnState, TurnEvent], TurnState] = {
    (TurnState.ACCEPTED, TurnEvent.PROMPT_RECORDED): TurnState.DECODING,
    (TurnState.ACCEPTED, TurnEvent.CALLER_GONE): TurnState.CANCELLED,
    (TurnState.ACCEPTED, TurnEvent.ERROR): TurnState.FAILED,
    (TurnState.DECODING, TurnEvent.ROUND_RECORDED): TurnState.DECODING,
    (TurnState.DECODING, TurnEvent.LAST_ROUND_RECORDED): TurnState.FINISHED,
    (TurnState.DECODING, TurnEvent.CALLER_GONE): TurnState.CANCELLED,
    (TurnState.DECODING, TurnEvent.ERROR): TurnState.FAILED,
}

FINAL_STATES = frozenset({TurnState.FINISHED, TurnState.CANCELLED, TurnState.FAILED})


class Lifecycle:
    """One turn's state. Only `move` changes it."""

    def __init__(self) -> None:
        self._state = TurnState.ACCEPTED

    @property
    def state(self) -> TurnState:
        """Where the turn stands."""
        return self._state

    @property
    def ended(self) -> bool:
        """True when nothing can happen to the turn any more."""
        return self._state in FINAL_STATES

    def move(self, event: TurnEvent) -> TurnState:
        """Moves by the table. Raises IllegalMove, changing nothing, for a move it does not have."""
        following = TRANSITIONS.get((self._state, event))
        if following is None:
            raise IllegalMove(f"a turn that is {self._state.value} cannot take '{event.value}'")
        self._state = following
        return following
