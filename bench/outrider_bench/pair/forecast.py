"""What is to be expected of a pair: the formulas' best window, and the replies played in each mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .costs import PairTimes
from .replay import DRAFTED, MODES, Replayed, replay
from .replied import Reply
from .windows import WindowForecast, best_window, forecasts, speed_up

OFF, NGRAM, MODEL, AUTO = MODES


@dataclass(frozen=True, slots=True)
class Forecast:
    """One temperature, with the draft at one distance."""

    temperature: float
    round_trip_ms: float
    replies: Sequence[Reply]
    window: WindowForecast
    """The best by the formulas."""
    by_formula: float
    """Times as fast as the target alone, with that window."""
    turns: Mapping[str, Sequence[Replayed]]
    """By mode, one for each reply."""

    def ratios(self, above: str, below: str, category: str | None = None) -> list[float]:
        """How many times as fast one mode is as another, reply by reply; all categories by default."""
        times = zip(self.replies, self.turns[below], self.turns[above], strict=True)
        return [
            slow.total_ms / fast.total_ms
            for reply, slow, fast in times
            if category in (None, reply.prompt.category)
        ]


def foretold(
    replies: Sequence[Reply],
    times: PairTimes,
    round_trips_ms: Sequence[float],
    report: Callable[[str], None],
) -> list[Forecast]:
    """A forecast for each distance, of replies at one temperature."""
    temperature = replies[0].temperature
    near = {mode: replay(replies, times, mode) for mode in MODES if mode not in DRAFTED}
    found = []
    for distance in round_trips_ms:
        report(f"temperature {temperature:g}: the draft {distance:g} ms away")
        turns = near | {mode: replay(replies, times, mode, distance) for mode in DRAFTED}
        costs = times.pacing(distance, beside=False)
        window = best_window(forecasts(replies, costs, times.pacing(distance, beside=True)))
        found.append(
            Forecast(temperature, distance, replies, window, speed_up(window, costs), turns)
        )
    return found
