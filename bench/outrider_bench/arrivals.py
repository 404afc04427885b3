"""Turns that arrive whether or not there is room, and what came of them.

Pure: when turns arrive, and how their tokens add up.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class End(StrEnum):
    """How a turn ended for its client."""

    FINISHED = "finished"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """One turn as its client saw it. Times are in seconds since the phase began."""

    end: End
    arrivals: tuple[float, ...] = ()
    """When each token came."""
    refusals: int = 0
    refusals_without_delay: int = 0
    """Those that did not say when to come back."""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What a phase brought within its window."""

    tokens_per_second: float
    """Of turns that finished: tokens of a turn that did not are worth nothing."""
    turns_per_second: float
    """Turns whose last token came within the window."""


def poisson_arrivals(turns_per_second: float, seconds: float, seed: int) -> tuple[float, ...]:
    """When turns arrive that know nothing of each other, from 0 up to `seconds`."""
    drawn = random.Random(seed)
    times: list[float] = []
    now = 0.0
    while (now := now + drawn.expovariate(turns_per_second)) < seconds:
        times.append(now)
    return tuple(times)


def load_between(turns: Sequence[TurnOutcome], start: float, end: float) -> Load:
    """What the finished turns brought from `start` up to `end`, in seconds."""
    finished = [turn.arrivals for turn in turns if turn.end is End.FINISHED]
    tokens = sum(bisect_left(times, end) - bisect_left(times, start) for times in finished)
    ended = sum(start <= times[-1] < end for times in finished if times)
    return Load(tokens / (end - start), ended / (end - start))
