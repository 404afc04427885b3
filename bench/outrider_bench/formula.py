"""Does the model of time hold? Costs taken from a turn's own summary, and what they predict for a token.

The formulas are `pacing/window.py`'s; this page only measures what goes into them. Details are those of
an Outrider outcome: the fields of the summary, and `sources`, one letter a token (d, n, t).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outrider_server.pacing.window import Costs, ahead_ms, plain_ms, synchronous_ms

if TYPE_CHECKING:
    from outrider import LoopMode

SYNCHRONOUS: LoopMode = "synchronous"
RUN_AHEAD: LoopMode = "run_ahead"


@dataclass(frozen=True, slots=True)
class FixedPace:
    """A loop and a window that a turn is pinned to."""

    loop: LoopMode
    window: int

    @property
    def name(self) -> str:
        """How the report calls it."""
        return f"outrider {self.loop.replace('_', '-')} {self.window}"


@dataclass(frozen=True, slots=True)
class Check:
    """Time a token of one turn after its first token: predicted and measured."""

    predicted_ms: float
    measured_ms: float

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured_ms / self.predicted_ms


def agreement(turns: Sequence[tuple[str, int]]) -> float:
    """Chance that a guess agrees, over (sources, window) of turns pinned to the synchronous loop.

    Each round decides a run of draft tokens and one of the target: a run as long as the window had no
    mismatch, a shorter one exactly one. The first round has no guesses and the last a shorter window; both
    are left out.
    """
    accepted = mismatches = 0
    for sources, window in turns:
        runs = [len(run) for run in sources.split("t")][1:-2]
        accepted += sum(runs)
        mismatches += sum(run < window for run in runs)
    return accepted / (accepted + mismatches) if accepted + mismatches else 0.0


def measured_costs(details: Mapping[str, Any], pace: FixedPace, round_trip_ms: float) -> Costs:
    """What the parts of one turn's rounds cost. The first round, which reads the prompt, is left out."""
    rounds = max(1, details["rounds"] - 1)
    verify_ms = (details["verify_ms"] - details["ttft_ms"]) / rounds
    return Costs(
        draft_ms=details["draft_ms"] / max(1, details["guessed"]),
        round_trip_ms=round_trip_ms,
        verify_ms=((pace.window + 1, max(verify_ms, 1e-3)),),
    )


def round_trip(details: Mapping[str, Any], window: int) -> float:
    """Milliseconds of a synchronous round that waited for guesses while the draft's model did not run."""
    rounds = max(1, details["rounds"] - 1)
    draft_ms = details["draft_ms"] / max(1, details["guessed"])
    waited_ms: float = details["draft_wait_ms"] / rounds - window * draft_ms
    return max(0.0, waited_ms)


def check(
    details: Mapping[str, Any], pace: FixedPace, chance: float, round_trip_ms: float
) -> Check:
    """Predicts a pinned turn from its own costs, the chance of agreement and the way to the draft."""
    costs = measured_costs(details, pace, round_trip_ms)
    predict = synchronous_ms if pace.loop == SYNCHRONOUS else ahead_ms
    predicted = predict(chance, pace.window, costs) if pace.window else plain_ms(costs)
    return Check(predicted, token_ms(details))


def token_ms(details: Mapping[str, Any]) -> float:
    """Time a token after the first one."""
    mean_ms: float = (details["duration_ms"] - details["ttft_ms"]) / max(1, details["tokens"] - 1)
    return mean_ms


def share_outside_models(details: Mapping[str, Any]) -> float:
    """Share of a turn's time in which the turn waited for neither model: wire, queue, ledger, text.

    A round that waits for guesses waits for the draft's model as long as that ran, and no longer.
    """
    draft_ms = min(details["draft_wait_ms"], details["draft_ms"])
    duration_ms: float = details["duration_ms"]
    outside_ms: float = duration_ms - details["target_ms"] - draft_ms
    return outside_ms / duration_ms
