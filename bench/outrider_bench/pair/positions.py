"""How far guesses agree in real replies: by position in a window, and in tokens a round. Pure.

A round begins where the one before it ended: after its first mismatch, or after a full window and the
target's own token. So a run of agreement is counted as long as it was, not as a product of chances.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outrider_server.pacing.window import expected_tokens

from .replied import Reply

POSITIONS = 8
"""Of a window, that are told of one by one."""


@dataclass(frozen=True, slots=True)
class PlayedRound:
    """One round over a reply: where it began, and how many of its window's guesses agreed."""

    start: int
    agreed: int


@dataclass(frozen=True, slots=True)
class PositionAgreement:
    """Chance that the guess at a position of a window agrees, where all before it did."""

    chance: float | None
    """The mean of the exact chances there; None where no round came so far."""
    rounds: int
    """Rounds that came so far."""


def rounds_of(reply: Reply, window: int) -> Iterator[PlayedRound]:
    """The rounds that decide the reply where each proposes `window` guesses, or as many as are left of it."""
    agreed, start = reply.agreed, 0
    while start < len(agreed):
        room = min(window, len(agreed) - start)
        run = next((index for index in range(room) if not agreed[start + index]), room)
        yield PlayedRound(start, run)
        start += run + 1


def by_position(replies: Sequence[Reply]) -> list[PositionAgreement]:
    """For each of the first positions of a window that is as long as they are, over all replies."""
    chances: list[list[float]] = [[] for _ in range(POSITIONS)]
    for reply in replies:
        for played in rounds_of(reply, POSITIONS):
            reached = reply.chances[played.start : played.start + played.agreed + 1]
            for place, chance in enumerate(reached[:POSITIONS]):
                chances[place].append(chance)
    return [
        PositionAgreement(statistics.fmean(found) if found else None, len(found))
        for found in chances
    ]


def mean_chance(replies: Sequence[Reply]) -> float:
    """Chance that a guess agrees, over all positions of all replies."""
    return statistics.fmean(chance for reply in replies for chance in reply.chances)


def tokens_a_round(replies: Sequence[Reply], window: int) -> float:
    """Mean tokens that a round decides."""
    tokens = sum(len(reply.tokens) for reply in replies)
    return tokens / sum(1 for reply in replies for _ in rounds_of(reply, window))


def equal_chance(tokens: float, window: int) -> float:
    """The chance, the same at every position, with which a round decides so many tokens on average.

    The inverse of the pacing's `expected_tokens`, to 1e-9.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = math.fsum((low, high)) / 2
        if expected_tokens(middle, window) < tokens:
            low = middle
        else:
            high = middle
    return low
