"""How a step is filled: which rows, and how many tokens of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.engine.layout import Layout
from outrider_server.engine.scheduling.batching import Demand, plan_rows

WIDTH = 8
ALIGNED = Layout(WIDTH, packed=False, scratch_slot=9)
PACKED = Layout(WIDTH, packed=True, scratch_slot=9)
STEPS = [(8, 10.0), (16, 14.0), (24, 30.0)]
"""Twice the tokens for 1.4 times the time, half as many more for twice that."""


def falling(chance: float, count: int) -> tuple[float, ...]:
    return tuple(chance**depth for depth in range(1, count + 1))


def test_aligned_rows_keep_what_they_have_since_padding_costs_as_much() -> None:
    demands: list[Demand] = [(8, (0.0,) * 7), (3, (0.1, 0.0)), (1, ())]
    assert plan_rows(demands, ALIGNED, STEPS) == [8, 3, 1]


def test_aligned_rows_fill_a_step_row_by_row() -> None:
    demands: list[Demand] = [(1, ()), (2, (0.5,)), (8, (0.5,) * 7), (5, (0.9,) * 4)]
    assert plan_rows(demands, ALIGNED, STEPS) == [1, 2, 8]


def test_rows_that_need_every_token_are_packed_whole_as_many_as_fit() -> None:
    """A draft's rows: each asks for the decision after its last token."""
    assert plan_rows([(8, None), (8, None), (7, None)], PACKED, STEPS) == [8, 8, 7]
    assert plan_rows([(8, None), (8, None), (8, None), (1, None)], PACKED, STEPS) == [8, 8, 8]
    assert plan_rows([(8, None), (8, None), (7, None), (2, None)], PACKED, STEPS) == [8, 8, 7]


def test_one_row_that_needs_every_token_keeps_the_others_whole_too() -> None:
    assert plan_rows([(8, (0.0,) * 7), (2, None)], PACKED, STEPS) == [8, 2]


def test_a_likely_proposal_is_kept_and_an_unlikely_one_makes_room() -> None:
    demands: list[Demand] = [(8, falling(0.1, 7)), (8, falling(0.95, 7))]
    assert plan_rows(demands, PACKED, [(10, 10.0), (16, 30.0)]) == [2, 8]


def test_a_step_that_costs_no_more_takes_everything() -> None:
    demands: list[Demand] = [(8, falling(0.1, 7)), (8, falling(0.2, 7))]
    assert plan_rows(demands, PACKED, [(2, 10.0), (16, 10.0)]) == [8, 8]


def test_proposals_that_nobody_estimated_are_never_left_out_for_likely_ones() -> None:
    """An older caller sends no chances; a shorter list says nothing of what follows it."""
    steps = [(12, 10.0), (24, 100.0)]
    assert plan_rows([(8, ()), (8, falling(0.99, 7))], PACKED, steps) == [8, 4]
    assert plan_rows([(8, falling(0.99, 7)), (8, ())], PACKED, steps) == [4, 8]


def test_more_rows_than_a_step_has_tokens_wait_for_the_next_one() -> None:
    demands: list[Demand] = [(8, falling(0.9, 7))] * 30
    assert plan_rows(demands, PACKED, STEPS) == [1] * 24


def test_a_row_alone_is_cut_where_the_next_bucket_does_not_pay() -> None:
    assert plan_rows([(8, falling(0.2, 7))], PACKED, [(2, 10.0), (8, 40.0)]) == [2]
    assert plan_rows([(8, falling(0.95, 7))], PACKED, [(2, 10.0), (8, 12.0)]) == [8]


CHANCES = st.lists(st.floats(0, 1), max_size=7).map(lambda some: tuple(sorted(some, reverse=True)))


@st.composite
def a_demand(draw: st.DrawFn) -> Demand:
    length = draw(st.integers(1, WIDTH))
    if draw(st.integers(0, 9)) == 0:
        return length, None
    return length, draw(CHANCES)[: length - 1]


@st.composite
def some_steps(draw: st.DrawFn) -> list[tuple[int, float]]:
    sizes = sorted(draw(st.sets(st.integers(1, 6), min_size=1))) if draw(st.booleans()) else [1, 3]
    return [(size * WIDTH, draw(st.floats(0.01, 100))) for size in sizes]


@given(st.lists(a_demand(), min_size=1, max_size=60), some_steps(), st.booleans())
def test_whatever_waits_the_step_takes_its_first_rows_and_overflows_never(
    demands: list[Demand], steps: list[tuple[int, float]], packed: bool
) -> None:
    layout = PACKED if packed else ALIGNED
    kept = plan_rows(demands, layout, steps)
    assert 1 <= len(kept) <= len(demands), "somebody is always served"
    assert layout.tokens(kept) <= steps[-1][0]
    for count, (length, survival) in zip(kept, demands, strict=False):
        assert 1 <= count <= length
        if survival is None or not packed:
            assert count == length


@given(st.lists(CHANCES, min_size=1, max_size=5))
def test_what_is_kept_is_never_less_likely_than_what_is_left_out(
    chances: list[tuple[float, ...]],
) -> None:
    demands: list[Demand] = [(1 + len(some), some) for some in chances]
    kept = plan_rows(demands, PACKED, [(8, 10.0), (16, 15.0), (40, 60.0)])
    inside = [
        some[at] for some, count in zip(chances, kept, strict=True) for at in range(count - 1)
    ]
    outside = [
        some[at]
        for some, count in zip(chances, kept, strict=True)
        for at in range(count - 1, len(some))
    ]
    assert not inside or not outside or min(inside) >= max(outside)


@pytest.mark.parametrize("packed", [True, False])
def test_planning_changes_nothing_that_it_is_given(packed: bool) -> None:
    demands: list[Demand] = [(8, falling(0.5, 7)), (4, None)]
    steps = list(STEPS)
    plan_rows(demands, PACKED if packed else ALIGNED, steps)
    assert (demands, steps) == ([(8, falling(0.5, 7)), (4, None)], STEPS)
