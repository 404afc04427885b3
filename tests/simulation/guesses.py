"""Watches what drafts are believed: a waiting guess is the draft's answer to the very text before it.

A wrong guess changes no token, so nothing else would show that a stale one is proposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outrider_server.core.surroundings import Clock
from outrider_server.session.peers.draft_link import DraftedTurn, DraftLink, RemoteDrafter
from outrider_server.speculation.guesses import Guesses

from .model import guess
from .watch import Watch

MANY = 5
"""Guesses that are not right by accident: one is with a chance of 1 in 27."""


class WatchedGuesses(Guesses):
    """The real guesses of a turn, looked at whenever some come."""

    def __init__(self, turn: DraftedTurn, agreement: float, watch: Watch) -> None:
        super().__init__(turn.tokens)
        self._seed = turn.draw.seed
        self._agreement = agreement
        self._watch = watch

    def receive(self, branch: int, start_position: int, tokens: Sequence[int]) -> None:
        """As the real one."""
        check = self._watch.check
        check(branch <= self.branch, "the draft counts more branches than the session")
        before = len(self._waiting)
        if branch != self.branch and start_position == self.position + before:
            check(
                self._right_guesses(tokens) < MANY,
                "guesses are dropped that were made for this text",
            )
        super().receive(branch, start_position, tokens)
        text = bytearray(self._committed)
        for index, token in enumerate(self._waiting):
            if index >= before:
                own = guess(self._seed, text, self._agreement)
                check(token == own, "a guess waits that was made for another text")
            text.append(token)

    def _right_guesses(self, tokens: Sequence[int]) -> int:
        """How many of the tokens, from the first on, the draft says after the text as it stands."""
        text = bytearray((*self._committed, *self._waiting))
        for count, token in enumerate(tokens):
            if token != guess(self._seed, text, self._agreement):
                return count
            text.append(token)
        return len(tokens)


class WatchedLink(DraftLink):
    """The real link to a draft, each turn of which has its guesses watched."""

    def __init__(self, channel: Any, clock: Clock, agreement: float, watch: Watch) -> None:
        super().__init__(channel, clock)
        self._agreement = agreement
        self._watch = watch

    def open_turn(self, turn: DraftedTurn) -> RemoteDrafter:
        """As the real one."""
        drafter = super().open_turn(turn)
        drafter._guesses = WatchedGuesses(turn, self._agreement, self._watch)
        return drafter
