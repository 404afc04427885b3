"""How the room of a shared step is allotted, against every other way to allot it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as some
from outrider_server.engine.scheduling.batching import allocate


def rates(
    survivals: list[list[float]], steps: list[tuple[int, float]]
) -> dict[tuple[int, ...], float]:
    """Expected tokens a millisecond of every way to keep proposals that fits into a step."""
    found = {}
    for kept in itertools.product(*(range(len(row) + 1) for row in survivals)):
        tokens = len(survivals) + sum(kept)
        costs = [ms for size, ms in steps if size >= tokens]
        if costs:
            gained = sum(sum(row[:count]) for row, count in zip(survivals, kept, strict=True))
            found[kept] = (len(survivals) + gained) / costs[0]
    return found


@given(
    some.lists(
        some.lists(some.sampled_from((0.0, 0.1, 0.25, 0.5, 0.8, 0.9, 1.0)), max_size=3).map(
            lambda chances: list(itertools.accumulate(chances, lambda one, other: one * other))
        ),
        min_size=1,
        max_size=4,
    ),
    some.lists(some.integers(1, 20), min_size=1, max_size=3),
)
def test_no_other_allocation_decides_more_tokens_a_millisecond(
    survivals: list[list[float]], added_ms: list[int]
) -> None:
    costs = itertools.accumulate(added_ms, initial=10)
    steps = list(zip((4, 6, 9, 16), map(float, costs), strict=False))
    every = rates(survivals, steps)
    assert every[tuple(allocate(survivals, steps))] == pytest.approx(max(every.values()))


def test_room_in_a_bucket_is_filled_though_the_guesses_are_poor() -> None:
    assert allocate([[0.01, 0.001], [0.02, 0.0]], [(8, 10.0)]) == [2, 2]


def test_a_larger_step_is_taken_only_for_guesses_that_pay_for_it() -> None:
    steps = [(2, 10.0), (4, 14.0), (8, 30.0)]
    assert allocate([[0.9, 0.8], [0.1, 0.05]], steps) == [2, 0]
    assert allocate([[0.3, 0.1], [0.1, 0.05]], steps) == [0, 0]


def test_a_rows_later_guess_never_comes_before_its_earlier_one() -> None:
    assert allocate([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], [(5, 10.0)]) == [3, 0]
    assert allocate([[], [0.9]], [(8, 1.0)]) == [0, 1]


def test_more_rows_than_a_step_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows do not fit"):
        allocate([[], [], []], [(2, 10.0)])
