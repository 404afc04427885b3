"""Seeded runs of the whole system violate nothing, and every run can be had again."""

from __future__ import annotations

import gc
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

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


def test_another_process_has_the_same_run() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seed", "2", "--trace"]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert there.splitlines()[:-2] == list(run_seed(2).log)


REAL = (
    time.monotonic,
    time.monotonic_ns,
    time.perf_counter,
    time.perf_counter_ns,
    time.time,
    time.time_ns,
    os.urandom,
)


@contextmanager
def noted_looks_outside() -> Iterator[list[str]]:
    """Where this thread asks a real clock or draws what no seed decides, but for the time of a log's line."""
    looks: list[str] = []

    def note(frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or frame.f_code.co_filename == logging.__file__:
            return
        if called in REAL or getattr(called, "__self__", None) is random._inst:
            looks.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")

    before, of_collections = sys.getprofile(), gc.callbacks[:]
    gc.callbacks.clear()  # tools for tests time collections
    sys.setprofile(note)
    try:
        yield looks
    finally:
        sys.setprofile(before)
        gc.callbacks.extend(of_collections)


def test_a_run_asks_no_real_clock_and_draws_nothing_but_from_its_seed() -> None:
    seeds = range(20)
    # What libraries ask when they are imported is asked here.
    digests = [run_seed(seed).digest for seed in seeds]
    with noted_looks_outside() as looks:
        assert [run_seed(seed).digest for seed in seeds] == digests
    assert looks == []


@pytest.mark.parametrize(
    "look",
    [
        time.monotonic,
        time.time_ns,
        lambda: os.urandom(1),
        random.random,
        random.SystemRandom().random,
    ],
)
def test_a_look_outside_is_noted(look: Any) -> None:
    with noted_looks_outside() as looks:
        look()
    assert len(looks) == 1


def test_the_runs_check_what_they_claim_to() -> None:
    outcomes = [run_seed(seed) for seed in range(40)]
    lines = [line for outcome in outcomes for line in outcome.log]
    for told in (" dies after ", "freeze at", "partition at", "sever at", "ledger at", "whole:"):
        assert any(told in line for line in lines), f"no run has {told!r}"
    assert sum(outcome.checks for outcome in outcomes) > 4000
