"""The drafts of a session service: which one a turn gets, and which are left alone because they hang.

A draft that is down costs a turn nothing, as its stream fails at once. One that takes a turn and never
proposes costs it a wait, so each draft stands behind a circuit breaker (Nygard, "Release It!", 2007): after
such a turn it rests, then a single turn tries it, and once that one has a guess all others use it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...core.description import ModelDescription
from ...core.errors import Unavailable
from ...core.surroundings import Clock
from .draft_link import DraftedTurn, DraftLink, RemoteDrafter
from .pool import Pool

FIRST_REST_SECONDS = 1.0
LONGEST_REST_SECONDS = 30.0
"""A draft rests twice as long after each trial in vain."""


log = logging.getLogger("outrider.session")


@dataclass(slots=True)
class Breaker:
    """Whether a draft may be used. `now` is any clock in seconds."""

    rest_seconds: float = FIRST_REST_SECONDS
    rests_until: float | None = None
    """None while nothing is wrong with it."""
    trial: object = None
    """The turn that tries it out, whose outcome alone counts until it is known."""

    def lets_through(self, now: float) -> bool:
        """True when a turn may use the draft now."""
        return self.rests_until is None or (now >= self.rests_until and self.trial is None)

    def enter(self, turn: object) -> None:
        """A turn uses it."""
        if self.rests_until is not None:
            self.trial = turn

    def succeeded(self, turn: object) -> None:
        """The draft proposed."""
        if self._counts(turn):
            self.rest_seconds, self.rests_until, self.trial = FIRST_REST_SECONDS, None, None

    def failed(self, turn: object, now: float) -> None:
        """A turn waited for it in vain."""
        if self._counts(turn):
            self.rests_until = now + self.rest_seconds
            self.rest_seconds = min(2 * self.rest_seconds, LONGEST_REST_SECONDS)
            self.trial = None

    def left(self, turn: object) -> None:
        """A turn ended without having learnt anything."""
        if turn is self.trial:
            self.trial = None

    def _counts(self, turn: object) -> bool:
        """False for a turn that began before the others gave up."""
        return self.rests_until is None or turn is self.trial


@dataclass(slots=True, eq=False)
class _Draft:
    """One draft."""

    address: str
    link: DraftLink
    breaker: Breaker = field(default_factory=Breaker)
    turns: int = 0
    model_fingerprint: str = ""
    """The last one that it told."""

    async def close(self) -> None:
        """Closes the channel."""
        await self.link.close()

    def noted(self, model_fingerprint: str) -> None:
        """What it told at the start of a turn; its operator hears of a change."""
        if model_fingerprint and self.model_fingerprint not in ("", model_fingerprint):
            log.warning(
                "the draft at %s serves another model than before; replies are the target's as ever",
                self.address,
            )
        self.model_fingerprint = model_fingerprint or self.model_fingerprint


class Drafts:
    """Several drafts behind the calls of one. `link_to` makes the way to the one at an address."""

    def __init__(
        self, addresses: Sequence[str], link_to: Callable[[str], DraftLink], clock: Clock
    ) -> None:
        self.failures = asyncio.Event()
        """Set when a draft fails; whoever looks for others clears it."""
        self._clock = clock
        self._pool = Pool(lambda address: _Draft(address, link_to(address)), addresses)
        self._open: dict[RemoteDrafter, _Draft] = {}

    async def describe(self, timeout_ms: int) -> ModelDescription:
        """The model of the first draft. Raises Unavailable when it cannot be reached in time."""
        if not self._pool.members:
            raise Unavailable("no draft has an address now")
        return await self._pool.members[0].link.describe(timeout_ms)

    async def move_to(self, addresses: Sequence[str]) -> None:
        """From now on turns go to these drafts. Those that are gone end the turns that run there."""
        await self._pool.move_to(addresses)

    def open_turn(self, turn: DraftedTurn) -> RemoteDrafter | None:
        """A drafter that opens the session in the background, on the draft with the fewest turns.

        None while every draft rests. Give it back to `close`.
        """
        self._hear_of_trials()
        now = self._clock()
        usable = [draft for draft in self._pool.members if draft.breaker.lets_through(now)]
        if not usable:
            return None
        draft = min(usable, key=lambda each: each.turns)
        draft.turns += 1
        drafter = draft.link.open_turn(turn)
        draft.breaker.enter(drafter)
        self._open[drafter] = draft
        return drafter

    def close(self, drafter: RemoteDrafter) -> None:
        """Ends a turn on its draft, and learns from how it went."""
        draft = self._open.pop(drafter)
        draft.turns -= 1
        draft.noted(drafter.model_fingerprint)
        if drafter.trouble:
            self.failures.set()
        if drafter.proposed:
            draft.breaker.succeeded(drafter)
        elif drafter.is_late:
            draft.breaker.failed(drafter, self._clock())
        else:
            draft.breaker.left(drafter)
        drafter.close()

    def _hear_of_trials(self) -> None:
        """A trial that has a guess has succeeded, however long its turn goes on."""
        for drafter, draft in self._open.items():
            if drafter is draft.breaker.trial and drafter.proposed:
                draft.breaker.succeeded(drafter)

    async def release(self, session_id: str, epoch: int) -> None:
        """Frees the session's slot on every draft. Raises OutriderError."""
        await asyncio.gather(
            *(draft.link.release(session_id, epoch) for draft in self._pool.members)
        )

    async def aclose(self) -> None:
        """Closes the channels."""
        await self._pool.close()
