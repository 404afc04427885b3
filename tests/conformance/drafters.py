"""Drafters of the suite: n-grams are the product's own; these two know the truth."""

from __future__ import annotations

from collections.abc import Sequence

from outrider_server.core.types import Proposal
from outrider_server.speculation.drafters import NoDrafter
from outrider_server.speculation.ngram import NgramDrafter
from outrider_server.speculation.ports import Drafter

from .architectures import VOCABULARY


class OftenRightDrafter:
    """Proposes the truth, with every third token wrong."""

    def __init__(self, start: int, truth: Sequence[int]) -> None:
        self._start = start
        self._truth = truth

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        del minimum
        begin = position - self._start
        truth = enumerate(self._truth[begin : begin + maximum], begin)
        guesses = tuple((token + (at % 3 == 2)) % VOCABULARY for at, token in truth)
        return Proposal(position, guesses)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        del start_position, tokens


class LyingDrafter(OftenRightDrafter):
    """Proposes the truth of the next position for this one."""

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        shifted = await super().take(position + 1, minimum, maximum)
        return Proposal(position, shifted.tokens)


KINDS = ("ngram", "often right", "lying")


def make_drafter(kind: str, tokens: Sequence[int], truth: Sequence[int]) -> Drafter:
    """A drafter of the kind for a turn that continues `tokens`."""
    if kind == "ngram":
        return NgramDrafter(tokens)
    if kind == "often right":
        return OftenRightDrafter(len(tokens), truth)
    if kind == "lying":
        return LyingDrafter(len(tokens), truth)
    return NoDrafter()
