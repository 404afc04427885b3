"""How many tokens to propose, and how: pure functions from measured costs to a decision.

Owns the model of what a token costs in each way of pacing draft and target. Knows no clock and no stream; who
measures is told in `estimates.py`, who decides when to measure again in `pacing.py`. Times are milliseconds.

The chance of agreement is taken to be the same at every position and independent of the others. With that,
`plain_ms` and `synchronous_ms` are exact, and `ahead_ms` is exact but for the phase of the draft's steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

MAX_LEAD = 64
MAX_WINDOW = 63
USUAL_LEAD = 8
USUAL_WINDOW = 7
"""What a session service has unless it is told otherwise."""
DEFAULT_MARGIN = 0.03
"""Speculation must promise to be this much faster than the target alone."""
FOLLOWED_STEPS = 8
"""Verify steps after a mismatch that `ahead_ms` follows one by one; later ones run at the steady rate."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the parts of a round cost now. Raises ValueError for what cannot be a cost."""

    draft_ms: float
    """One guess of the draft model."""
    round_trip_ms: float
    """A commit's way to the draft and the first guess's way back, without model time."""
    verify_ms: tuple[tuple[int, float], ...]
    """(tokens in the step, ms), ascending: steps run in padded buckets. The wire is included."""

    def __post_init__(self) -> None:
        sizes = [tokens for tokens, _ in self.verify_ms]
        if not sizes or sizes[0] < 1 or any(one >= next_one for one, next_one in pairwise(sizes)):
            raise ValueError("verify_ms needs buckets of 1 token or more, in ascending order")
        if not all(0 < ms < math.inf for ms in (self.draft_ms, *(ms for _, ms in self.verify_ms))):
            raise ValueError("the costs of models must be finite and above 0 ms")
        if not 0 <= self.round_trip_ms < math.inf:
            raise ValueError("round_trip_ms must be finite and not negative")

    def verify(self, tokens: int) -> float:
        """Cost of a step of `tokens`: that of the smallest bucket that holds them, or of the last one."""
        for size, ms in self.verify_ms:
            if tokens <= size:
                return ms
        return self.verify_ms[-1][1]


@dataclass(frozen=True, slots=True)
class Pace:
    """How the next rounds run."""

    window: int
    """Most tokens proposed in a round; 0 proposes nothing of the draft model."""
    minimum: int
    """Guesses that a round waits for, beside the first round of a turn, which waits for none."""
    lead: int
    """How far the draft may be ahead of what is committed; 0 where it should not draft."""
    ahead: bool
    """Whether the draft sends each guess alone and goes on while the target verifies."""
    predicted_ms: float
    """Expected time a token."""


def expected_tokens(agreement: float, window: int) -> float:
    """Tokens that a round of `window` guesses decides: (1 - a^(w+1)) / (1 - a). At least 1, at most w + 1.

    Leviathan, Kalman, Matias, arXiv 2211.17192, equation 1. Summed, so that it is right at 1 too.
    """
    _check(agreement, window)
    return math.fsum(agreement**guesses for guesses in range(window + 1))


def plain_ms(costs: Costs) -> float:
    """Time a token with nothing proposed."""
    return costs.verify(1)


def synchronous_ms(agreement: float, window: int, costs: Costs) -> float:
    """Time a token where draft and target take turns: (w td + R + tv(w + 1)) / E(a, w)."""
    round_ms = window * costs.draft_ms + costs.round_trip_ms + costs.verify(window + 1)
    return round_ms / expected_tokens(agreement, window)


def ahead_ms(agreement: float, window: int, costs: Costs, minimum: int = 1) -> float:
    """Time a token where the draft goes on guessing while the target verifies whatever has arrived.

    Follows the verify steps between two mismatches. Step j starts when the one before has ended and `minimum`
    guesses wait, takes at most `window` of them, and happens if all positions decided before it agreed, which
    has the chance a^(decided). A mismatch costs the round trip, the rest of the draft's present step (half of
    one on average) and `minimum` fresh guesses.

    On recorded agreement (td 0.2 to 8, tv 10, R 0.13 to 51 ms, windows 1 to 7) this is within 3 % of the
    simulator for td <= 0.5 and -7 to +10 % at td = 8, where the phase counts. The closed form
    (1-a)(R + td + tv + a tv/2) + a max(td, tv/width) is -2 to +28 % off, because it counts the first steps
    after a mismatch as a full one and a share of the steady rate, and it cannot say what waiting for more
    than one guess brings.
    """
    _check(agreement, window)
    if not 1 <= minimum <= window:
        raise ValueError("minimum must be 1 to window")
    draft_ms = costs.draft_ms
    decided, ended_ms, expected_ms = 0, 0.0, costs.round_trip_ms + draft_ms / 2
    for _ in range(FOLLOWED_STEPS):
        start_ms = max(ended_ms, (decided + minimum) * draft_ms)
        # A guess that arrives just as the step starts is in it, whatever the rounding.
        arrived = math.floor(start_ms / draft_ms + 1e-9)
        guesses = min(window, arrived - decided)
        end_ms = start_ms + costs.verify(guesses + 1)
        expected_ms += agreement**decided * (end_ms - ended_ms)
        decided, ended_ms = decided + guesses + 1, end_ms
    steady_ms = _steady_ms(window, costs)
    return (1 - agreement) * expected_ms + agreement**decided * steady_ms


def _steady_ms(window: int, costs: Costs) -> float:
    """Time a token while all guesses agree: the slowest of draft, target and the way between them."""
    verify_ms = costs.verify(window + 1)
    way_ms = costs.round_trip_ms + costs.draft_ms + verify_ms
    return max(costs.draft_ms, verify_ms / (window + 1), way_ms / lead(window, costs))


def lead(window: int, costs: Costs) -> int:
    """How far the draft must be ahead so that it never waits for a commit: 1 to `MAX_LEAD`.

    While a verify step and a round trip pass, the draft makes (R + tv) / td guesses, but the target takes no
    more than a window and one more for each of its steps.
    """
    verify_ms = costs.verify(window + 1)
    away_ms = costs.round_trip_ms + verify_ms
    in_flight = min(away_ms / costs.draft_ms, (window + 1) * away_ms / verify_ms)
    return min(max(1, math.ceil(in_flight) + window), MAX_LEAD)


def choose_pace(
    agreement: float,
    costs: Costs,
    max_window: int,
    *,
    ahead_costs: Costs | None = None,
    resting_ms: float | None = None,
    margin: float = DEFAULT_MARGIN,
) -> Pace:
    """The fastest pace for a chance of agreement, or the plain one unless another wins by `margin`.

    `ahead_costs` are those measured while both models work at once, `resting_ms` a round in which no draft
    works; by default both follow from `costs`. Windows are tried one by one: adding guesses while each pays
    for itself would stop at the edge of a bucket, beyond which more of them may pay again. Raises ValueError
    for an agreement outside 0 to 1 or a window outside 0 to 63.
    """
    _check(agreement, max_window)
    plain = Pace(0, 0, 0, False, plain_ms(costs) if resting_ms is None else resting_ms)
    speculative = best_speculation(agreement, costs, max_window, ahead_costs or costs)
    if speculative and speculative.predicted_ms < plain.predicted_ms * (1 - margin):
        return speculative
    return plain


def best_speculation(
    agreement: float, costs: Costs, max_window: int, ahead_costs: Costs
) -> Pace | None:
    """The fastest pace that proposes anything; None where `max_window` is 0. Of equals the smallest."""
    best: Pace | None = None
    for window in range(1, max_window + 1):
        predicted_ms = synchronous_ms(agreement, window, costs)
        if best is None or predicted_ms < best.predicted_ms:
            best = Pace(window, window, window, False, predicted_ms)
    # Running ahead a round takes what has arrived, so room up to the edge of a bucket is free.
    edges = {min(size - 1, max_window) for size, _ in ahead_costs.verify_ms} | {max_window}
    for window in sorted(edges - {0}):
        for minimum in range(1, window + 1):
            predicted_ms = ahead_ms(agreement, window, ahead_costs, minimum)
            if best is None or predicted_ms < best.predicted_ms:
                best = Pace(window, minimum, lead(window, ahead_costs), True, predicted_ms)
    return best


def _check(agreement: float, window: int) -> None:
    if not 0 <= agreement <= 1:
        raise ValueError("agreement must be 0 to 1")
    if not 0 <= window <= MAX_WINDOW:
        raise ValueError(f"window must be 0 to {MAX_WINDOW}")
