"""Agreement by position and tokens a round, against rounds that were counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from outrider_bench.pair.positions import (
    PlayedRound,
    by_position,
    equal_chance,
    mean_chance,
    rounds_of,
    tokens_a_round,
)
from outrider_bench.pair.windows import best_window, forecasts, speed_up
from outrider_server.pacing.window import Costs, expected_tokens, synchronous_ms

from .pairs import pair_times, reply

RUNS = "1111" + "0000"
"""Half of the guesses agree, and never one beside one that does not."""


def test_a_round_ends_with_its_first_mismatch_or_its_window() -> None:
    found = list(rounds_of(reply("1101110"), 2))
    assert found == [PlayedRound(0, 2), PlayedRound(3, 2), PlayedRound(6, 0)]


def test_a_position_is_counted_only_where_all_before_it_agreed() -> None:
    """Rounds of 8 over 1111 0000: one of four that agree, then three that begin with a mismatch."""
    found = by_position([reply(RUNS)])
    assert [place.rounds for place in found] == [4, 1, 1, 1, 1, 0, 0, 0]
    assert [place.chance for place in found] == [0.25, 1.0, 1.0, 1.0, 0.0, None, None, None]


def test_exact_chances_are_averaged_over_the_rounds_that_came_so_far() -> None:
    found = by_position([reply("1011", chances=(0.9, 0.4, 0.8, 0.6))])
    assert found[0].chance == pytest.approx((0.9 + 0.8) / 2)
    assert found[1].chance == pytest.approx((0.4 + 0.6) / 2)
    assert mean_chance([reply("1011", chances=(0.9, 0.4, 0.8, 0.6))]) == pytest.approx(0.675)


def test_runs_bring_more_tokens_a_round_than_their_chance_says() -> None:
    runs = [reply(RUNS * 8)]
    assert mean_chance(runs) == 0.5
    assert tokens_a_round(runs, 7) == 64 / 32
    assert tokens_a_round([reply("10" * 32)], 7) == 2.0
    assert tokens_a_round([reply("1" * 64)], 7) == 8.0


@given(some.floats(0, 1), some.integers(1, 16))
def test_the_chance_that_explains_tokens_a_round_is_the_formulas_own(
    chance: float, window: int
) -> None:
    tokens = expected_tokens(chance, window)
    assert expected_tokens(equal_chance(tokens, window), window) == pytest.approx(tokens, abs=1e-6)


def test_each_window_is_foretold_from_its_own_tokens_a_round() -> None:
    """Runs of four: a window of 4 decides five tokens in every second round, and 7 no more."""
    replies = [reply("11110" * 20)]
    costs = Costs(2.0, 1.0, ((8, 10.0),))
    slow = Costs(200.0, 1.0, ((8, 1000.0),))
    found = forecasts(replies, costs, slow)
    assert [each.tokens_a_round for each in found[:4]] == [
        pytest.approx(tokens, rel=0.05) for tokens in (100 / 60, 100 / 40, 100 / 40, 5)
    ]
    for each in found:
        chance = equal_chance(each.tokens_a_round, each.window)
        assert not each.ahead
        assert each.token_ms == synchronous_ms(chance, each.window, costs)
    best = best_window(found)
    assert best.window == 4
    assert speed_up(best, costs) == pytest.approx(10 / ((4 * 2 + 1 + 10) / 5))


def test_what_is_outside_is_part_of_a_step_and_the_distance_of_the_drafts_way() -> None:
    times = pair_times(verify_ms=10, draft_ms=1, outside_ms=1.5, way_ms=0.5, slower=2)
    costs = times.pacing(20, beside=False)
    assert (costs.draft_ms, costs.round_trip_ms, costs.verify(8)) == (1, 20.5, 11.5)
    costs = times.pacing(0, beside=True)
    assert (costs.draft_ms, costs.round_trip_ms, costs.verify(1)) == (2, 0.5, 21.5)
