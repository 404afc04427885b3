"""Which rows a step takes, and how many tokens of each: pure decisions over what waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..pacing.window import allocate
from .layout import Layout

Demand = tuple[int, tuple[float, ...] | None]
"""(tokens of a row, chance that each token after the first is of use); None where all are needed."""

PlanRows = Callable[[Sequence[Demand]], list[int]]
"""How many tokens each row keeps, for as many of the first rows as the step takes."""


def plan_rows(
    demands: Sequence[Demand], layout: Layout, step_ms: Sequence[tuple[int, float]]
) -> list[int]:
    """Fills a step from its first rows on. `step_ms` is (tokens, ms) of every bucket, ascending.

    Packed rows that may lose tokens share a step of the size that decides the most tokens a millisecond, all
    sessions taken together; elsewhere a row keeps what it has, for its padding costs as much.
    """
    most = step_ms[-1][0]
    if not layout.packed or any(survival is None for _, survival in demands):
        lengths = [length for length, _ in demands]
        return lengths[: layout.rows_that_fit(lengths, most)]
    taken = demands[:most]
    survivals = [_completed(length - 1, survival or ()) for length, survival in taken]
    return [1 + kept for kept in allocate(survivals, step_ms)]


def _completed(count: int, survival: Sequence[float]) -> list[float]:
    """The chances of `count` tokens; 1 for those that nobody estimated."""
    return [*survival[:count], *(1.0 for _ in range(count - len(survival)))]
