"""What proposes the tokens of a turn: the draft, n-grams, both in turn, or nothing.

Owns what of it outlives turns: the sessions' n-grams and how many turns run. Knows nothing of how proposals
are verified.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.types import DraftMode, LoopMode
from ..pacing.crowd import Crowd
from ..pacing.meter import CostMeter, TurnMeter
from ..pacing.pacer import Pacer
from ..pacing.window import USUAL_LEAD, USUAL_WINDOW
from ..speculation.drafters import ComposedDrafter, NoDrafter
from ..speculation.paced import PacedDrafter
from ..speculation.paced_ngram import PacedNgramDrafter
from ..speculation.ports import Drafter
from .ngrams import NgramMemory
from .open_turn import OpenTurn
from .peers.draft_link import DraftedTurn, RemoteDrafter
from .peers.drafts import Drafts
from .requests import TurnRequest
from .text.model import ServedModel


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop paces draft and target, unless a request says otherwise."""

    window: int = USUAL_WINDOW
    lead: int = USUAL_LEAD
    mode: LoopMode = LoopMode.ADAPTIVE


@dataclass(frozen=True, slots=True)
class TurnDrafter:
    """What proposes the tokens of one turn, and learns what its rounds cost."""

    drafter: Drafter
    meter: TurnMeter
    model: RemoteDrafter | None = None
    """The part of it that is a draft model."""
    trouble: str = ""
    """What is wrong already."""


class Drafting:
    """The drafters of all turns of this process."""

    def __init__(self, model: ServedModel, draft: Drafts | None, settings: LoopSettings) -> None:
        self.crowd = Crowd()
        self._model = model
        self._draft = draft
        self._settings = settings
        self._ngrams = NgramMemory()
        self._costs = CostMeter(model.description.width)

    def forget(self, session_id: str) -> None:
        """Drops what is kept of a session that is deleted."""
        self._ngrams.forget(session_id)

    def window(self, request: TurnRequest) -> int:
        """The most tokens that a round of the turn proposes."""
        window = self._settings.window if request.max_window is None else request.max_window
        return min(window, self._model.description.width - 1)

    def mode(self, request: TurnRequest) -> LoopMode:
        """Which loop decodes the turn."""
        return request.loop or self._settings.mode

    def close(self, drafter: RemoteDrafter) -> None:
        """Ends a turn on its draft."""
        assert self._draft is not None, "the drafter came from there"
        self._draft.close(drafter)

    def open(self, opened: OpenTurn) -> TurnDrafter:
        """What proposes the turn's tokens."""
        request, window = opened.request, self.window(opened.request)
        if request.draft is DraftMode.OFF or window == 0:
            return TurnDrafter(NoDrafter(), TurnMeter(self._costs, resting=True))
        if request.draft is DraftMode.NGRAM or self._draft is None:
            missing = request.draft is DraftMode.MODEL
            trouble = "the service has no draft; it proposes from n-grams" if missing else ""
            return self._by_ngram(opened, trouble)
        model = self._draft.open_turn(self._drafted(opened, window))
        if model is None:
            return self._by_ngram(opened, "no draft has answered lately; they rest")
        mode = self.mode(request)
        meter = TurnMeter(self._costs, ahead=mode is LoopMode.RUN_AHEAD)
        ngram = None
        if request.draft is not DraftMode.MODEL:
            ngram = self._ngrams.open(request.session_id, opened.tokens)
        if mode is LoopMode.ADAPTIVE:
            pacer = Pacer(self._ngrams.agreement(request.session_id), window)
            paced = PacedDrafter(model, ngram, pacer, meter, self.crowd, window)
            return TurnDrafter(paced, meter, model)
        both = model if ngram is None else ComposedDrafter(ngram, model)
        return TurnDrafter(both, meter, model)

    def _by_ngram(self, opened: OpenTurn, trouble: str) -> TurnDrafter:
        ngram = self._ngrams.open(opened.request.session_id, opened.tokens)
        meter = TurnMeter(self._costs, resting=True)
        if self.mode(opened.request) is not LoopMode.ADAPTIVE:
            return TurnDrafter(ngram, meter, trouble=trouble)
        return TurnDrafter(PacedNgramDrafter(ngram, meter, self.crowd), meter, trouble=trouble)

    def _drafted(self, opened: OpenTurn, window: int) -> DraftedTurn:
        mode, description = self.mode(opened.request), self._model.description
        # The plain loop waits for whole windows; the others say with their first commit what they want.
        plain = mode is LoopMode.SYNCHRONOUS
        lead, burst = (window, window) if plain else (self._settings.lead, 1)
        return DraftedTurn(
            opened.request.session_id,
            opened.epoch,
            opened.tokens,
            opened.kept,
            opened.draw,
            max(lead, window),
            burst,
            description.vocabulary_fingerprint,
            description.vocabulary_size,
            ahead=mode is LoopMode.RUN_AHEAD,
        )
