"""Drafters of every kind, good and evil, each for one turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from outrider_server.core.types import Draw, Proposal
from outrider_server.host.engine_host import EngineHost
from outrider_server.host.local import LocalDrafter
from outrider_server.speculation.drafters import ComposedDrafter, NoDrafter
from outrider_server.speculation.ngram import NgramDrafter

VOCABULARY = 4096
TAKES_BEFORE_DEATH = 3

KINDS = ("bundled", "composed", "untrained", "wrong", "lying", "none", "killed")


@dataclass(frozen=True, slots=True)
class TurnAt:
    """The turn that a drafter rides ahead of; `truth` is what the target alone decides."""

    session_id: str
    tokens: tuple[int, ...]
    draw: Draw
    truth: tuple[int, ...]


class ClosableDrafter(Protocol):
    """A drafter for a test."""

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal: ...

    def commit(self, start_position: int, tokens: Sequence[int]) -> None: ...

    async def close(self) -> None: ...


class _WithoutModel:
    """Closes nothing, hears nothing."""

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        del start_position, tokens

    async def close(self) -> None:
        return


class WrongDrafter(_WithoutModel):
    """Knows the truth and always proposes something else."""

    def __init__(self, turn: TurnAt) -> None:
        self._turn = turn

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        del minimum
        start = position - len(self._turn.tokens)
        truth = self._turn.truth[start : start + maximum]
        return Proposal(position, tuple((token + 1) % VOCABULARY for token in truth))


class LyingDrafter(_WithoutModel):
    """Proposes the truth for other positions than it says, and sometimes for positions of long ago."""

    def __init__(self, turn: TurnAt) -> None:
        self._turn = turn
        self._calls = 0

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        del minimum
        self._calls += 1
        start = position - len(self._turn.tokens)
        shift = (-1, 1, 3)[self._calls % 3]
        truth = self._turn.truth[max(0, start + shift) : max(0, start + shift) + maximum]
        claimed = position if self._calls % 2 else position + shift
        return Proposal(claimed, truth)


class SilentDrafter(_WithoutModel, NoDrafter):
    """Proposes nothing."""


class OwnedDrafter:
    """A drafter over an engine; dies after a few takes where told to."""

    def __init__(self, model: LocalDrafter, ngram: NgramDrafter | None, takes: int) -> None:
        self._model = model
        self._drafter = model if ngram is None else ComposedDrafter(ngram, model)
        self._takes = takes

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        self._takes -= 1
        if self._takes < 0:
            await self._model.close()
            return Proposal(position)
        return await self._drafter.take(position, minimum, maximum)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        self._drafter.commit(start_position, tokens)

    async def close(self) -> None:
        await self._model.close()


async def open_drafter(
    kind: str, turn: TurnAt, hosts: dict[str, EngineHost], lead: int
) -> ClosableDrafter:
    """A drafter of the kind, ready for the turn."""
    if kind == "none":
        return SilentDrafter()
    if kind == "wrong":
        return WrongDrafter(turn)
    if kind == "lying":
        return LyingDrafter(turn)
    host = hosts[kind if kind in hosts else "bundled"]
    model = await LocalDrafter.open(host, turn.session_id, 1, turn.tokens, turn.draw, max(1, lead))
    ngram = NgramDrafter(turn.tokens) if kind == "composed" else None
    return OwnedDrafter(model, ngram, TAKES_BEFORE_DEATH if kind == "killed" else 10**9)
