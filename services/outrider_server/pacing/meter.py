"""What the parts of a round cost: told with each round, kept for all sessions of a service.

`CostMeter` owns the estimates that the window policy runs on, `TurnMeter` feeds them with one turn's rounds.
Times are milliseconds; nothing here knows a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.types import Round
from .estimates import CostEstimate
from .window import Costs

LEAST_MS = 1e-3
"""No cost is nothing: a clock may say so."""


STALE_ROUNDS = 512
"""What was measured in another way of pacing so many rounds ago says nothing about now."""


@dataclass(slots=True)
class _Estimates:
    draft: CostEstimate = field(default_factory=CostEstimate)
    round_trip: CostEstimate = field(default_factory=CostEstimate)
    verify: CostEstimate = field(default_factory=CostEstimate)
    last_round: int = 0


class CostMeter:
    """What rounds cost lately, apart for rounds that run ahead: there both models may share cores."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._estimates = {False: _Estimates(), True: _Estimates()}
        self._rounds = 0
        self._verified = CostEstimate()
        self._resting = CostEstimate()

    @property
    def resting_ms(self) -> float | None:
        """A round in which no draft works; None before the first."""
        value = self._resting.value_ms
        return None if value is None else max(value, LEAST_MS)

    def rested(self, round_ms: float) -> None:
        """A round in which no draft worked, from verdict to verdict."""
        self._resting.observe(round_ms)

    def costs(self, ahead: bool) -> Costs | None:
        """The present estimates; None until each part was measured in some way of pacing."""
        own, other = self._estimates[ahead], self._estimates[not ahead]
        draft = _either(own.draft, other.draft)
        round_trip = _either(own.round_trip, other.round_trip)
        verify = _either(own.verify, other.verify)
        if draft is None or round_trip is None or verify is None:
            return None
        return Costs(max(draft, LEAST_MS), round_trip, ((self._width, max(verify, LEAST_MS)),))

    def useful_window(self, max_window: int) -> int:
        """The most proposals worth making: one more than the target lately found room for."""
        room = self._verified.value_ms
        return max_window if room is None else min(max_window, round(room) + 1)

    def verified(self, ahead: bool, round_ms: float, proposed: int, verified: int) -> None:
        """A round that a draft worked for, without its wait for guesses; how much of a proposal it took."""
        self._rounds += 1
        for other in self._estimates:
            if self._rounds - self._estimates[other].last_round > STALE_ROUNDS:
                self._estimates[other] = _Estimates(last_round=self._rounds)
        self._estimates[ahead].last_round = self._rounds
        self._estimates[ahead].verify.observe(round_ms)
        self.room(proposed, verified)

    def room(self, proposed: int, verified: int) -> None:
        """How much of a proposal the target took."""
        if verified < proposed:
            self._verified.observe(verified)
        elif proposed:
            self._verified.observe(self._width - 1)

    def guessed(self, ahead: bool, guesses: int, draft_ms: float) -> None:
        """Guesses of the draft model, and the device time that they took."""
        self._estimates[ahead].draft.observe(draft_ms / guesses)

    def answered(self, ahead: bool, round_trip_ms: float) -> None:
        """The way of a commit to the draft and of the first guess back, without model time."""
        self._estimates[ahead].round_trip.observe(max(0.0, round_trip_ms))


@dataclass(slots=True)
class TurnMeter:
    """Passes on what the rounds of one turn cost, for the way of pacing that they were in."""

    costs: CostMeter
    ahead: bool = False
    """Whether the draft goes on while the target verifies; set by who paces."""
    resting: bool = False
    """Whether no draft works for the round; set by who paces."""
    round_ms: float | None = None
    """The last round from verdict to verdict, all waits included; None where it read context."""

    def observe(self, decided: Round) -> None:
        """Takes a round. One that read context is no measure of a step."""
        cost = decided.cost
        for each in cost.guesses:
            self.costs.guessed(self.ahead, each.guesses, each.draft_ms)
            if each.answered_ms is not None:
                self.costs.answered(self.ahead, each.answered_ms - each.draft_ms)
        self.round_ms = None if cost.prefill_ms else cost.since_ms
        if cost.prefill_ms:
            return
        # The session's own part counts, its waits for guesses do not.
        since_ms = 0.0 if cost.since_ms is None else cost.since_ms - cost.waited_ms
        round_ms = max(cost.verify_ms, since_ms)
        if self.resting:
            self.costs.rested(round_ms)
            self.costs.room(decided.offered, decided.proposed)
        else:
            self.costs.verified(self.ahead, round_ms, decided.offered, decided.proposed)


def _either(own: CostEstimate, other: CostEstimate) -> float | None:
    return other.value_ms if own.value_ms is None else own.value_ms
