"""Sessions that run at once all speculate or all rest, whichever brings them more: found by trying."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.pacing.crowd import (
    FIRST_LOOK_ROUNDS,
    FIRST_STAY_ROUNDS,
    LONGEST_STAY_ROUNDS,
    SETTLING_ROUNDS,
    TRIED_ROUNDS,
    Crowd,
)

LONGEST_TRIAL = SETTLING_ROUNDS + TRIED_ROUNDS // 2
"""Rounds of each session, of two."""


def crowd_of(sessions: int) -> Crowd:
    crowd = Crowd()
    for _ in range(sessions):
        crowd.join()
    return crowd


def play(crowd: Crowd, sessions: int, rounds: int, speculating_ms: float, resting_ms: float):
    """So many rounds of every session, one token each; yields what was decided for each of them."""
    for _ in range(rounds):
        decided = crowd.speculates
        for _ in range(sessions):
            crowd.observe(decided, speculating_ms if decided else resting_ms, 1)
        yield decided


def test_one_session_judges_for_itself() -> None:
    crowd = crowd_of(1)
    assert all(play(crowd, 1, 1000, speculating_ms=100, resting_ms=1))


@pytest.mark.parametrize("sessions", [2, 3, 8, 16])
def test_a_crowd_that_is_faster_at_rest_comes_to_rest(sessions: int) -> None:
    decided = list(play(crowd_of(sessions), sessions, 2000, speculating_ms=12, resting_ms=10))
    assert all(decided[:FIRST_LOOK_ROUNDS]), "it begins by speculating"
    late = decided[1000:]
    assert sum(late) <= 0.07 * len(late), "trials are all that is left of speculation"


@pytest.mark.parametrize("sessions", [2, 3, 8, 16])
def test_a_crowd_that_is_faster_speculating_goes_on(sessions: int) -> None:
    decided = list(play(crowd_of(sessions), sessions, 2000, speculating_ms=10, resting_ms=12))
    late = decided[1000:]
    assert sum(not one for one in late) <= 0.07 * len(late)


def test_trials_that_change_nothing_grow_rare_and_never_end() -> None:
    decided = list(play(crowd_of(4), 4, 6 * LONGEST_STAY_ROUNDS, speculating_ms=10, resting_ms=12))
    starts = [i for i in range(1, len(decided)) if decided[i - 1] and not decided[i]]
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps == sorted(gaps), "each stay is at least as long as the one before"
    assert max(gaps) <= LONGEST_STAY_ROUNDS + 2 * LONGEST_TRIAL
    assert len(starts) >= 6


def test_a_change_of_fortune_is_found_within_one_stay() -> None:
    crowd = crowd_of(8)
    while crowd.speculates:
        list(play(crowd, 8, 1, speculating_ms=12, resting_ms=10))
    decided = list(play(crowd, 8, LONGEST_STAY_ROUNDS, speculating_ms=8, resting_ms=10))
    assert all(decided[-FIRST_STAY_ROUNDS // 2 :])


def test_rounds_right_after_a_change_count_for_neither_side() -> None:
    """Here every change costs a slow round or two, which must not spoil a trial of the better side."""
    crowd, sessions = crowd_of(2), 2
    before, since = True, 0
    for _ in range(3000):
        decided = crowd.speculates
        since = 0 if decided is not before else since + 1
        before = decided
        for _ in range(sessions):
            slow = since < SETTLING_ROUNDS
            crowd.observe(decided, 500 if slow else (12 if decided else 10), 1)
    assert not crowd.speculates


def test_sizes_are_found_out_about_one_by_one() -> None:
    crowd = crowd_of(2)
    while crowd.speculates:
        list(play(crowd, 2, 1, speculating_ms=12, resting_ms=10))
    for _ in range(6):
        crowd.join()
    assert crowd.speculates, "nothing is known of eight yet"
    for _ in range(6):
        crowd.leave()
    assert not crowd.speculates, "what two have found is kept"


def test_a_round_that_was_decided_before_the_change_counts_for_neither_side() -> None:
    crowd = crowd_of(2)
    while crowd.speculates:
        crowd.observe(True, 10, 1)
    for _ in range(10 * LONGEST_TRIAL):
        crowd.observe(True, 0.001, 1000)
    assert not crowd.speculates, "the trial still waits for rounds at rest"
    list(play(crowd, 2, LONGEST_TRIAL, speculating_ms=10, resting_ms=20))
    assert crowd.speculates, "rest is judged by its own rounds"


def test_a_longer_round_that_brings_more_tokens_is_the_better_one() -> None:
    crowd, rested = crowd_of(4), 0
    for _ in range(2000):
        decided = crowd.speculates
        rested += not decided
        for _ in range(4):
            crowd.observe(decided, 15 if decided else 10, 2 if decided else 1)
    assert 0 < rested <= 0.1 * 2000


def test_a_side_that_is_hardly_faster_changes_nothing() -> None:
    decided = list(play(crowd_of(4), 4, 2000, speculating_ms=10, resting_ms=9.9))
    assert 0 < decided.count(False) <= 0.1 * 2000


@settings(max_examples=50)
@given(
    sessions=st.integers(2, 16),
    speculating_ms=st.floats(1, 100),
    resting_ms=st.floats(1, 100),
)
def test_in_the_long_run_little_is_lost_against_the_better_side(
    sessions: int, speculating_ms: float, resting_ms: float
) -> None:
    """Bound: trials are at most 34 of 1,058 rounds at the end; a side less than 2 % better may stay."""
    decided = list(play(crowd_of(sessions), sessions, 12000, speculating_ms, resting_ms))[4000:]
    spent = sum(speculating_ms if one else resting_ms for one in decided)
    best = min(speculating_ms, resting_ms)
    worst = max(speculating_ms, resting_ms)
    assert spent <= len(decided) * (best * 1.021 + (worst - best) * 0.04)
