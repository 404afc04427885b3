"""Where the end of a token sequence stood before: an index that grows token by token and can be cut back.

Owns one session's tokens and the latest places of their n-grams. Knows nothing of drafts, chances or turns.

While the token that followed the match comes again, the match goes on and grows by one. When another one
comes, the latest places of the last 4, 2 and 1 tokens are looked up, the first that is there is compared
backwards, and that is the new match. So a match is found whenever the last token stood before, its length
is how far both places really agree, up to `MAX_LENGTH`, and hash collisions cost a comparison, not a wrong
match. There may be a longer one elsewhere (at 2 % of the positions of generated code).

Why not the longest match always, from a suffix automaton: following the place where the text went on
predicts the next token as well or better, the automaton takes five times the memory, and it cannot be cut
back. Why the latest place and not the most frequent follower of all places: that predicted no better, and
every place would have to be kept.

Cost, CPython 3.11 on one core of a 2-core server: 1.2 to 2.4 microseconds a token, whatever the length and
whatever repeats (1.6 for generated code); about half of that for a token cut off. Memory: 30 to 300 bytes a
token, the less the more the text repeats (94 for generated code).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

GRAM_SIZES = (4, 2, 1)
"""Tokens in the n-grams whose latest places are kept, longest first."""

MAX_LENGTH = 32
"""A longer match counts as one of this length: it bounds the backward comparison."""


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier place with the same tokens before it as the end. `follower` is its position."""

    length: int = 0
    """How many tokens before both places agree; 0 where the last token is new."""
    follower: int = 0


class _Places:
    """The latest place of every n-gram of one size: position after it. Remembers what it replaced."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._latest: dict[int, int] = {}
        self._replaced = array("i")

    def enter(self, tokens: list[int]) -> int:
        """Enters the n-gram at the end of `tokens`; returns its place before, 0 if it is new."""
        key = self._key(tokens)
        before = self._latest.get(key, 0)
        self._latest[key] = len(tokens)
        self._replaced.append(before)
        return before

    def remove(self, tokens: list[int]) -> None:
        """Undoes the last `enter`, of the same tokens."""
        key = self._key(tokens)
        before = self._replaced.pop()
        if before:
            self._latest[key] = before
        else:
            del self._latest[key]

    def _key(self, tokens: list[int]) -> int:
        return tokens[-1] if self._size == 1 else hash(tuple(tokens[-self._size :]))


class SuffixIndex:
    """The tokens of one session and, for every length that it had, the match of its end."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        self._places = tuple(_Places(size) for size in GRAM_SIZES)
        self._lengths = array("i", [0])
        self._followers = array("i", [0])
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def match(self) -> Match:
        """The match of the end."""
        return Match(self._lengths[-1], self._followers[-1])

    def following(self, count: int) -> tuple[int, ...]:
        """The `count` tokens after the match, going on into themselves past the end; none without a match."""
        if not self._lengths[-1]:
            return ()
        follower = self._followers[-1]
        known = self._tokens[follower : follower + count]
        if len(known) < count:
            known = (known * (count // len(known) + 1))[:count]
        return tuple(known)

    def extend(self, tokens: Sequence[int]) -> None:
        """Appends tokens."""
        for token in tokens:
            length, follower = self._lengths[-1], self._followers[-1]
            goes_on = length and self._tokens[follower] == token
            self._tokens.append(token)
            # The longest n-gram's place comes first: a shorter one's cannot agree further.
            places = [places.enter(self._tokens) for places in self._places]
            if goes_on:
                length, follower = min(length + 1, MAX_LENGTH), follower + 1
            else:
                length, follower = self._first_match(places)
            self._lengths.append(length)
            self._followers.append(follower)

    def truncate(self, length: int) -> None:
        """Cuts the tokens back to the first `length`; everything is then as it was at that length.

        Raises ValueError, changing nothing, unless 0 <= length <= len(self).
        """
        if not 0 <= length <= len(self._tokens):
            raise ValueError("an index can be cut back to a length that it had, and no other")
        for _ in range(len(self._tokens) - length):
            for places in self._places:
                places.remove(self._tokens)
            self._tokens.pop()
            self._lengths.pop()
            self._followers.pop()

    def align(self, tokens: Sequence[int]) -> None:
        """Makes the index that of `tokens`: keeps what both begin with, cuts and appends the rest."""
        shared = min(len(tokens), len(self._tokens))
        if self._tokens[:shared] != list(tokens[:shared]):
            pairs = zip(self._tokens, tokens, strict=False)
            shared = next(index for index, (held, token) in enumerate(pairs) if held != token)
        self.truncate(shared)
        self.extend(tokens[shared:])

    def _first_match(self, places: list[int]) -> tuple[int, int]:
        """(length, follower) at the first place that agrees with the end at all."""
        for place in places:
            length = self._agreement(place)
            if length:
                return length, place
        return 0, 0

    def _agreement(self, place: int) -> int:
        """How many tokens before `place` equal those before the end."""
        tokens, end = self._tokens, len(self._tokens)
        longest = min(place, MAX_LENGTH)
        length = 0
        while length < longest and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length
