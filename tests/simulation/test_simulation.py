"""Seeded runs of the whole system violate nothing, and every run can be had again."""

from __future__ import annotations

import pytest

from .run import run_seed

SEEDS = 2000
SHARE = 100


@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_no_seed_loses_changes_or_repeats_a_token(first: int) -> None:
    for seed in range(first, first + SHARE):
        outcome = run_seed(seed)
        again = f"python -m tests.simulation --seed {seed} --trace"
        assert not outcome.violations, f"{outcome.violations}; see {again}"


def test_a_seed_gives_the_same_run_whatever_ran_before_it() -> None:
    seeds = range(40)
    forth = {seed: run_seed(seed).digest for seed in seeds}
    back = {seed: run_seed(seed).digest for seed in reversed(seeds)}
    assert forth == back
    assert len(set(forth.values())) == len(seeds)


def test_the_runs_check_what_they_claim_to() -> None:
    outcomes = [run_seed(seed) for seed in range(40)]
    lines = [line for outcome in outcomes for line in outcome.log]
    for told in (" dies after ", "freeze at", "partition at", "sever at", "ledger at", "whole:"):
        assert any(told in line for line in lines), f"no run has {told!r}"
    assert sum(outcome.checks for outcome in outcomes) > 4000
