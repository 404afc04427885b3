"""The n-gram drafter: proposes what followed the last tokens the last time they stood in the session.

Needs no model and no network (prompt lookup decoding, Saxena 2023). The places come from a `SuffixIndex`
that may be older than the drafter; every decided token tells the session's `Confidence` whether its match
was right, proposed or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..core.types import Proposal, TokenSource
from .confidence import Confidence
from .suffix_index import Match, SuffixIndex


class NgramDrafter:
    """Drafter over a session's own tokens. Proposes wherever the last token stood before.

    `index` and `confidence` are what an earlier turn of the session left; the index is made to hold exactly
    `tokens`. Both belong to this drafter while it lives.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        index: SuffixIndex | None = None,
        confidence: Confidence | None = None,
    ) -> None:
        self.confidence = Confidence() if confidence is None else confidence
        self._index = SuffixIndex() if index is None else index
        self._index.align(tokens)
        self._retired = False

    def match(self) -> Match:
        """Where the session's end stood before."""
        return self._index.match

    def expected(self, count: int) -> float:
        """How many of `count` proposed tokens will agree, on average; 0 without a match."""
        return self.confidence.expected_of_match(self.match().length, count)

    def chances(self, count: int) -> list[float]:
        """Chance that each of `count` tokens after the session's end comes, if those before it do."""
        length = self.match().length
        return [self.confidence.of_match(max(1, length + depth)) for depth in range(count)]

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Proposes the tokens after the match. Never waits: `minimum` is of no use to it."""
        return self.propose(position, maximum)

    def propose(self, position: int, maximum: int) -> Proposal:
        """Proposes `maximum` tokens; none without a match, or for another position than the session's end."""
        tokens = self._index.following(maximum) if position == len(self._index) else ()
        return Proposal(position, tokens, TokenSource.NGRAM)

    def continued(self, proposal: Proposal, maximum: int) -> Proposal:
        """`proposal`, and what followed its end when that stood in the session; `maximum` tokens in all."""
        position, guesses = len(self._index), proposal.tokens
        if proposal.start_position != position or len(guesses) >= maximum:
            return proposal
        self._index.extend(guesses)
        more = self._index.following(maximum - len(guesses))
        self._index.truncate(position)
        if not more:
            return proposal
        return replace(proposal, tokens=guesses + more, continued_from=len(guesses))

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Indexes decided tokens and learns from them. Raises ValueError, changing nothing, for a gap."""
        if self._retired:
            return
        if start_position != len(self._index):
            raise ValueError("commits must follow each other without a gap")
        for token in tokens:
            length = self.match().length
            if length:
                self.confidence.learn_match(length, self._index.following(1) == (token,))
            self._index.extend((token,))

    def retire(self) -> None:
        """Leaves index and chances to another drafter: from now on this one proposes and learns nothing."""
        self._retired = True
        self._index, self.confidence = SuffixIndex(), Confidence()
