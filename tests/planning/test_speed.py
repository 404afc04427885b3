"""The roofline and the break-even round trip, against the formulas that they come from."""

from __future__ import annotations

import pytest
from outrider_server.models import TARGET_FOLDER
from outrider_server.pacing.window import Costs, ahead_ms, best_speculation, synchronous_ms
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.shape import engine_shape
from outrider_server.planning.speed import break_even_ms, roofline

from .configs import options


def test_a_step_is_the_reading_of_weights_and_cache() -> None:
    sizes = count_model(read_config(TARGET_FOLDER))
    shape = engine_shape(sizes, options(slots=4, compile="off"))
    line = roofline(sizes, shape, 1e9)
    weights, cache = 2 * 9_441_408, 2 * 5 * 2 * 64 * 2 * 1024
    assert (line.weight_read_bytes, line.cache_read_bytes) == (weights, cache)
    assert line.step_ms == pytest.approx((weights + cache) / 1e6)
    assert line.tokens_per_second == pytest.approx(1e9 / (weights + cache))
    assert line.all_slots_tokens_per_second == pytest.approx(4e9 / (weights + 4 * cache))


@pytest.mark.parametrize("agreement", [0.6, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("draft_ms", [0.5, 2.0])
def test_the_draft_pays_up_to_the_break_even_and_not_beyond(
    agreement: float, draft_ms: float
) -> None:
    verify_ms, width = 10.0, 8
    found = break_even_ms(agreement, draft_ms, verify_ms, width)
    assert found is not None

    def best(round_trip_ms: float) -> float:
        costs = Costs(draft_ms, round_trip_ms, ((width, verify_ms),))
        pace = best_speculation(agreement, costs, width - 1, costs)
        assert pace is not None
        return pace.predicted_ms

    assert best(found) == pytest.approx(verify_ms)
    assert best(found * 0.99) < verify_ms < best(found * 1.01)


def test_taking_turns_alone_breaks_even_where_its_formula_says() -> None:
    """(w td + R + tv) / E = tv gives R = tv (E - 1) - w td; running ahead may bear more, never less."""
    agreement, draft_ms, verify_ms = 0.8, 2.0, 10.0
    by_hand = max(
        verify_ms * (sum(agreement**guess for guess in range(window + 1)) - 1) - window * draft_ms
        for window in range(1, 8)
    )
    costs = Costs(draft_ms, by_hand, ((8, verify_ms),))
    assert min(synchronous_ms(agreement, window, costs) for window in range(1, 8)) == pytest.approx(
        verify_ms
    )
    found = break_even_ms(agreement, draft_ms, verify_ms, 8)
    assert found is not None
    assert found > by_hand
    at_found = Costs(draft_ms, found, ((8, verify_ms),))
    ways = [
        ahead_ms(agreement, window, at_found, minimum)
        for window in range(1, 8)
        for minimum in range(1, window + 1)
    ]
    assert min(ways) == pytest.approx(verify_ms)


def test_a_better_draft_may_be_farther_away() -> None:
    trips = [break_even_ms(agreement, 2.0, 10.0, 8) for agreement in (0.6, 0.7, 0.8, 0.9)]
    assert None not in trips
    assert trips == sorted(trips)


def test_a_draft_that_never_agrees_or_is_as_slow_as_the_target_never_pays() -> None:
    assert break_even_ms(0.0, 2.0, 10.0, 8) is None
    assert break_even_ms(0.5, 30.0, 10.0, 8) is None
