"""What steps of each size take: which are timed, and how what runs moves what is planned with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import loaded, needs_kernels, packable_llama, tiny_limits
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Layout, Row, RowResult, packed_buckets
from outrider_server.engine.readying import GREEDY
from outrider_server.engine.scheduling.batching import plan_rows
from outrider_server.engine.step_costs import StepCosts, timed_sizes

PACKED = Layout(8, packed=True, scratch_slot=9)
ALIGNED = Layout(8, packed=False, scratch_slot=9)


def test_every_size_of_one_packed_row_is_timed_and_then_each_double() -> None:
    assert timed_sizes(PACKED, packed_buckets(1)) == (1, 2, 3, 4, 5, 6, 7, 8)
    assert timed_sizes(PACKED, packed_buckets(6)) == (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 48)


def test_aligned_steps_are_timed_by_their_buckets() -> None:
    assert timed_sizes(ALIGNED, (1, 4, 6)) == (8, 32, 48)


def test_between_two_timed_sizes_plans_go_by_a_mean_of_both() -> None:
    costs = StepCosts([(1, 10.0), (2, 12.0), (10, 20.0)])
    assert costs.step_ms() == [(1, 10.0), (2, 12.0), (4, 14.0), (6, 16.0), (8, 18.0), (10, 20.0)]


def test_what_runs_is_believed_after_a_few_steps() -> None:
    costs = StepCosts([(1, 10.0), (8, 12.0)])
    for _ in range(40):
        costs.observe(8, 24.0)
    assert dict(costs.step_ms())[8] == pytest.approx(24.0, rel=0.05)
    assert dict(costs.step_ms())[1] == 10.0


def test_a_step_between_two_sizes_tells_of_the_nearer_one() -> None:
    """Fourteen tokens should take 17 ms; that they take half as much again says it of sixteen too."""
    costs = StepCosts([(8, 11.0), (16, 19.0)])
    costs.observe(14, 1.5 * 17.0)
    assert costs.step_ms()[0] == (8, 11.0)
    assert costs.step_ms()[-1] == (16, pytest.approx((19.0 + 1.5 * 19.0) / 2))


def test_what_passes_between_two_steps_is_part_of_each() -> None:
    """Far from its sessions a target decides as much as it can each time; near them what its steps allow."""
    costs = StepCosts([(1, 10.0), (8, 20.0)])
    demand = [(8, (0.5, 0.25, 0.1, 0.0, 0.0, 0.0, 0.0))]
    near = plan_rows(demand, PACKED, costs.step_ms())
    for _ in range(20):
        costs.waited(40.0)
        costs.waited(60_000.0)
    assert costs.step_ms()[0] == (1, pytest.approx(50.0))
    assert plan_rows(demand, PACKED, costs.step_ms()) > near


def test_a_larger_step_is_never_thought_cheaper_than_a_smaller_one() -> None:
    """Contexts have grown and only single tokens were run: so the others have become dearer too."""
    costs = StepCosts([(1, 10.0), (2, 11.0), (4, 12.0)])
    for _ in range(40):
        costs.observe(1, 30.0)
    assert [ms for _, ms in costs.step_ms()] == pytest.approx([30.0] * 4, rel=0.05)


@given(
    st.lists(st.floats(0.001, 1000), min_size=11, max_size=11),
    st.lists(st.tuples(st.integers(1, 48), st.floats(0, 1000)), max_size=40),
)
def test_plans_rise_with_the_tokens_whatever_was_measured(
    timed: list[float], observed: list[tuple[int, float]]
) -> None:
    sizes = timed_sizes(PACKED, packed_buckets(6))
    costs = StepCosts(list(zip(sizes, timed, strict=True)))
    for tokens, ms in observed:
        costs.observe(tokens, ms)
    table = costs.step_ms()
    assert (table[0][0], table[-1][0]) == (1, 48)
    assert all(fewer < more and less <= ms for (fewer, less), (more, ms) in pairwise(table))


@needs_kernels
@pytest.mark.parametrize(
    ("step_ms", "kept"), [(lambda tokens: 5.0 * tokens, 1), (lambda tokens: 5.0, 8)]
)
def test_an_engine_plans_with_what_each_number_of_tokens_took(
    step_ms: Callable[[int], float], kept: int
) -> None:
    """Guesses that are right in half of the cases stay where they are free, and none where each is a step."""
    seconds = 0.0
    engine = Engine(loaded(packable_llama()), tiny_limits(), clock=lambda: seconds)
    decide = engine.runner.decide

    def slow(rows: Sequence[Row], bucket: int) -> list[RowResult]:
        nonlocal seconds
        seconds += step_ms(sum(len(row.tokens) for row in rows)) / 1000
        return decide(rows, bucket)

    engine.runner.decide = slow  # type: ignore[method-assign]
    slot = engine.open("a", 1, 0, GREEDY).slot
    for _ in range(40):
        for length in range(1, 9):
            engine.decide([(slot, 0, (1,) * length)])
    assert engine.plan_rows([(8, (0.5,) * 7)]) == [kept]
