"""Whether sessions that run at once speculate: decided for all of them, by what all of them get for it.

A session alone cannot tell. Its guesses make the steps longer that the others wait for, and it is as slow
while it rests as their guesses make it. So all speculate or all rest, and now and then all try the other
for a few rounds. Owns what was found for each size of crowd. Knows no clock: who measures passes times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SETTLING_ROUNDS = 2
"""Rounds of each session after a change that belong to neither side: drafts catch up, groups form anew."""
TRIED_ROUNDS = 64
LEAST_TRIED_ROUNDS = 4
"""Rounds that a trial lasts: of all sessions together, and at least of each."""
FIRST_LOOK_ROUNDS = 16
FIRST_STAY_ROUNDS = 64
LONGEST_STAY_ROUNDS = 1024
"""Rounds of each session before the first trial, and between two: doubled after one that changed nothing."""
MARGIN = 0.02
"""A trial must be this much faster to change anything."""


@dataclass(slots=True)
class _Stretch:
    """Rounds in a row on one side. `rounds` counts a session's share: all rounds over the sessions."""

    rounds: float = 0.0
    spent_ms: float = 0.0
    tokens: int = 0

    def add(self, round_ms: float, tokens: int, sessions: int) -> None:
        self.rounds += 1 / sessions
        if self.rounds > SETTLING_ROUNDS:
            self.spent_ms += round_ms
            self.tokens += tokens

    @property
    def token_ms(self) -> float:
        """Time a token of a session."""
        return self.spent_ms / self.tokens if self.tokens else math.inf


class _Size:
    """What is known of crowds of about one size."""

    def __init__(self) -> None:
        self.speculates = True
        self._stretch = _Stretch()
        self._stayed: _Stretch | None = None
        self._stay_rounds = FIRST_LOOK_ROUNDS

    def observe(self, round_ms: float, tokens: int, sessions: int) -> None:
        self._stretch.add(round_ms, tokens, sessions)
        if self._stayed is not None:
            tried_rounds = max(LEAST_TRIED_ROUNDS, TRIED_ROUNDS / sessions)
            if self._stretch.rounds >= SETTLING_ROUNDS + tried_rounds:
                self._judge(self._stayed)
        elif self._stretch.rounds >= SETTLING_ROUNDS + self._stay_rounds:
            self._stayed = self._stretch
            self._change()

    def _judge(self, stayed: _Stretch) -> None:
        """Ends a trial: keeps the new side, or goes back for twice as long."""
        if self._stretch.token_ms < stayed.token_ms * (1 - MARGIN):
            self._stay_rounds = FIRST_STAY_ROUNDS
            self._stretch = _Stretch()
        else:
            longer = max(2 * self._stay_rounds, FIRST_STAY_ROUNDS)
            self._stay_rounds = min(longer, LONGEST_STAY_ROUNDS)
            self._change()
        self._stayed = None

    def _change(self) -> None:
        self.speculates = not self.speculates
        self._stretch = _Stretch()


class Crowd:
    """The turns that run at once in one service. One alone always speculates: it can judge for itself."""

    def __init__(self) -> None:
        self._sessions = 0
        self._sizes: dict[int, _Size] = {}

    @property
    def speculates(self) -> bool:
        """Whether a turn of this crowd speculates in its next round."""
        return self._sessions < 2 or self._size().speculates

    def join(self) -> None:
        """A turn begins."""
        self._sessions += 1

    def leave(self) -> None:
        """A turn has ended."""
        self._sessions -= 1

    def observe(self, speculated: bool, round_ms: float, tokens: int) -> None:
        """A round of some turn: what was decided for it, its time from verdict to verdict, its tokens."""
        if self._sessions > 1 and speculated is self._size().speculates:
            self._size().observe(round_ms, tokens, self._sessions)

    def _size(self) -> _Size:
        """Crowds within about 1.4 times of 2, 4, 8, ... are of one size."""
        return self._sizes.setdefault(round(math.log2(self._sessions)), _Size())
