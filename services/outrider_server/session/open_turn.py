"""A turn as it was opened: one that goes on, with all that running it takes, or one that had ended before."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.types import Draw, FinishReason, Round
from ..speculation.turn import Turn
from .ledger.ledger import TurnRecord
from .live import Claim
from .peers.target_link import RemoteVerifier
from .requests import TurnRequest
from .text.turn_text import TurnText


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn whose prompt is committed. `tokens` are the session's, the prompt included."""

    request: TurnRequest
    record: TurnRecord
    claim: Claim
    epoch: int
    tokens: tuple[int, ...]
    kept: int
    """How many of them the session held before it was opened here."""
    draw: Draw
    end: TurnText
    verifier: RemoteVerifier
    told: Round | None = None
    """What is to be told of the turn before it goes on, where there is anything."""
    generated: int = 0
    """Tokens of the turn that were committed before it was opened here."""

    def turn(self, window: int, context_tokens: int) -> Turn:
        """The state that the loop decodes with."""
        room = context_tokens - self.record.generated_from
        left = min(self.request.max_new_tokens, room) - self.generated
        return Turn(self.tokens, self.verifier.known_length, window, self.end, left)


@dataclass(frozen=True, slots=True)
class EndedTurn:
    """A turn of which nothing is left but to tell it; fields as in `OpenTurn`."""

    request: TurnRequest
    record: TurnRecord
    claim: Claim
    epoch: int
    finish_reason: FinishReason
    told: Round | None
    generated: int
