"""Costs from a turn's own figures, and what they predict."""

from __future__ import annotations

import pytest
from outrider_bench.formula import (
    RUN_AHEAD,
    SYNCHRONOUS,
    FixedPace,
    agreement,
    check,
    measured_costs,
    round_trip,
    share_outside_models,
    token_ms,
)

from .measured import summary

PACE = FixedPace(SYNCHRONOUS, 4)


def test_agreement_counts_one_mismatch_for_each_round_that_fell_short() -> None:
    """Rounds after the first and before the last: 4 of 4, 2 of 4, 0 of 4, 4 of 4: 10 agreed, 2 did not."""
    assert agreement([("t" + "ddddt" + "ddt" + "t" + "ddddt" + "dt", 4)]) == 10 / 12


def test_agreement_of_the_same_runs_is_lower_for_a_larger_window() -> None:
    sources = "t" + "ddt" * 6
    assert agreement([(sources, 2)]) == 1.0
    assert agreement([(sources, 4)]) == 2 / 3


def test_agreement_pools_turns() -> None:
    assert agreement([("t" + "ddt" * 3, 2), ("t" + "t" * 3, 2)]) == 4 / 6


def test_a_turn_without_a_full_round_says_nothing() -> None:
    assert agreement([("t", 4)]) == 0.0


def test_costs_leave_out_the_round_that_reads_the_prompt() -> None:
    costs = measured_costs(summary(), PACE, round_trip_ms=2.0)
    assert costs.draft_ms == 2.0
    assert costs.verify(5) == (270.0 - 20.0) / 25
    assert costs.round_trip_ms == 2.0


def test_the_round_trip_is_the_wait_beyond_the_guesses() -> None:
    """25 rounds waited 250 ms, 10 ms each, of which 4 guesses of 2 ms were the model's."""
    assert round_trip(summary(), 4) == 2.0
    assert round_trip(summary(draft_wait_ms=100.0), 4) == 0.0


def test_a_turn_that_keeps_to_the_formula_has_ratio_one() -> None:
    """All guesses agree: 5 tokens a round of 4 x 2 + 2 + 10 ms are 4 ms a token."""
    details = summary(duration_ms=20.0 + 100 * 4.0)
    found = check(details, PACE, chance=1.0, round_trip_ms=2.0)
    assert found.predicted_ms == pytest.approx(4.0)
    assert found.ratio == pytest.approx(1.0)


def test_a_turn_without_agreement_pays_a_whole_round_for_each_token() -> None:
    assert check(summary(), PACE, 0.0, 2.0).predicted_ms == pytest.approx(20.0)


def test_running_ahead_is_predicted_by_its_own_formula() -> None:
    ahead = check(summary(), FixedPace(RUN_AHEAD, 4), 1.0, 2.0)
    assert ahead.predicted_ms < check(summary(), PACE, 1.0, 2.0).predicted_ms


def test_time_counts_from_the_first_token() -> None:
    assert token_ms(summary()) == 10.0


def test_what_both_models_took_is_inside_and_the_rest_outside() -> None:
    """1020 ms, of which the target took 260 and the draft 240 of the 250 ms waited for it."""
    assert share_outside_models(summary()) == pytest.approx(520 / 1020)


def test_guesses_that_nobody_waited_for_are_not_inside() -> None:
    assert share_outside_models(summary(draft_wait_ms=40.0)) == pytest.approx(720 / 1020)
