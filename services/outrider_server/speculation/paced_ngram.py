"""The drafter of an adaptive turn that has no draft model: n-grams, weighed.

Each proposal carries the chance of its tokens, by which the target keeps as many as pay (see
`engine/scheduling/batching.py`); a turn among others proposes while all of them do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import mul

from ..core.types import Proposal
from ..pacing.crowd import Crowd
from ..pacing.meter import TurnMeter
from .ngram import NgramDrafter


class PacedNgramDrafter:
    """Proposes from n-grams where sessions that run at once are faster for it."""

    def __init__(self, ngram: NgramDrafter, meter: TurnMeter, crowd: Crowd) -> None:
        self._ngram = ngram
        self._meter = meter
        self._crowd = crowd
        self._meter.resting = True
        self._speculates = crowd.speculates

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Takes what stood after the match, or nothing. Never waits."""
        if not self._speculates:
            return Proposal(position)
        proposal = self._ngram.propose(position, maximum)
        chances = self._ngram.chances(len(proposal.tokens))
        return replace(proposal, survival=tuple(accumulate(chances, mul)))

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Learns from the decided tokens and decides on the next round."""
        self._ngram.commit(start_position, tokens)
        if self._meter.round_ms is not None:
            self._crowd.observe(self._speculates, self._meter.round_ms, len(tokens))
        self._speculates = self._crowd.speculates
