"""Medians, quartiles, and ratios prompt by prompt."""

from __future__ import annotations

import pytest
from outrider_bench.spread import Spread, best, ratios, spread


def test_quartiles_include_the_extremes() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_one_value_is_its_own_spread() -> None:
    assert spread([2.5]) == Spread(2.5, 2.5, 2.5, 1)


def test_no_value_has_no_spread() -> None:
    with pytest.raises(ValueError, match="at least"):
        spread([])


def test_ratios_pair_the_same_prompt() -> None:
    """The ratio of the medians would be 2; prompt by prompt it is 1 and 4."""
    above, below = {"a": 10.0, "b": 40.0, "c": 1.0}, {"b": 10.0, "a": 10.0}
    assert sorted(ratios(above, below)) == [1.0, 4.0]


def test_the_best_has_the_highest_median() -> None:
    candidates = {"steady": {"a": 3.0, "b": 3.0, "c": 3.0}, "lucky": {"a": 9.0, "b": 1.0, "c": 1.0}}
    assert best(candidates) == "steady"
