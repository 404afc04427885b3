"""Drafters made of drafters, and the one that proposes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..core.types import Proposal
from .ngram import NgramDrafter
from .ports import Drafter


class NoDrafter:
    """Proposes nothing: the target decides one token a round."""

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Returns an empty proposal."""
        return Proposal(position)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Nothing to do."""


class ComposedDrafter:
    """The n-gram drafter or the model, whichever promises more tokens of this round.

    Where the model's guesses end before the window does, n-grams go on.
    What they promise comes from the session's `Confidence`, which learns from every commit.
    It serves the loops that are pinned: it chooses by tokens as a round begins and leaves the draft's pace
    as it is, where `PacedDrafter` chooses by measured times as a round ends, and sets that pace.
    """

    def __init__(self, ngram: NgramDrafter, model: Drafter) -> None:
        self._ngram = ngram
        self._model = model
        self._confidence = ngram.confidence
        self._guessed: tuple[int, ...] = ()

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Takes from the likelier one. Waits for no model that promises less."""
        promised = self._ngram.expected(maximum)
        if promised and promised >= self._confidence.expected_of_model(maximum):
            return self._ngram.propose(position, maximum)
        proposal = await self._model.take(position, minimum, maximum)
        self._guessed = proposal.tokens if proposal.start_position == position else ()
        if not self._guessed:
            by_ngram = self._ngram.propose(position, maximum)
            return replace(by_ngram, waited_ms=proposal.waited_ms, spent=proposal.spent)
        return self._ngram.continued(proposal, maximum)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Tells both, and learns how far the model's guesses agreed, if it was asked for any."""
        for guess, token in zip(self._guessed, tokens, strict=False):
            self._confidence.learn_model(guess == token)
            if guess != token:
                break
        self._guessed = ()
        self._ngram.commit(start_position, tokens)
        self._model.commit(start_position, tokens)
