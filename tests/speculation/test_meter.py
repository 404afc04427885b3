"""What rounds cost: which measurements feed which estimate, and which are left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.core.costs import GuessCost, RoundCost
from outrider_server.core.types import Round
from outrider_server.pacing.meter import LEAST_MS, CostMeter, TurnMeter

WIDTH = 8


def measured() -> CostMeter:
    """A meter that has seen every part of a synchronous round once: 2, 3 and 20 ms."""
    costs = CostMeter(WIDTH)
    costs.guessed(False, 1, 2.0)
    costs.answered(False, 3.0)
    costs.verified(False, 20.0, 0, 0)
    return costs


@pytest.mark.parametrize("missing", ["guessed", "answered", "verified"])
def test_there_are_no_costs_until_each_part_was_measured(missing: str) -> None:
    costs = CostMeter(WIDTH)
    if missing != "guessed":
        costs.guessed(False, 1, 2.0)
    if missing != "answered":
        costs.answered(True, 3.0)
    if missing != "verified":
        costs.verified(False, 20.0, 0, 0)
    assert costs.costs(ahead=False) is None
    assert costs.costs(ahead=True) is None


def test_what_was_measured_in_one_way_of_pacing_stands_in_for_the_other() -> None:
    for ahead in (False, True):
        costs = measured().costs(ahead)
        assert costs is not None
        assert (costs.draft_ms, costs.round_trip_ms) == (2.0, 3.0)
        assert costs.verify_ms == ((WIDTH, 20.0),)


def test_draft_way_and_step_are_learnt_apart_for_rounds_that_run_ahead() -> None:
    meter = measured()
    meter.guessed(True, 1, 5.0)
    meter.answered(True, 7.0)
    meter.verified(True, 40.0, 0, 0)
    ahead, apart = meter.costs(ahead=True), meter.costs(ahead=False)
    assert ahead is not None
    assert apart is not None
    assert (ahead.draft_ms, ahead.round_trip_ms, ahead.verify_ms) == (5.0, 7.0, ((WIDTH, 40.0),))
    assert (apart.draft_ms, apart.round_trip_ms, apart.verify_ms) == (2.0, 3.0, ((WIDTH, 20.0),))


def test_a_message_of_several_guesses_tells_the_time_of_one() -> None:
    costs = CostMeter(WIDTH)
    costs.guessed(False, 4, 10.0)
    costs.answered(False, 0.0)
    costs.verified(False, 20.0, 0, 0)
    found = costs.costs(False)
    assert found is not None
    assert found.draft_ms == 2.5


def test_a_clock_that_saw_nothing_pass_is_no_cost_of_nothing() -> None:
    """`Costs` refuses a model that takes no time; a peer of an older version names none."""
    costs = CostMeter(WIDTH)
    costs.guessed(False, 3, 0.0)
    costs.answered(False, -2.0)
    costs.verified(False, 0.0, 0, 0)
    found = costs.costs(False)
    assert found is not None
    assert (found.draft_ms, found.round_trip_ms) == (LEAST_MS, 0.0)
    assert found.verify_ms == ((WIDTH, LEAST_MS),)


def test_every_window_is_useful_until_the_target_has_left_something_out() -> None:
    costs = CostMeter(WIDTH)
    assert costs.useful_window(7) == 7
    costs.verified(False, 20.0, 0, 0)
    assert costs.useful_window(7) == 7
    for proposed in (7, 3, 1):
        costs.verified(False, 20.0, proposed, proposed)
        assert costs.useful_window(7) == 7


def test_the_useful_window_is_one_more_than_the_target_lately_found_room_for() -> None:
    costs = CostMeter(WIDTH)
    for _ in range(5):
        costs.verified(False, 20.0, 7, 2)
    assert costs.useful_window(7) == 3
    assert costs.useful_window(2) == 2


def test_room_that_comes_back_is_noticed() -> None:
    """A window of one more than fits meets its full room at once; each such step counts as all of it."""
    costs = CostMeter(WIDTH)
    for _ in range(50):
        costs.verified(False, 20.0, 7, 0)
    assert costs.useful_window(7) == 1
    steps = 0
    while costs.useful_window(7) < 7:
        window = costs.useful_window(7)
        costs.verified(False, 20.0, window, window)
        steps += 1
    assert steps < 40


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=60), st.integers(1, 7))
def test_a_window_of_one_at_least_is_always_worth_trying(
    steps: list[tuple[int, int]], most: int
) -> None:
    """A window of 0 could never find out that there is room again."""
    costs = CostMeter(WIDTH)
    for one, other in steps:
        costs.verified(False, 20.0, max(one, other), min(one, other))
        assert 1 <= costs.useful_window(most) <= most


def a_round(offered: int = 0, verified: int = 0, **cost: Any) -> Round:
    """A round of which only its cost counts, and how many of its proposals the target had room for."""
    spent = RoundCost(**cost)
    return Round(0, (), (), (), (), verified, 0, 0, offered=offered, cost=spent)


def test_a_step_that_read_a_prompt_is_no_measure_of_a_step() -> None:
    costs = measured()
    turn = TurnMeter(costs)
    turn.observe(a_round(7, 1, verify_ms=900.0, step_ms=20.0, prefill_ms=870.0, since_ms=950.0))
    found = costs.costs(False)
    assert found is not None
    assert found.verify_ms == ((WIDTH, 20.0),)
    assert costs.useful_window(7) == 7
    assert turn.round_ms is None


def test_a_turn_measures_for_the_way_of_pacing_that_it_is_in() -> None:
    costs = measured()
    turn = TurnMeter(costs)
    turn.ahead = True
    turn.observe(a_round(verify_ms=50.0, step_ms=20.0, guesses=(GuessCost(2, 8.0, 15.0),)))
    ahead, apart = costs.costs(True), costs.costs(False)
    assert ahead is not None
    assert apart is not None
    assert (ahead.verify(1), ahead.draft_ms) == (50.0, 4.0)
    assert (apart.verify(1), apart.draft_ms) == (20.0, 2.0)


def test_the_way_is_what_an_answer_took_without_the_draft_and_only_answers_tell() -> None:
    costs = CostMeter(WIDTH)
    turn = TurnMeter(costs)
    turn.observe(a_round(verify_ms=20.0, guesses=(GuessCost(2, 8.0, None),)))
    assert costs.costs(False) is None, "guesses that nobody asked for tell nothing of the way"
    turn.observe(a_round(verify_ms=20.0, guesses=(GuessCost(2, 8.0, 15.0),)))
    found = costs.costs(False)
    assert found is not None
    assert found.round_trip_ms == 7.0


def test_sessions_of_a_service_share_their_costs() -> None:
    costs = CostMeter(WIDTH)
    TurnMeter(costs).observe(a_round(prefill_ms=1.0, guesses=(GuessCost(1, 2.0, 5.0),)))
    assert costs.costs(False) is None
    TurnMeter(costs).observe(a_round(verify_ms=20.0))
    assert costs.costs(False) is not None


def test_a_round_without_a_draft_has_a_cost_of_its_own() -> None:
    costs = measured()
    turn = TurnMeter(costs, resting=True)
    turn.observe(a_round(7, 7, verify_ms=5.0, step_ms=4.0, since_ms=6.0))
    assert (costs.resting_ms, turn.round_ms) == (6.0, 6.0)
    found = costs.costs(False)
    assert found is not None
    assert found.verify_ms == ((WIDTH, 20.0),), (
        "rounds that a draft worked for are not mixed with it"
    )


def test_a_round_costs_the_sessions_own_part_but_not_the_wait_for_guesses() -> None:
    """30 ms from verdict to verdict, of which 8 waited for guesses and 15 for the verdict."""
    costs = measured()
    turn = TurnMeter(costs, ahead=True)
    turn.observe(a_round(3, 3, verify_ms=15.0, step_ms=14.0, since_ms=30.0, waited_ms=8.0))
    found = costs.costs(True)
    assert found is not None
    assert found.verify_ms == ((WIDTH, 22.0),)
    assert turn.round_ms == 30.0, "its waits included"
