"""What fits is the last that fits: one more does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.fitting import fit, largest
from outrider_server.planning.memory import plan_memory
from outrider_server.planning.shape import engine_shape
from outrider_server.planning.types import EngineShape, ModelSizes

from .configs import options

MIB = 1 << 20


@pytest.fixture(scope="module")
def sizes() -> ModelSizes:
    return count_model(read_config(TARGET_FOLDER))


def shape_of(sizes: ModelSizes, **changes: int) -> EngineShape:
    return replace(engine_shape(sizes, options(compile="off")), **changes)


def total(sizes: ModelSizes, shape: EngineShape) -> int:
    return plan_memory(sizes, shape).total_bytes


@pytest.mark.parametrize("memory", [60 * MIB, 100 * MIB, 1000 * MIB])
def test_one_slot_more_than_the_most_does_not_fit(sizes: ModelSizes, memory: int) -> None:
    most = fit(sizes, shape_of(sizes), memory).largest_slots
    assert most > 1
    assert total(sizes, shape_of(sizes, slots=most, rows=most)) <= memory
    assert total(sizes, shape_of(sizes, slots=most + 1, rows=most + 1)) > memory


def test_rows_that_are_pinned_do_not_grow_with_the_slots(sizes: ModelSizes) -> None:
    shape, memory = shape_of(sizes, rows=2), 100 * MIB
    most = fit(sizes, shape, memory, rows=2).largest_slots
    assert most > fit(sizes, shape, memory).largest_slots
    assert total(sizes, shape_of(sizes, slots=most, rows=2)) <= memory
    assert total(sizes, shape_of(sizes, slots=most + 1, rows=2)) > memory


def test_one_token_more_than_the_longest_context_does_not_fit(sizes: ModelSizes) -> None:
    memory = 60 * MIB
    longest = fit(sizes, shape_of(sizes), memory).largest_context_tokens
    assert 0 < longest < sizes.max_positions
    assert total(sizes, shape_of(sizes, context_tokens=longest)) <= memory
    assert total(sizes, shape_of(sizes, context_tokens=longest + 1)) > memory


def test_the_longest_context_is_never_longer_than_the_models(sizes: ModelSizes) -> None:
    assert fit(sizes, shape_of(sizes), 1 << 40).largest_context_tokens == sizes.max_positions


def test_nothing_fits_where_the_weights_alone_do_not(sizes: ModelSizes) -> None:
    found = fit(sizes, shape_of(sizes), 10 * MIB)
    assert (found.fits, found.largest_slots, found.largest_context_tokens) == (False, 0, 0)


def test_exactly_enough_fits_and_a_byte_less_does_not(sizes: ModelSizes) -> None:
    shape = shape_of(sizes)
    needed = total(sizes, shape)
    assert fit(sizes, shape, needed).fits
    assert not fit(sizes, shape, needed - 1).fits


def test_a_draft_beside_the_target_leaves_less_to_it(sizes: ModelSizes) -> None:
    draft = count_model(read_config(DRAFT_FOLDER))
    taken = total(draft, shape_of(draft, width=2))
    memory = total(sizes, shape_of(sizes)) + taken
    assert fit(sizes, shape_of(sizes), memory, other_bytes=taken).fits
    assert not fit(sizes, shape_of(sizes), memory, other_bytes=taken + 1).fits


def test_the_largest_is_found_whatever_the_bound() -> None:
    for most in (1, 2, 7, 4096):
        for bound in range(0, 10):
            assert largest(lambda value, bound=bound: value <= bound, most) == min(bound, most)
