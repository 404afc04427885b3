"""Whether a step waits for sessions that are away: only where the rows that they bring are worth the time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.engine.scheduling.returns import SPREAD, Returns

STEP = 0.02


def returns_of(usual: dict[int, float], step_seconds: float = STEP) -> Returns:
    """Sessions that have come back a few times, each after its usual time; all are answered at 0."""
    returns = Returns()
    for _ in range(5):
        returns.answered(usual.keys(), 0.0, step_seconds)
        for slot, seconds in usual.items():
            returns.back([slot], seconds)
    returns.answered(usual.keys(), 0.0, step_seconds)
    return returns


def test_nobody_is_waited_for_while_nobody_is_away() -> None:
    returns = returns_of({0: 0.001})
    assert returns.seconds_worth_waiting(1, 0.0) > 0
    returns.back([0], 0.001)
    assert returns.seconds_worth_waiting(1, 0.001) == 0


def test_a_session_that_is_soon_back_is_waited_for_until_it_is_given_up() -> None:
    returns = returns_of({0: 0.002, 1: 0.002})
    returns.back([0], 0.001)
    assert returns.seconds_worth_waiting(1, 0.001) == pytest.approx(SPREAD * 0.002 - 0.001)
    assert returns.seconds_worth_waiting(1, SPREAD * 0.002 + 1e-6) == 0


def test_a_slow_session_is_not_waited_for_and_the_quick_ones_are() -> None:
    """Three quick ones bring 3 rows in 2 ms; the slow one would hold all up for 100 ms, five steps."""
    returns = returns_of({0: 0.002, 1: 0.002, 2: 0.002, 3: 0.002, 4: 0.1})
    returns.back([0], 0.001)
    assert returns.seconds_worth_waiting(1, 0.001) == pytest.approx(SPREAD * 0.002 - 0.001)


def test_each_session_is_known_by_its_own_pace_however_late_it_is() -> None:
    """Its time counts also where the step that it missed has answered others meanwhile."""
    returns = Returns()
    for _ in range(8):
        returns.answered([0, 1], 0.0, STEP)
        returns.back([0], 0.001)
        returns.answered([0], 0.025, STEP)
        returns.back([0, 1], 0.026)
    returns.answered([0, 1], 1.0, STEP)
    returns.back([0], 1.001)
    assert returns.seconds_worth_waiting(1, 1.001) == 0, "26 ms are more than the 20 of a step"


def test_an_unknown_session_is_taken_to_need_a_steps_time() -> None:
    returns = Returns()
    returns.answered([0, 1, 2], 0.0, STEP)
    returns.back([0], 0.001)
    assert returns.seconds_worth_waiting(1, 0.001) == pytest.approx(SPREAD * STEP - 0.001)


def test_who_has_left_is_not_waited_for_and_leaves_no_pace_behind() -> None:
    returns = returns_of({0: 0.002, 1: 0.1})
    returns.back([0], 0.001)
    returns.gone(1)
    assert returns.seconds_worth_waiting(1, 0.001) == 0
    returns.answered([1, 2], 0.001, STEP)
    assert returns.seconds_worth_waiting(1, 0.001) == pytest.approx(SPREAD * STEP), "both unknown"


@given(
    ready=st.integers(1, 8),
    usual=st.dictionaries(st.integers(0, 15), st.floats(1e-5, 0.5), max_size=8),
    step_seconds=st.floats(1e-4, 0.5),
    now=st.floats(0, 1),
)
def test_the_wait_is_for_the_group_that_brings_most_rows_for_the_time(
    ready: int, usual: dict[int, float], step_seconds: float, now: float
) -> None:
    """Against all subsets: none has a higher rate than going on at once where the answer is 0."""
    returns = returns_of(usual, step_seconds)
    wait = returns.seconds_worth_waiting(ready, now)
    away = [seconds for seconds in usual.values() if SPREAD * seconds > now]
    assert 0 <= wait <= max((SPREAD * seconds - now for seconds in away), default=0) + 1e-9
    rates = [
        (ready + len(group)) / (max(0.0, max(group) - now) + step_seconds)
        for size in range(1, len(away) + 1)
        for group in itertools.combinations(away, size)
    ]
    at_once = ready / step_seconds
    if wait == 0:
        assert all(rate <= at_once * (1 + 1e-6) for rate in rates)
    else:
        assert max(rates) > at_once
