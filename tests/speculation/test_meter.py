"""What rounds cost: which measurements feed which estimate, and which are left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.pacing.meter import LEAST_MS, CostMeter, TurnMeter
from outrider_server.pacing.window import choose_pace

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


def test_a_turn_counts_all_that_it_waited_and_all_that_its_device_did() -> None:
    turn = TurnMeter(CostMeter(WIDTH))
    turn.verified(100.0, 20.0, 70.0, 0, 0)
    turn.verified(25.0, 20.0, 0.0, 3, 3)
    assert (turn.verify_ms, turn.target_ms) == (125.0, 110.0)
    turn.guessed(4, 8.0, None)
    turn.guessed(1, 2.0, 5.0)
    assert (turn.guessed_tokens, turn.draft_ms) == (5, 10.0)
    turn.waited(4.0)
    turn.waited(2.0)
    assert turn.draft_wait_ms == 6.0


def test_a_step_that_read_a_prompt_is_no_measure_of_a_step() -> None:
    costs = measured()
    turn = TurnMeter(costs)
    turn.verified(900.0, 20.0, 870.0, 7, 1)
    found = costs.costs(False)
    assert found is not None
    assert found.verify_ms == ((WIDTH, 20.0),)
    assert costs.useful_window(7) == 7


def test_a_turn_measures_for_the_way_of_pacing_that_it_is_in() -> None:
    costs = measured()
    turn = TurnMeter(costs)
    turn.ahead = True
    turn.verified(50.0, 20.0, 0.0, 0, 0)
    turn.guessed(2, 8.0, 15.0)
    ahead, apart = costs.costs(True), costs.costs(False)
    assert ahead is not None
    assert apart is not None
    assert (ahead.verify(1), ahead.draft_ms) == (50.0, 4.0)
    assert (apart.verify(1), apart.draft_ms) == (20.0, 2.0)


def test_the_way_is_what_an_answer_took_without_the_draft_and_only_answers_tell() -> None:
    costs = CostMeter(WIDTH)
    turn = TurnMeter(costs)
    costs.verified(False, 20.0, 0, 0)
    turn.guessed(2, 8.0, None)
    assert costs.costs(False) is None, "guesses that nobody asked for tell nothing of the way"
    turn.guessed(2, 8.0, 15.0)
    found = costs.costs(False)
    assert found is not None
    assert found.round_trip_ms == 7.0


def test_sessions_of_a_service_share_their_costs_and_not_their_sums() -> None:
    costs = CostMeter(WIDTH)
    one, other = TurnMeter(costs), TurnMeter(costs)
    one.guessed(1, 2.0, 5.0)
    other.verified(20.0, 15.0, 0.0, 0, 0)
    assert costs.costs(False) is not None
    assert (other.draft_ms, one.verify_ms) == (0.0, 0.0)


def test_a_round_without_a_draft_has_a_cost_of_its_own() -> None:
    costs = measured()
    turn = TurnMeter(costs, resting=True)
    turn.verified(5.0, 4.0, 0.0, 7, 7, since_ms=6.0)
    assert costs.resting_ms == 6.0
    found = costs.costs(False)
    assert found is not None
    assert found.verify_ms == ((WIDTH, 20.0),), (
        "rounds that a draft worked for are not mixed with it"
    )


def test_a_round_costs_the_sessions_own_part_but_not_the_wait_for_guesses() -> None:
    """30 ms from verdict to verdict, of which 8 waited for guesses and 15 for the verdict."""
    costs = measured()
    turn = TurnMeter(costs, ahead=True)
    turn.waited(8.0)
    turn.verified(15.0, 14.0, 0.0, 3, 3, since_ms=30.0)
    found = costs.costs(True)
    assert found is not None
    assert found.verify_ms == ((WIDTH, 22.0),)


def test_a_pace_that_beats_the_step_alone_must_beat_the_round_without_a_draft() -> None:
    """What a draft costs the session shows in its rounds: 20 ms with one, 9 without."""
    costs = measured().costs(False)
    assert costs is not None
    assert choose_pace(0.6, costs, 7).window
    assert not choose_pace(0.6, costs, 7, resting_ms=9.0).window
