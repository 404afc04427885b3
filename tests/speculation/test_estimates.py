"""Estimates follow what they are told, at the stated speed, and no faster."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as some
from outrider_server.pacing.estimates import AgreementEstimate, CostEstimate, Probe

# Agreement


def test_the_prior_stands_until_something_is_seen_and_has_its_weight() -> None:
    estimate = AgreementEstimate(prior=0.5, prior_tokens=4, half_life_tokens=1e9)
    assert estimate.value == 0.5
    estimate.observe(proposed=4, agreed=4)
    assert estimate.value == pytest.approx((2 + 4) / (4 + 4))


def test_guesses_after_the_first_wrong_one_do_not_count() -> None:
    estimate = AgreementEstimate(prior=0.5, prior_tokens=2, half_life_tokens=1e9)
    estimate.observe(proposed=7, agreed=1)
    assert estimate.value == pytest.approx((1 + 1) / (2 + 2))


def test_a_full_round_has_no_failure_and_an_empty_one_says_nothing() -> None:
    estimate = AgreementEstimate(prior=0.5, prior_tokens=2)
    estimate.observe(0, 0)
    assert estimate.value == 0.5
    estimate.observe(3, 3)
    assert estimate.value > 0.5


def test_what_is_a_half_life_old_counts_half() -> None:
    estimate = AgreementEstimate(prior=0.0, prior_tokens=1e-9, half_life_tokens=64)
    estimate.observe(64, 64)
    for _ in range(64):
        estimate.observe(1, 0)
    failures = sum(0.5 ** (age / 64) for age in range(64))
    assert estimate.value == pytest.approx(32 / (32 + failures))


def test_fading_changes_the_weight_and_not_the_value_and_stops_at_the_priors() -> None:
    fresh, stale = (AgreementEstimate(0.5, 8, 64) for _ in range(2))
    for estimate in (fresh, stale):
        for _ in range(200):
            estimate.observe(1, 0)
    before = stale.value
    stale.fade(100_000)
    assert stale.value == pytest.approx(before)
    for estimate in (fresh, stale):
        estimate.observe(8, 8)
    assert stale.value == pytest.approx(0.5, abs=0.07), "8 against a weight of 8"
    assert fresh.value < 0.15


def test_the_estimate_finds_the_true_chance() -> None:
    """A weight of 64 / ln 2 = 92 tokens: one standard deviation is at most 0.05, and the mean of the last
    values, some 20 independent ones, lies within 0.05 of the truth with 4 deviations to spare."""
    chance, source = 0.6, random.Random(5)
    estimate, seen = AgreementEstimate(), []
    for index in range(4000):
        agreed = next((n for n in range(4) if source.random() >= chance), 4)
        estimate.observe(4, agreed)
        if index > 2000:
            seen.append(estimate.value)
    assert sum(seen) / len(seen) == pytest.approx(chance, abs=0.05)


@given(some.lists(some.tuples(some.integers(0, 64), some.integers(0, 64), some.integers(0, 500))))
def test_the_estimate_stays_a_chance(rounds: list[tuple[int, int, int]]) -> None:
    estimate = AgreementEstimate()
    for one, other, passed in rounds:
        estimate.observe(max(one, other), min(one, other))
        estimate.fade(passed)
        assert 0 <= estimate.value <= 1


@pytest.mark.parametrize(("proposed", "agreed"), [(1, 2), (1, -1), (-1, -1)])
def test_an_impossible_round_is_refused_and_changes_nothing(proposed: int, agreed: int) -> None:
    estimate = AgreementEstimate()
    with pytest.raises(ValueError, match="agreed must be"):
        estimate.observe(proposed, agreed)
    estimate.observe(8, 8)
    expected = AgreementEstimate()
    expected.observe(8, 8)
    assert estimate.value == expected.value


@pytest.mark.parametrize("arguments", [(1.5, 8, 64), (0.5, 0, 64), (0.5, 8, 0)])
def test_a_prior_that_is_none_is_refused(arguments: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="the prior must be"):
        AgreementEstimate(*arguments)


# Costs


def test_nothing_is_known_before_the_first_observation() -> None:
    estimate = CostEstimate()
    assert estimate.value_ms is None
    estimate.observe(5.0)
    assert estimate.value_ms == 5.0


def test_one_step_that_waited_for_the_processor_hardly_counts() -> None:
    estimate = CostEstimate(half_life=8)
    for _ in range(50):
        estimate.observe(10.0)
    estimate.observe(10_000.0)
    assert estimate.value_ms == pytest.approx(10 + (1 - 0.5**0.125) * 20)


def test_a_lasting_rise_is_followed() -> None:
    estimate = CostEstimate(half_life=8)
    for _ in range(50):
        estimate.observe(1.0)
    for _ in range(50):
        estimate.observe(10.0)
    assert estimate.value_ms == pytest.approx(10.0, rel=0.03)


def test_a_bad_first_observation_fades() -> None:
    estimate = CostEstimate(half_life=8)
    estimate.observe(500.0)
    for _ in range(50):
        estimate.observe(5.0)
    assert estimate.value_ms == pytest.approx(5.0, rel=0.5)


def test_half_of_a_change_is_there_after_a_half_life() -> None:
    estimate = CostEstimate(half_life=8)
    for _ in range(100):
        estimate.observe(10.0)
    for _ in range(8):
        estimate.observe(20.0)
    assert estimate.value_ms == pytest.approx(15.0, abs=0.01)


def test_an_estimate_of_nothing_can_grow() -> None:
    estimate = CostEstimate()
    estimate.observe(0.0)
    for _ in range(60):
        estimate.observe(4.0)
    assert estimate.value_ms == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize("ms", [-1.0, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(ms: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        CostEstimate().observe(ms)


# Probing


def rounds_until_due(probe: Probe) -> int:
    """Rests until the next look."""
    rounds = 0
    while not probe.due:
        probe.rest()
        rounds += 1
    return rounds


def test_rests_double_up_to_their_longest_and_begin_anew_when_it_pays() -> None:
    probe, rests = Probe(), []
    for _ in range(7):
        rests.append(rounds_until_due(probe))
        probe.answer(pays=False)
    assert rests == [8, 16, 32, 64, 128, 128, 128]
    rounds_until_due(probe)
    probe.answer(pays=True)
    assert rounds_until_due(probe) == 8
