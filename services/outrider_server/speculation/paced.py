"""The drafter of an adaptive turn: who proposes the next tokens, how many, and whether the draft runs ahead.

Decides when a round is closed, from what is measured, and tells the draft with the commit; the next `take`
only carries the decision out. So the draft never works for a round that n-grams will serve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import mul

from ..core.types import Proposal, TokenSource
from ..pacing.crowd import Crowd
from ..pacing.meter import TurnMeter
from ..pacing.pacer import Pacer
from ..pacing.window import Costs, Pace
from .ngram import NgramDrafter
from .ports import ModelDrafter

FIRST_WINDOW = 4
"""Guesses to ask for while nothing has been measured yet."""


class PacedDrafter:
    """Drafts with the model where that pays, with n-grams where they promise more for the time.

    `ngram` None leaves the model alone. The first round of a turn waits for nothing.
    """

    def __init__(
        self,
        model: ModelDrafter,
        ngram: NgramDrafter | None,
        pacer: Pacer,
        meter: TurnMeter,
        crowd: Crowd,
        max_window: int,
    ) -> None:
        self._model = model
        self._ngram = ngram
        self._pacer = pacer
        self._meter = meter
        self._crowd = crowd
        self._max_window = max_window
        self._decide()

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Takes what was decided on. Waits for the model only where the pace says so."""
        proposal = await self._proposal(position, minimum, maximum)
        return replace(proposal, spent=(*proposal.spent, *self._model.spent()))

    async def _proposal(self, position: int, minimum: int, maximum: int) -> Proposal:
        if not self._speculates:
            return Proposal(position)
        window = min(self._pace.window, maximum)
        if self._by_ngram or not window:
            return self._proposed_by_ngram(position, maximum)
        wanted = min(self._pace.minimum, window) if minimum else 0
        proposal = await self._model.take(position, wanted, window)
        if not proposal.tokens:
            waited = proposal
            proposal = self._proposed_by_ngram(position, maximum)
            return replace(proposal, waited_ms=waited.waited_ms, spent=waited.spent)
        if self._ngram is not None:
            proposal = self._ngram.continued(proposal, maximum)
        return replace(proposal, survival=self._survival(proposal))

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Learns from the decided tokens, decides on the next round and tells the draft."""
        if self._ngram is not None:
            self._ngram.commit(start_position, tokens)
        self._model.commit(start_position, tokens)
        compared, agreed = self._model.compared()
        self._pacer.observe(compared, agreed, len(tokens))
        if self._meter.round_ms is not None:
            self._crowd.observe(self._speculates, self._meter.round_ms, len(tokens))
        self._decide()

    def _decide(self) -> None:
        """Chooses the pace of the next round and who proposes in it."""
        meter = self._meter
        self._speculates = self._crowd.speculates
        if not self._speculates:
            meter.ahead, meter.resting = False, True
            self._model.pace(0, 1)
            return
        costs, ahead_costs = meter.costs.costs(ahead=False), meter.costs.costs(ahead=True)
        if costs is None:
            window = min(FIRST_WINDOW, self._max_window)
            self._pace = Pace(window, window, window, False, math.inf)
        else:
            most = meter.costs.useful_window(self._max_window)
            self._pace = self._pacer.choose(costs, ahead_costs, most, meter.costs.resting_ms)
        self._by_ngram = self._ngram_is_faster(costs)
        meter.ahead = self._pace.ahead and not self._by_ngram
        lead = 0 if self._by_ngram else self._pace.lead
        meter.resting = lead == 0
        self._model.pace(lead, max(1, self._pace.minimum), meter.ahead)

    def _ngram_is_faster(self, costs: Costs | None) -> bool:
        """Whether n-grams, which cost nothing, promise more tokens for the time than the model does."""
        promised = self._ngram.expected(self._max_window) if self._ngram is not None else 0.0
        if not promised or costs is None:
            return promised > 0 and self._pace.window == 0
        round_ms = self._meter.costs.resting_ms or costs.verify(self._max_window + 1)
        return round_ms / (1 + promised) <= self._pace.predicted_ms

    def _proposed_by_ngram(self, position: int, maximum: int) -> Proposal:
        if self._ngram is None:
            return Proposal(position)
        proposal = self._ngram.propose(position, maximum)
        return replace(proposal, survival=self._survival(proposal))

    def _survival(self, proposal: Proposal) -> tuple[float, ...]:
        """Chance that each token and all before it agree."""
        of_model = self._pacer.agreement.value
        model_count = sum(source is TokenSource.DRAFT for source in proposal.sources)
        chances = [of_model] * model_count
        if self._ngram is not None:
            chances += self._ngram.chances(len(proposal.tokens) - model_count)
        return tuple(accumulate(chances, mul))
