"""When the sessions that a step answered come back, and whether a step waits for them.

Sessions that run at once would otherwise settle into groups that take turns, each step as long as one of all.
Times are seconds on the caller's clock; nothing here reads one.
"""

from __future__ import annotations

from collections.abc import Collection

from ...pacing.estimates import CostEstimate

SPREAD = 1.5
"""A session is given up when it is away for this many times its usual time."""


class Returns:
    """Who is away, since when, and for how long usually: each session, by its slot, has its own estimate."""

    def __init__(self) -> None:
        self._usual: dict[int, CostEstimate] = {}
        self._since: dict[int, float] = {}
        self._step_seconds = 0.0

    def answered(self, slots: Collection[int], now: float, step_seconds: float) -> None:
        """A step that took `step_seconds` has answered these."""
        self._step_seconds = step_seconds
        self._since.update(dict.fromkeys(slots, now))

    def back(self, slots: Collection[int], now: float) -> None:
        """These want their next step."""
        for slot in self._since.keys() & set(slots):
            away_ms = (now - self._since.pop(slot)) * 1000
            self._usual.setdefault(slot, CostEstimate()).observe(away_ms)

    def gone(self, slot: int) -> None:
        """The turn in this slot has ended; the next one has another pace."""
        self._since.pop(slot, None)
        self._usual.pop(slot, None)

    def seconds_worth_waiting(self, ready: int, now: float) -> float:
        """How long `ready` rows wait for the sessions that are away; 0 to go on without them.

        Waiting w for k of them, the first to return, brings (ready + k) / (w + t) rows a second, with t the
        time of a step; the best k wins, and 0 is one of them. A session of unknown pace is taken to need a
        step's time.
        """
        best_rate, best_wait = ready / max(self._step_seconds, 1e-9), 0.0
        expected = sorted(self._expected(now))
        for count, (left, longest) in enumerate(expected, start=1):
            rate = (ready + count) / max(left + self._step_seconds, 1e-9)
            if rate > best_rate:
                best_rate, best_wait = rate, longest
        return best_wait

    def _expected(self, now: float) -> list[tuple[float, float]]:
        """(seconds until it should be back, seconds until it is given up) of all not given up yet."""
        found = []
        for slot, since in self._since.items():
            estimate = self._usual.get(slot)
            usual = self._step_seconds if estimate is None else (estimate.value_ms or 0) / 1000
            given_up = since + SPREAD * usual - now
            if given_up > 0:
                found.append((max(0.0, since + usual - now), given_up))
        return found
