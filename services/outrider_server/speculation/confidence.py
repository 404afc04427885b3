"""How likely guesses are to agree with the target, learnt from what the target decided.

Owns the chances of one session: one for the draft model, one for each class of n-gram matches, by length.
Knows neither drafters nor tokens; plain numbers in and out.

A chance is a mean over the session's own outcomes in which an old outcome weighs less than a new one. It
begins where it stands in other sessions, and in the first about half-way between what was measured on two
kinds of text: Python source of the bundled pair (64 prompts, 256 tokens each, at temperatures 0, 0.7 and 1),
and chats of SmolLM2-135M-Instruct (2,400 replies of 645,000 tokens, at the same). There the token after a
match of one agreed in 36 % and in 16 % of cases, after a match of twenty in 99 % of both; the bundled draft's
guess in 64 %. Beside its length, neither recent success nor the number of places told much of a match.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from statistics import fmean

MATCH_CLASSES = (1, 2, 3, 4, 6, 9, 13, 20)
"""Shortest match, in tokens, of each class."""

MATCH_CHANCES = (0.28, 0.48, 0.57, 0.71, 0.80, 0.85, 0.89, 0.97)
"""Where the chance of each class begins."""

MODEL_CHANCE = 0.65
"""Where the draft model's chance begins."""

FIRST_WEIGHT = 8.0
"""The beginning counts as this many outcomes."""

KEPT = 0.98
"""What is left of an outcome's weight after each later one of its kind: half after 34."""


class Chance:
    """A decaying mean of outcomes."""

    def __init__(self, first: float) -> None:
        self._agreed = first * FIRST_WEIGHT
        self._weight = FIRST_WEIGHT

    @property
    def value(self) -> float:
        """The chance, 0 to 1."""
        return self._agreed / self._weight

    def learn(self, agreed: bool) -> None:
        """Counts one outcome."""
        self._agreed = self._agreed * KEPT + agreed
        self._weight = self._weight * KEPT + 1


class Confidence:
    """The chances of one session."""

    def __init__(
        self, model: float = MODEL_CHANCE, matches: Sequence[float] = MATCH_CHANCES
    ) -> None:
        self._model = Chance(model)
        self._matches = tuple(Chance(first) for first in matches)

    @classmethod
    def after(cls, others: Sequence[Confidence]) -> Confidence:
        """Begins as the mean of what was learnt elsewhere, if anything was."""
        if not others:
            return cls()
        by_class = zip(
            *([chance.value for chance in other._matches] for other in others), strict=True
        )
        return cls(
            fmean(other.of_model() for other in others), [fmean(values) for values in by_class]
        )

    def of_model(self) -> float:
        """Chance that a guess of the draft model agrees, if those before it did."""
        return self._model.value

    def of_match(self, length: int) -> float:
        """Chance that the token after a match of `length` tokens comes again; 0 without a match."""
        return self._matches[_match_class(length)].value if length else 0.0

    def learn_model(self, agreed: bool) -> None:
        """Takes the outcome of one guess of the model, none before it having failed."""
        self._model.learn(agreed)

    def learn_match(self, length: int, agreed: bool) -> None:
        """Takes the outcome of one match of one token or more."""
        self._matches[_match_class(length)].learn(agreed)

    def expected_of_model(self, count: int) -> float:
        """How many of the model's first `count` guesses will agree, on average."""
        chance = self.of_model()
        return sum(chance**depth for depth in range(1, count + 1))

    def expected_of_match(self, length: int, count: int) -> float:
        """How many of the `count` tokens after a match will come again; each makes the match longer."""
        expected, chance = 0.0, 1.0
        for agreed in range(count if length else 0):
            chance *= self.of_match(length + agreed)
            expected += chance
        return expected


def _match_class(length: int) -> int:
    return bisect_right(MATCH_CLASSES, length) - 1
