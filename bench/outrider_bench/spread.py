"""Medians and quartiles, and ratios of two systems over the same prompts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some values: quartiles by linear interpolation, the extremes included."""

    median: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2) -> str:
        """Median and quartiles."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def ratios(above: Mapping[str, float], below: Mapping[str, float]) -> list[float]:
    """`above` over `below` for every key that both have: each prompt against itself."""
    return [above[key] / below[key] for key in above if key in below]


def best(candidates: Mapping[str, Mapping[str, float]]) -> str:
    """The name of the candidate with the highest median over its keys."""
    return max(candidates, key=lambda name: statistics.median(candidates[name].values()))
