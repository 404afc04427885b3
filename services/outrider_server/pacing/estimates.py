"""What the window policy believes: how often guesses agree, what things cost, when to look again.

Each class owns one estimate and is fed by whoever measures. None knows a clock, a stream or a model: age is
counted in tokens, observations or rounds.
"""

from __future__ import annotations

import math

PRIOR_AGREEMENT = 0.7
PRIOR_TOKENS = 8.0
AGREEMENT_HALF_LIFE_TOKENS = 64.0
COST_HALF_LIFE = 8.0
LARGEST_STEP_UP = 3.0
ALWAYS_BELIEVED_MS = 1.0
"""An estimate of 0 ms must be able to grow."""
FIRST_REST_ROUNDS = 8
LONGEST_REST_ROUNDS = 128


class AgreementEstimate:
    """The chance that the draft's next guess agrees, from counts that fade with the tokens that pass.

    A beta distribution's mean. It starts at `prior` with the weight of `prior_tokens` observed guesses. What
    was seen `half_life_tokens` ago counts half of what is seen now, but all of it together never less than
    `prior_tokens`: with nothing newer the last belief stands, and gives way quickly to what comes.
    """

    def __init__(
        self,
        prior: float = PRIOR_AGREEMENT,
        prior_tokens: float = PRIOR_TOKENS,
        half_life_tokens: float = AGREEMENT_HALF_LIFE_TOKENS,
    ) -> None:
        if not 0 <= prior <= 1 or prior_tokens <= 0 or half_life_tokens <= 0:
            raise ValueError("the prior must be 0 to 1, its weight and the half-life above 0")
        self._agreed = prior * prior_tokens
        self._weight = prior_tokens
        self._least_weight = prior_tokens
        self._half_life_tokens = half_life_tokens

    @property
    def value(self) -> float:
        """The estimate, 0 to 1."""
        return min(1.0, self._agreed / self._weight)

    def observe(self, proposed: int, agreed: int) -> None:
        """Counts `agreed` successes, and one failure where fewer agreed than were proposed.

        Guesses after the first wrong one say nothing: they continue a text that is not the target's. Raises
        ValueError unless 0 <= agreed <= proposed.
        """
        if not 0 <= agreed <= proposed:
            raise ValueError("agreed must be 0 to proposed")
        judged = min(agreed + 1, proposed)
        self.fade(judged)
        self._agreed += agreed
        self._weight += judged

    def fade(self, tokens: int) -> None:
        """Notes that `tokens` were decided of which no guess was seen. Changes the weight, not the value."""
        kept = max(0.5 ** (tokens / self._half_life_tokens), self._least_weight / self._weight)
        kept = min(1.0, kept)
        self._agreed *= kept
        self._weight *= kept


class CostEstimate:
    """A decaying mean in milliseconds that one step which waited for the processor hardly moves.

    An observation counts as at most `LARGEST_STEP_UP` times the estimate; a lasting rise is followed within a
    few. The first observations are averaged evenly, so that a bad first one fades as quickly as any.
    """

    def __init__(self, half_life: float = COST_HALF_LIFE) -> None:
        if half_life <= 0:
            raise ValueError("the half-life must be above 0 observations")
        self._share = 1 - 0.5 ** (1 / half_life)
        self._count = 0
        self._ms = 0.0

    @property
    def value_ms(self) -> float | None:
        """The estimate; None before the first observation."""
        return self._ms if self._count else None

    def observe(self, ms: float) -> None:
        """Takes one measured time. Raises ValueError for one that is negative or no number."""
        if not 0 <= ms < math.inf:
            raise ValueError("a measured time must be finite and not negative")
        self._count += 1
        most_ms = max(LARGEST_STEP_UP * self._ms, ALWAYS_BELIEVED_MS)
        bounded = ms if self._count == 1 else min(ms, most_ms)
        self._ms += max(self._share, 1 / self._count) * (bounded - self._ms)


class Probe:
    """When to look again at a draft that did not pay: after 8 rounds, then 16, at last every 128."""

    def __init__(self) -> None:
        self._rest_rounds = FIRST_REST_ROUNDS
        self._rested = 0

    @property
    def due(self) -> bool:
        """Whether the draft has rested long enough."""
        return self._rested >= self._rest_rounds

    def rest(self) -> None:
        """Counts a round without the draft."""
        self._rested += 1

    def answer(self, pays: bool) -> None:
        """Takes the result of looking: the next rest is twice as long, or the first one again."""
        doubled = min(2 * self._rest_rounds, LONGEST_REST_ROUNDS)
        self._rest_rounds = FIRST_REST_ROUNDS if pays else doubled
        self._rested = 0
