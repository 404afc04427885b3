"""Drafters made of drafters, and the one that proposes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from .ngram import NgramDrafter
from .ports import Drafter
from .types import Proposal

CONFIDENT_MATCH = 4
"""An n-gram match of this many tokens is preferred to the draft model's guess."""


class NoDrafter:
    """Proposes nothing: the target decides one token a round."""

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Returns an empty proposal."""
        return Proposal(position)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Nothing to do."""


class ComposedDrafter:
    """The n-gram drafter where its match is long or the model has nothing, the model otherwise."""

    def __init__(self, ngram: NgramDrafter, model: Drafter) -> None:
        self._ngram = ngram
        self._model = model

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Takes from the drafter that is likelier to be right."""
        size, _ = self._ngram.match()
        if size >= CONFIDENT_MATCH:
            return self._ngram.propose(position, maximum)
        proposal = await self._model.take(position, minimum, maximum)
        return proposal if proposal.tokens else self._ngram.propose(position, maximum)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Tells both."""
        self._ngram.commit(start_position, tokens)
        self._model.commit(start_position, tokens)
