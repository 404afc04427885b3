"""What proposes the tokens of a turn: the draft, n-grams, both in turn, or nothing.

Owns what of it outlives turns: the sessions' n-grams and how many turns run. Knows nothing of how proposals
are verified.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.types import DraftMode, LoopMode
from ..pacing.crowd import Crowd
from ..pacing.pacer import Pacer
from ..speculation.drafters import ComposedDrafter, NoDrafter
from ..speculation.paced import PacedDrafter
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

    window: int = 7
    lead: int = 8
    mode: LoopMode = LoopMode.ADAPTIVE


class Drafting:
    """The drafters of all turns of this process."""

    def __init__(self, model: ServedModel, draft: Drafts | None, settings: LoopSettings) -> None:
        self.crowd = Crowd()
        self._model = model
        self._draft = draft
        self._settings = settings
        self._ngrams = NgramMemory()

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

    def open(self, opened: OpenTurn) -> tuple[Drafter, RemoteDrafter | None, str]:
        """The turn's drafter, the part of it that is a model, and what is wrong already."""
        request, settings = opened.request, self._settings
        window = self.window(request)
        opened.meter.resting = True
        if request.draft is DraftMode.OFF or window == 0:
            return NoDrafter(), None, ""
        if request.draft is DraftMode.NGRAM or self._draft is None:
            missing = request.draft is DraftMode.MODEL
            trouble = "the service has no draft; it proposes from n-grams" if missing else ""
            return self._ngrams.open(request.session_id, opened.tokens), None, trouble
        mode = self.mode(request)
        opened.meter.resting = False
        opened.meter.ahead = mode is LoopMode.RUN_AHEAD
        # The plain loop waits for whole windows; the others say with their first commit what they want.
        lead, burst = (window, window) if mode is LoopMode.SYNCHRONOUS else (settings.lead, 1)
        model = self._draft.open_turn(
            DraftedTurn(
                request.session_id,
                opened.epoch,
                opened.tokens,
                opened.kept,
                opened.draw,
                max(lead, window),
                burst,
                self._model.description.vocabulary_fingerprint,
                self._model.description.vocabulary_size,
            ),
            opened.meter,
        )
        if model is None:
            opened.meter.resting = True
            trouble = "no draft has answered lately; they rest"
            return self._ngrams.open(request.session_id, opened.tokens), None, trouble
        ngram = None
        if request.draft is not DraftMode.MODEL:
            ngram = self._ngrams.open(request.session_id, opened.tokens)
        if mode is LoopMode.ADAPTIVE:
            agreement = self._ngrams.agreement(request.session_id)
            pacer = Pacer(agreement, window)
            paced = PacedDrafter(model, ngram, pacer, opened.meter, self.crowd, window)
            return paced, model, ""
        return (model if ngram is None else ComposedDrafter(ngram, model)), model, ""
