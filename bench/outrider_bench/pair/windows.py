"""What the pacing's formulas say of each window, from the tokens a round that real replies gave. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outrider_server.pacing.window import (
    USUAL_WINDOW,
    Costs,
    ahead_ms,
    plain_ms,
    synchronous_ms,
)

from .positions import equal_chance, tokens_a_round
from .replied import Reply


@dataclass(frozen=True, slots=True)
class WindowForecast:
    """A window in the faster of the two loops."""

    window: int
    tokens_a_round: float
    ahead: bool
    token_ms: float
    """Expected time a token."""


def forecasts(replies: Sequence[Reply], costs: Costs, ahead_costs: Costs) -> list[WindowForecast]:
    """Each window that a session service takes, by the chance that explains its tokens a round."""
    found = []
    for window in range(1, USUAL_WINDOW + 1):
        tokens = tokens_a_round(replies, window)
        chance = equal_chance(tokens, window)
        in_turns = synchronous_ms(chance, window, costs)
        running_ahead = min(
            ahead_ms(chance, window, ahead_costs, minimum) for minimum in range(1, window + 1)
        )
        token_ms = min(in_turns, running_ahead)
        found.append(WindowForecast(window, tokens, running_ahead < in_turns, token_ms))
    return found


def best_window(found: Sequence[WindowForecast]) -> WindowForecast:
    """The one with the least time a token; of equals the smallest."""
    return min(found, key=lambda each: each.token_ms)


def speed_up(forecast: WindowForecast, costs: Costs) -> float:
    """Times as fast as the target alone."""
    return plain_ms(costs) / forecast.token_ms
