"""Which rows a step takes, and how many tokens of each: pure decisions over what waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from ..layout import Layout

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


def allocate(
    survivals: Sequence[Sequence[float]], step_ms: Sequence[tuple[int, float]]
) -> list[int]:
    """How many proposals each row of a packed step keeps, for the most expected tokens a millisecond.

    `survivals[i][j]` is the chance that row i's proposal j is accepted: a product, so it never rises with j.
    Every row has one token more, which is always decided. `step_ms` is (tokens, ms), ascending; a step costs
    what its bucket costs, so each bucket is filled with the likeliest proposals and the best bucket wins.
    Of equally good buckets the smaller wins, being over sooner. Raises ValueError where the rows alone
    exceed the last bucket.

    Goodput: Liu et al., SmartSpec, arXiv 2406.14066.
    """
    rows = len(survivals)
    if not step_ms or rows > step_ms[-1][0]:
        raise ValueError(f"{rows} rows do not fit into the largest step")
    # Stable: of equally likely proposals a row's earlier one comes first.
    ranked = sorted(
        [(-chance, row) for row, chances in enumerate(survivals) for chance in chances],
        key=lambda entry: entry[0],
    )
    expected = list(accumulate((-chance for chance, _ in ranked), initial=float(rows)))
    best_rate, best_count = -1.0, 0
    for tokens, ms in step_ms:
        if tokens < rows:
            continue
        count = min(tokens - rows, len(ranked))
        if expected[count] / ms > best_rate:
            best_rate, best_count = expected[count] / ms, count
    kept = [0] * rows
    for _, row in ranked[:best_count]:
        kept[row] += 1
    return kept


def _completed(count: int, survival: Sequence[float]) -> list[float]:
    """The chances of `count` tokens; 1 for those that nobody estimated."""
    return [*survival[:count], *(1.0 for _ in range(count - len(survival)))]
