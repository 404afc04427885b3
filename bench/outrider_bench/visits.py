"""Who takes a turn when, and where the KV of its session was then.

Pure: decides the order of turns, follows which sessions have a slot, and reads off where a turn found its KV.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

AGAIN = 0.15
"""Chance that a session takes its next turn at once, before it has lost its slot."""


class Kind(StrEnum):
    """Where the KV of a turn's session was when the turn began."""

    FIRST = "first turn"
    RESIDENT = "in its slot"
    RESTORED = "in host memory"
    REBUILT = "dropped, read again"
    PARTLY = "partly read again"


@dataclass(frozen=True, slots=True)
class Visit:
    """Consecutive turns of one session."""

    session: int
    turns: int


@dataclass(frozen=True, slots=True)
class Taken:
    """One turn that was run."""

    kind: Kind
    first_ms: float
    prefilled_tokens: int
    is_right: bool


class SlotMirror:
    """Which sessions have a slot, as the target's table decides it from the order of openings.

    Two that open at once may reach the target in the other order; then one may be taken for the other.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._open: dict[int, bool] = {}

    def open(self, session: int) -> bool:
        """Opens a session; True where it had a slot."""
        had = session in self._open
        self._open.pop(session, None)
        if len(self._open) >= self._slots:
            idle = next((each for each, is_open in self._open.items() if not is_open), None)
            if idle is not None:
                del self._open[idle]
        self._open[session] = True
        return had

    def close(self, session: int) -> None:
        """Ends a session's turn; it keeps its slot."""
        self._open[session] = False


def plan_visits(sessions: int, turns: int, seed: int) -> list[Visit]:
    """Every session's turns in random order; now and then two turns follow each other."""
    drawn = random.Random(seed)
    order = [session for session in range(sessions) for _ in range(turns)]
    drawn.shuffle(order)
    left = Counter(order)
    visits = []
    for session in order:
        if left[session]:
            together = 2 if left[session] > 1 and drawn.random() < AGAIN else 1
            left[session] -= together
            visits.append(Visit(session, together))
    return visits


def classify(held: int, new: int, prefilled: int, in_slot: bool) -> Kind:
    """Where a session's KV was, from its tokens before the turn, the new ones, and those that were read.

    The last token decided has no KV yet, and the step that decides the first token reads one itself.
    """
    if held == 0:
        return Kind.FIRST
    if prefilled <= new + 1:
        return Kind.RESIDENT if in_slot else Kind.RESTORED
    return Kind.REBUILT if prefilled >= held + new - 1 else Kind.PARTLY
