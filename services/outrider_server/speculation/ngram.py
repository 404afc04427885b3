"""The n-gram drafter: proposes what followed the last tokens the last time they stood in the session.

Needs no model and no network (prompt lookup decoding, Saxena 2023). The index maps every n-gram to the
position after its latest occurrence and grows with the session; nothing is scanned again.
"""

from __future__ import annotations

from collections.abc import Sequence

from .types import Proposal, TokenSource

MIN_MATCH = 2
MAX_MATCH = 5


class NgramDrafter:
    """Drafter over a session's own tokens. Proposes only after a match of `min_match` tokens or more."""

    def __init__(
        self, tokens: Sequence[int], min_match: int = MIN_MATCH, max_match: int = MAX_MATCH
    ) -> None:
        self._sizes = range(max_match, min_match - 1, -1)
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}
        self.commit(0, tokens)

    def match(self) -> tuple[int, int]:
        """(length of the longest match of the session's end, position that followed it); 0 if none."""
        for size in self._sizes:
            follower = self._followers.get(tuple(self._tokens[-size:]))
            if follower is not None and size <= len(self._tokens):
                return size, follower
        return 0, 0

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Proposes the tokens after the match. Never waits: `minimum` is of no use to it."""
        return self.propose(position, maximum)

    def propose(self, position: int, maximum: int) -> Proposal:
        """Proposes at most `maximum` tokens; none without a match."""
        if position != len(self._tokens):
            return Proposal(position, (), TokenSource.NGRAM)
        size, follower = self.match()
        guesses: list[int] = []
        if size:
            for offset in range(maximum):
                source = follower + offset
                known = source < len(self._tokens)
                guesses.append(self._tokens[source] if known else guesses[source - position])
        return Proposal(position, tuple(guesses), TokenSource.NGRAM)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Indexes decided tokens. Each n-gram is entered once its follower is there."""
        if start_position != len(self._tokens):
            raise ValueError("commits must follow each other without a gap")
        for token in tokens:
            end = len(self._tokens)
            for size in self._sizes:
                if size <= end:
                    self._followers[tuple(self._tokens[end - size : end])] = end
            self._tokens.append(token)
