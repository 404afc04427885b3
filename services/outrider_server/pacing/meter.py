"""What the parts of a round cost: measured where the ports wait, kept for all sessions of a service.

`CostMeter` owns the estimates that the window policy runs on, `TurnMeter` what one turn came to. Times are
milliseconds, taken by whoever calls; nothing here knows a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """What one turn spent on its models and on waiting for them. The fields are those of its summary."""

    costs: CostMeter
    ahead: bool = False
    """Whether the draft goes on while the target verifies; set by who paces."""
    resting: bool = False
    """Whether no draft works for the round; set by who paces."""
    target_ms: float = 0.0
    verify_ms: float = 0.0
    draft_ms: float = 0.0
    guessed_tokens: int = 0
    draft_wait_ms: float = 0.0
    round_ms: float | None = None
    """The last round from verdict to verdict, all waits included; None where it read context."""
    _waited_before: float = 0.0

    def verified(
        self,
        waited_ms: float,
        step_ms: float,
        prefill_ms: float,
        proposed: int,
        verified: int,
        since_ms: float | None = None,
    ) -> None:
        """A verdict came after `waited_ms`; the device took `step_ms`, after `prefill_ms` of reading.

        `since_ms` is the time since the verdict before it: what a round costs, the session's own part and
        its waits for guesses included. Without one the wait for the verdict stands in.
        """
        self.verify_ms += waited_ms
        self.target_ms += step_ms + prefill_ms
        guess_wait_ms = self.draft_wait_ms - self._waited_before
        self._waited_before = self.draft_wait_ms
        self.round_ms = None if prefill_ms else since_ms
        if prefill_ms:
            return
        round_ms = waited_ms if since_ms is None else max(waited_ms, since_ms - guess_wait_ms)
        if self.resting:
            self.costs.rested(round_ms)
            self.costs.room(proposed, verified)
        else:
            self.costs.verified(self.ahead, round_ms, proposed, verified)

    def guessed(self, guesses: int, draft_ms: float, answered_ms: float | None) -> None:
        """Guesses came; `answered_ms` after the commit that asked for them, where one did."""
        self.draft_ms += draft_ms
        self.guessed_tokens += guesses
        self.costs.guessed(self.ahead, guesses, draft_ms)
        if answered_ms is not None:
            self.costs.answered(self.ahead, answered_ms - draft_ms)

    def waited(self, waited_ms: float) -> None:
        """A round waited for guesses."""
        self.draft_wait_ms += waited_ms


def _either(own: CostEstimate, other: CostEstimate) -> float | None:
    return other.value_ms if own.value_ms is None else own.value_ms
