"""The simulation catches every planted bug, and says after how many seeds."""

from __future__ import annotations

import pytest

from .planted import PLANTED
from .run import run_seed

MOST_SEEDS = 2000


def seeds_until_caught(name: str, most: int = MOST_SEEDS) -> tuple[int, str] | None:
    """(seeds that it took, what was violated); None where it is not caught."""
    with PLANTED[name]():
        for seed in range(most):
            violations = run_seed(seed).violations
            if violations:
                return seed + 1, violations[0]
    return None


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_bug_is_caught(name: str) -> None:
    caught = seeds_until_caught(name)
    assert caught is not None, f"{MOST_SEEDS} seeds did not notice that {name}"
    print(f"| {name} | {caught[0]} | {caught[1]} |")
