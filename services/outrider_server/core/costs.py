"""Where the time of a round went: measured where it is spent, and carried with proposals and rounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuessCost:
    """What guesses that came together cost, in milliseconds."""

    guesses: int
    draft_ms: float
    """Device time."""
    answered_ms: float | None
    """Since the commit that asked for them; None where none did."""


@dataclass(frozen=True, slots=True)
class RoundCost:
    """Where the time of a round went, in milliseconds."""

    verify_ms: float = 0.0
    """Waiting for the verdict."""
    step_ms: float = 0.0
    prefill_ms: float = 0.0
    """Device time of the step, and of what was read before it."""
    since_ms: float | None = None
    """Since the verdict before, waits and the session's own part included. None in a turn's first round."""
    waited_ms: float = 0.0
    """Waiting for guesses."""
    guesses: tuple[GuessCost, ...] = ()
    """What came of the draft since the round before."""
