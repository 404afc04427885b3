"""The formulas against hand-made cases and brute force; against whole turns they stand in test_simulator."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as some
from outrider_server.pacing.window import (
    MAX_LEAD,
    Costs,
    Pace,
    ahead_ms,
    choose_pace,
    expected_tokens,
    lead,
    plain_ms,
    synchronous_ms,
)

AGREEMENTS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)


def flat(draft_ms: float = 2.0, round_trip_ms: float = 1.0, verify_ms: float = 10.0) -> Costs:
    """Every step costs the same."""
    return Costs(draft_ms, round_trip_ms, ((64, verify_ms),))


def linear(draft_ms: float, round_trip_ms: float, first_ms: float, token_ms: float) -> Costs:
    """Every token of a step adds the same."""
    steps = ((tokens, first_ms + token_ms * (tokens - 1)) for tokens in range(1, 65))
    return Costs(draft_ms, round_trip_ms, tuple(steps))


def some_costs() -> some.SearchStrategy[Costs]:
    """Costs with one to four buckets; larger buckets never cost less."""
    ms = some.floats(0.05, 60)
    sizes = some.lists(some.sampled_from((1, 2, 4, 8, 16, 64)), min_size=1, max_size=4, unique=True)
    buckets = some.tuples(sizes, some.lists(ms, min_size=4, max_size=4)).map(
        lambda drawn: tuple(zip(sorted(drawn[0]), sorted(drawn[1]), strict=False))
    )
    return some.builds(Costs, ms, some.floats(0, 200), buckets)


# Costs


def test_a_step_costs_what_its_bucket_costs_and_beyond_the_last_what_the_last_costs() -> None:
    costs = Costs(1.0, 0.0, ((1, 5.0), (8, 7.0), (16, 12.0)))
    assert [costs.verify(tokens) for tokens in (1, 2, 8, 9, 16, 17)] == [5, 7, 7, 12, 12, 12]


@pytest.mark.parametrize(
    ("draft_ms", "round_trip_ms", "verify_ms"),
    [
        (0.0, 1.0, ((8, 5.0),)),
        (math.nan, 1.0, ((8, 5.0),)),
        (1.0, -1.0, ((8, 5.0),)),
        (1.0, math.inf, ((8, 5.0),)),
        (1.0, 1.0, ()),
        (1.0, 1.0, ((0, 5.0),)),
        (1.0, 1.0, ((8, 5.0), (8, 6.0))),
        (1.0, 1.0, ((8, 0.0),)),
    ],
)
def test_what_cannot_be_a_cost_is_refused(
    draft_ms: float, round_trip_ms: float, verify_ms: tuple[tuple[int, float], ...]
) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        Costs(draft_ms, round_trip_ms, verify_ms)


# Formulas


def test_expected_tokens_are_the_published_ones_and_right_at_both_ends() -> None:
    found = [round(expected_tokens(0.8, window), 2) for window in (1, 2, 3, 4, 5)]
    assert found == [1.80, 2.44, 2.95, 3.36, 3.69]
    assert [expected_tokens(1.0, window) for window in (0, 1, 7)] == [1, 2, 8]
    assert [expected_tokens(0.0, window) for window in (0, 1, 7)] == [1, 1, 1]


@given(some.floats(0, 0.999), some.integers(0, 63))
def test_expected_tokens_are_the_geometric_sum(agreement: float, window: int) -> None:
    closed = (1 - agreement ** (window + 1)) / (1 - agreement)
    assert expected_tokens(agreement, window) == pytest.approx(closed, rel=1e-9)


@pytest.mark.parametrize(("agreement", "window"), [(-0.1, 1), (1.1, 1), (math.nan, 1), (0.5, 64)])
def test_a_chance_or_window_outside_its_range_is_refused(agreement: float, window: int) -> None:
    for call in (
        lambda: synchronous_ms(agreement, window, flat()),
        lambda: ahead_ms(agreement, window, flat()),
        lambda: choose_pace(agreement, flat(), window),
    ):
        with pytest.raises(ValueError, match="must be 0 to"):
            call()


def test_the_synchronous_loop_pays_every_part_of_a_round() -> None:
    assert plain_ms(flat()) == 10
    assert synchronous_ms(0.5, 3, flat()) == pytest.approx((3 * 2 + 1 + 10) / 1.875)
    assert synchronous_ms(1.0, 4, flat()) == pytest.approx((4 * 2 + 1 + 10) / 5)


def test_a_step_holds_the_guesses_and_the_token_before_them() -> None:
    """Three guesses fit into the small bucket, four do not; ahead, the first step holds two tokens only."""
    costs = Costs(2.0, 1.0, ((4, 10.0), (8, 20.0)))
    assert synchronous_ms(1.0, 3, costs) == pytest.approx((3 * 2 + 1 + 10) / 4)
    assert synchronous_ms(1.0, 4, costs) == pytest.approx((4 * 2 + 1 + 20) / 5)
    assert ahead_ms(0.0, 7, costs) == pytest.approx(1 + 1 + 2 + 10)
    assert ahead_ms(0.0, 7, costs, minimum=4) == pytest.approx(1 + 1 + 8 + 20)


def test_ahead_without_agreement_every_token_pays_the_whole_way() -> None:
    """Round trip, half a step of the draft, the guess, the step."""
    assert ahead_ms(0.0, 7, flat()) == pytest.approx(1 + 1 + 2 + 10)
    assert ahead_ms(0.0, 7, flat(), minimum=3) == pytest.approx(1 + 1 + 6 + 10)


@pytest.mark.parametrize(
    ("draft_ms", "round_trip_ms", "token_ms"),
    [(2.0, 1.0, 2.0), (1.0, 90.0, 102.25 / 64), (0.5, 1.0, 10 / 8), (20.0, 1.0, 20.0)],
)
def test_ahead_with_certain_agreement_the_slowest_part_sets_the_rate(
    draft_ms: float, round_trip_ms: float, token_ms: float
) -> None:
    """The draft, the way (no more than 64 tokens can be on it), the target, the draft again."""
    costs = flat(draft_ms, round_trip_ms, 10.0 if round_trip_ms == 1 else 11.25)
    assert ahead_ms(1.0, 7, costs) == pytest.approx(token_ms)


def test_ahead_adds_up_the_steps_between_two_mismatches() -> None:
    """Guesses arrive at 2, 4, 6, ... ms and steps take 10. The first takes one guess at 2 and decides two
    positions by 12; then six guesses are there, four for undecided positions: seven decided by 22; then
    eleven and four: twelve by 32; and so on, five a step."""
    chances = [1, *(0.8**decided for decided in (2, 7, 12, 17, 22, 27, 32))]
    durations = [12, *[10] * 7]
    cycle_ms = 1 + 2 / 2 + sum(ms * chance for ms, chance in zip(durations, chances, strict=True))
    assert ahead_ms(0.8, 7, flat()) == pytest.approx(0.2 * cycle_ms + 0.8**37 * 2)


def test_the_lead_covers_what_is_on_its_way_and_stays_in_its_bounds() -> None:
    assert lead(4, flat(draft_ms=2, round_trip_ms=1)) == 6 + 4
    assert lead(7, flat(draft_ms=0.1, round_trip_ms=50)) == 7 + 8 * 6, "what the target can take"
    assert lead(7, flat(draft_ms=0.1, round_trip_ms=100)) == MAX_LEAD
    assert lead(0, flat(draft_ms=100)) == 1


# The choice


@pytest.mark.parametrize("agreement", AGREEMENTS)
@pytest.mark.parametrize("round_trip_ms", [0.1, 5, 20])
@pytest.mark.parametrize("token_ms", [0.0, 0.3, 1.5])
def test_on_smooth_costs_the_marginal_rule_finds_the_best_window(
    agreement: float, round_trip_ms: float, token_ms: float
) -> None:
    """Go on while the next guess's chance to count exceeds its cost times the present rate."""
    costs = linear(2.0, round_trip_ms, 10.0, token_ms)
    best = min(range(1, 64), key=lambda window: synchronous_ms(agreement, window, costs))
    assert by_marginal_rule(agreement, costs) == best


def by_marginal_rule(agreement: float, costs: Costs) -> int:
    """The window where the rule stops, at least 1."""
    window = 1
    while window < 63:
        added_ms = costs.draft_ms + costs.verify(window + 2) - costs.verify(window + 1)
        if agreement ** (window + 1) <= added_ms / synchronous_ms(agreement, window, costs):
            break
        window += 1
    return window


def test_at_the_edge_of_a_bucket_the_marginal_rule_stops_too_early() -> None:
    """Why windows are tried one by one: one more token costs 3 ms, the 13 after it nothing."""
    costs = Costs(0.1, 0.0, ((2, 10.0), (16, 13.0)))
    chosen = choose_pace(0.6, costs, 15, ahead_costs=flat(verify_ms=1000))
    assert by_marginal_rule(0.6, costs) == 1
    assert chosen.window > 1
    assert chosen.predicted_ms < 0.9 * synchronous_ms(0.6, 1, costs)


def test_a_long_way_with_a_bad_draft_is_not_taken() -> None:
    chosen = choose_pace(0.5, flat(round_trip_ms=50), 7)
    assert chosen == Pace(0, 0, 0, False, 10.0)


def test_without_a_window_there_is_nothing_to_choose() -> None:
    assert choose_pace(1.0, flat(), 0).window == 0


def test_a_good_draft_nearby_runs_ahead() -> None:
    chosen = choose_pace(0.8, flat(), 7)
    assert chosen.ahead
    assert chosen.window == 7
    assert chosen.lead == lead(7, flat())
    assert chosen.predicted_ms < synchronous_ms(0.8, 4, flat())


def test_models_that_slow_each_other_down_take_turns() -> None:
    crowded = Costs(4.0, 1.0, ((64, 20.0),))
    chosen = choose_pace(0.8, flat(), 7, ahead_costs=crowded)
    assert not chosen.ahead
    assert chosen.window == chosen.minimum == chosen.lead == 4


def test_a_fast_draft_is_waited_for() -> None:
    """With guesses at a twentieth of a step's cost, verifying the first one alone wastes the step."""
    chosen = choose_pace(0.8, flat(draft_ms=0.5), 7)
    assert chosen.ahead
    assert chosen.minimum > 3
    assert chosen.predicted_ms < 0.9 * ahead_ms(0.8, 7, flat(draft_ms=0.5), 1)


def test_speculation_must_win_by_the_margin() -> None:
    promised = choose_pace(0.7, flat(round_trip_ms=12), 7).predicted_ms
    gain = 1 - promised / 10
    assert gain > 0.05
    assert choose_pace(0.7, flat(round_trip_ms=12), 7, margin=gain - 0.01).window > 0
    assert choose_pace(0.7, flat(round_trip_ms=12), 7, margin=gain + 0.01).window == 0


@given(some.floats(0, 1), some_costs(), some.integers(0, 9))
def test_no_other_pace_promises_more(agreement: float, costs: Costs, max_window: int) -> None:
    """Within 2 %: of running ahead only windows that fill a bucket are tried, beside the margin of 3 %."""
    chosen = choose_pace(agreement, costs, max_window)
    windows = range(1, max_window + 1)
    ahead = (
        ahead_ms(agreement, window, costs, minimum)
        for window in windows
        for minimum in range(1, window + 1)
    )
    in_turns = (synchronous_ms(agreement, window, costs) for window in windows)
    best = min(itertools.chain(ahead, in_turns), default=math.inf)
    assert chosen.predicted_ms <= plain_ms(costs)
    assert chosen.predicted_ms <= 1.02 * best / 0.97
    assert chosen.window <= max_window
    assert chosen.minimum <= max(chosen.window, 0)
    assert chosen.lead >= chosen.minimum
