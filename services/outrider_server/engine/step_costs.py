"""What steps take, by their tokens: timed at a start, followed while they run; and what passes between them.

Owns these estimates, which the plans of steps are made from. Knows no clock: who measures passes times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from ..pacing.estimates import CostEstimate
from ..pacing.meter import LEAST_MS
from .layout import Layout

LONGEST_WAIT_MS = 250.0
"""A device that stood still for longer waited for no session: nobody had anything to ask."""
BETWEEN = 4
"""Parts that plans make of the way between two sizes that are far apart."""


def timed_sizes(layout: Layout, row_buckets: Sequence[int]) -> tuple[int, ...]:
    """The sizes in tokens, ascending, that a start times.

    An aligned step costs what its bucket costs. A packed one costs what its tokens do: every number of them
    that one row may have is timed, beyond that the double of the one before, and the most.
    """
    width, most = layout.width, row_buckets[-1] * layout.width
    if not layout.packed:
        return tuple(bucket * width for bucket in row_buckets)
    sizes = set(range(1, width + 1)) | {most}
    size = 2 * width
    while size < most:
        sizes.add(size)
        size *= 2
    return tuple(sorted(sizes))


class StepCosts:
    """What steps of each size take, in milliseconds. Of sizes between two that are timed, a mean of both.

    `timed` is (tokens, ms), ascending.
    """

    def __init__(self, timed: Sequence[tuple[int, float]]) -> None:
        self._sizes = [tokens for tokens, _ in timed]
        self._estimates = [CostEstimate() for _ in timed]
        for estimate, (_, ms) in zip(self._estimates, timed, strict=True):
            estimate.observe(ms)
        self._planned = _planned(self._sizes)
        self._wait = CostEstimate()

    def observe(self, tokens: int, ms: float) -> None:
        """Takes the time of a step of 1 to the most tokens; the timed size that is nearest learns from it."""
        place = bisect_left(self._sizes, tokens)
        size = self._sizes[place]
        if tokens != size and place and tokens - self._sizes[place - 1] < size - tokens:
            place -= 1
        estimate = self._estimates[place]
        expected_ms = self._between(tokens)
        scale = (estimate.value_ms or 0.0) / expected_ms if expected_ms else 1.0
        estimate.observe(ms * scale)

    def waited(self, ms: float) -> None:
        """Takes the time from one step to the next, in which the device did nothing."""
        if ms <= LONGEST_WAIT_MS:
            self._wait.observe(ms)

    def step_ms(self) -> list[tuple[int, float]]:
        """(tokens, ms) of the sizes that a plan chooses from, ascending: a step and the wait before it.

        No step is cheaper than a smaller one: an estimate that says so has not been looked at for long. The
        wait is the way to the sessions and back, and nothing where others fill it.
        """
        timed = [estimate.value_ms or 0.0 for estimate in self._estimates]
        wait_ms, largest_ms, planned = self._wait.value_ms or 0.0, LEAST_MS, []
        for tokens, lower, share in self._planned:
            ms = timed[lower]
            if share:
                ms += (timed[lower + 1] - ms) * share
            largest_ms = max(largest_ms, ms)
            planned.append((tokens, largest_ms + wait_ms))
        return planned

    def _between(self, tokens: int) -> float:
        place = bisect_left(self._sizes, tokens)
        upper, upper_ms = self._sizes[place], self._estimates[place].value_ms or 0.0
        if tokens == upper or not place:
            return upper_ms
        lower, lower_ms = self._sizes[place - 1], self._estimates[place - 1].value_ms or 0.0
        return lower_ms + (upper_ms - lower_ms) * (tokens - lower) / (upper - lower)


def _planned(sizes: Sequence[int]) -> list[tuple[int, int, float]]:
    """(tokens, place of the timed size that is no larger, how far they are from that to the next one)."""
    planned = [(sizes[-1], len(sizes) - 1, 0.0)]
    for place, (lower, upper) in enumerate(pairwise(sizes)):
        between = {lower + (upper - lower) * part // BETWEEN for part in range(BETWEEN)}
        planned += [(tokens, place, (tokens - lower) / (upper - lower)) for tokens in between]
    return sorted(planned)
