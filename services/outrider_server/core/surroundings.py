"""What a process has from outside itself: time, chance and names.

Names the real ones, and is the only module that does. Whoever needs one is given it, so that a simulation
can give others.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Seconds since some moment, and never fewer than before."""

CHANCE = random.SystemRandom()
"""What it draws nobody can guess."""


def random_id() -> str:
    """An id that nobody can guess."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Those of one process; by default the real ones."""

    clock: Clock = time.monotonic
    wall_ns: Callable[[], int] = time.time_ns
    """Nanoseconds since 1970. Who measures how long something takes uses `clock`."""
    chance: random.Random = CHANCE
    new_id: Callable[[], str] = random_id
