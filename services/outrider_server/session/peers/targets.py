"""The targets of a session service: which one runs a session's turns.

A session stays where its KV is while that target is up and has a slot; else the least loaded one takes it. A
target that fails is left alone for a while, unless there is no other. All of them must serve one model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...core.description import ModelDescription, TokenizerFiles
from ...core.errors import (
    Exhausted,
    ModelMismatch,
    OutriderError,
    StartupError,
    Unavailable,
    spread_ms,
)
from ...core.types import Draw
from .model_differences import differences, how_it_differs
from .target_link import RemoteVerifier, TargetLink, Wanted

REST_SECONDS = 2.0
"""How long a target that failed is taken last."""
CHECK_TIMEOUT_MS = 2_000
RESTING_CHECK_TIMEOUT_MS = 500
"""For a target that failed just now: who waits for it had better hear that soon."""
FULL_SECONDS = 0.2
"""How long a target that refused a turn for want of room is believed to be full: no longer than it said, and
only until a turn ends there."""
MAX_HOMES = 100_000
"""Sessions whose target is remembered; the one that was placed longest ago is forgotten."""

log = logging.getLogger("outrider.session")


@dataclass(slots=True, eq=False)
class _Place:
    """One target."""

    address: str
    link: TargetLink
    rests_until: float = 0.0
    description: ModelDescription | None = None
    """None until it has said what it serves, and again after a failure."""
    refusal: Exhausted | None = None
    """The last one for want of room."""
    refused_until: float = 0.0
    refused_turns: int = 0
    """How many turns of this process were there then."""
    note: str = ""
    """Why it gets no turn that it would get otherwise: it serves something else now."""
    trouble: str = ""
    """Why it failed last; empty where it has taken a turn since."""

    @property
    def is_full(self) -> bool:
        """True when as many turns of this process run there as it has slots."""
        return self.description is not None and self.link.turns >= self.description.slots

    def refused(self, error: Exhausted, now: float) -> None:
        """It had no room for a turn."""
        self.refusal = error
        self.refused_until = now + min(FULL_SECONDS, error.retry_after_ms / 1000)
        self.refused_turns = self.link.turns

    def refusal_that_stands(self, now: float) -> Exhausted | None:
        """Why another turn would be refused as well."""
        stands = now < self.refused_until and self.link.turns >= self.refused_turns
        return self.refusal if stands else None


@dataclass(slots=True)
class Targets:
    """Several targets behind the calls of one."""

    addresses: Sequence[str]
    failures: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a target fails; whoever looks for others clears it."""
    _places: list[_Place] = field(init=False)
    _leaving: list[_Place] = field(default_factory=list)
    """Gone from the addresses, with turns that may still run."""
    _homes: dict[str, _Place] = field(default_factory=dict)
    _model: ModelDescription | None = None

    def __post_init__(self) -> None:
        self._places = [_Place(address, TargetLink(address)) for address in self.addresses]

    async def describe(self, timeout_ms: int) -> tuple[ModelDescription, TokenizerFiles]:
        """The model and its tokenizer, of the first target that answers.

        Raises Unavailable after the timeout, and StartupError where targets that answer differ.
        """
        asked = [asyncio.create_task(place.link.describe(timeout_ms)) for place in self._places]
        try:
            return await self._first(asked)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _first(
        self, asked: list[asyncio.Task[tuple[ModelDescription, TokenizerFiles]]]
    ) -> tuple[ModelDescription, TokenizerFiles]:
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        while not any(task.exception() is None for task in done):
            if len(done) == len(asked):
                raise Unavailable("no target answers") from next(iter(done)).exception()
            left = [task for task in asked if task not in done]
            more, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        found: tuple[ModelDescription, TokenizerFiles] | None = None
        first = ""
        for place, task in zip(self._places, asked, strict=True):
            if not task.done() or task.exception() is not None:
                continue
            description, files = task.result()
            if found is None:
                found, first = (description, files), place.address
            if description.model_fingerprint != found[0].model_fingerprint:
                raise StartupError(
                    f"the target at {place.address} serves another model than the one at {first}"
                    f" ({differences(description, found[0])}); give every target the same"
                )
            place.description = description
        assert found is not None, "one of them has answered"
        self._model = found[0]
        return found

    async def troubles(self) -> str:
        """Why each of them does not answer, for the operator."""
        told = await asyncio.gather(*(place.link.trouble() for place in self._places))
        each = zip(self._places, told, strict=True)
        return "; ".join(f"{place.address}: {trouble}" for place, trouble in each)

    @property
    def note(self) -> str:
        """Which of them are not what they were at the start; empty where all are."""
        return "; ".join(place.note for place in self._places if place.note)

    async def move_to(self, addresses: Sequence[str]) -> None:
        """From now on turns go to these targets. Those that are gone end the turns that run there."""
        known = {place.address: place for place in (*self._leaving, *self._places)}
        # A turn that is being opened may still come to a target that left just now.
        over = [
            place
            for place in self._leaving
            if place.address not in addresses and not place.link.turns
        ]
        self._places = [
            known.get(address) or _Place(address, TargetLink(address)) for address in addresses
        ]
        self._leaving = [place for place in known.values() if place not in (*self._places, *over)]
        self._homes = {
            session_id: place for session_id, place in self._homes.items() if place in self._places
        }
        await asyncio.gather(*(place.link.close() for place in over))

    def check_room(self, session_id: str) -> None:
        """Raises Exhausted where every target has just refused a turn, and none of them is the session's.

        So what cannot run costs neither a read, a write nor a call.
        """
        now, refusal = time.monotonic(), None
        for place in self._places:
            refusal = place.refusal_that_stands(now)
            if refusal is None:
                return
        if refusal is not None and session_id not in self._homes:
            raise Exhausted(str(refusal), spread_ms(refusal.retry_after_ms))

    async def open_turn(
        self,
        session_id: str,
        epoch: int,
        tokens: Sequence[int],
        committed: int,
        draw: Draw,
        arithmetic: str = "",
    ) -> RemoteVerifier:
        """Opens the session for one turn on the best target that takes it, as `TargetLink.open_turn`; a turn
        that was begun before, on a target of the same arithmetic."""
        wanted = Wanted("" if self._model is None else self._model.model_fingerprint, arithmetic)
        errors: list[OutriderError] = []
        for place in self._in_order(session_id):
            try:
                await self._check_model(place)
                verifier = await place.link.open_turn(
                    session_id, epoch, tokens, committed, draw, wanted
                )
            except Unavailable as error:
                self._rest(place, error)
                errors.append(error)
                continue
            except Exhausted as error:
                place.refused(error, time.monotonic())
                errors.append(error)
                continue
            except ModelMismatch:
                errors.append(await self._is_another(place, arithmetic))
                continue
            place.note = place.trouble = ""
            self._remember(session_id, place)
            return verifier
        raise min(errors, key=_worth_telling)

    def failed(self, session_id: str, error: Unavailable) -> None:
        """The session's target failed in the middle of a turn."""
        place = self._homes.get(session_id)
        if place is not None:
            self._rest(place, error)

    async def release(self, session_id: str, epoch: int) -> None:
        """Frees the session's slot, where it has one. Raises OutriderError."""
        place = self._homes.pop(session_id, None)
        places = self._places if place is None else [place]
        await asyncio.gather(*(each.link.release(session_id, epoch) for each in places))

    async def fork(self, session_id: str, fork_session_id: str, length: int, epoch: int) -> None:
        """Copies what the session's target holds of it to a new session, which then is placed there.

        Raises OutriderError.
        """
        place = self._homes.get(session_id)
        if place is not None:
            await place.link.fork(session_id, fork_session_id, length, epoch)
            self._remember(fork_session_id, place)

    async def close(self) -> None:
        """Ends every turn and closes the channels."""
        places = (*self._places, *self._leaving)
        await asyncio.gather(*(place.link.close() for place in places))

    def _in_order(self, session_id: str) -> list[_Place]:
        """The targets, the best first."""
        home, now = self._homes.get(session_id), time.monotonic()
        return sorted(
            self._places,
            key=lambda place: (
                place.rests_until > now,
                place.is_full,
                place is not home,
                place.link.turns,
            ),
        )

    async def _check_model(self, place: _Place) -> None:
        """Raises ModelMismatch for a target that serves another model than the first."""
        if place.description is None:
            rests = place.rests_until > time.monotonic()
            timeout_ms = RESTING_CHECK_TIMEOUT_MS if rests else CHECK_TIMEOUT_MS
            place.description, _ = await place.link.describe(timeout_ms)
        model = self._model
        if model and place.description.model_fingerprint != model.model_fingerprint:
            raise ModelMismatch("the target serves another model than the session's")

    async def _is_another(self, place: _Place, arithmetic: str) -> OutriderError:
        """What to say of a target that is not the one wanted; its operator hears it once."""
        assert self._model is not None, "it was compared"
        try:
            found, _ = await place.link.describe(CHECK_TIMEOUT_MS)
        except OutriderError as error:
            return error
        finally:
            place.description = None
        note = how_it_differs(place.address, found, self._model, arithmetic)
        if note != place.note:
            place.note = note
            log.warning(note)
        return ModelMismatch(note)

    def _rest(self, place: _Place, error: Unavailable) -> None:
        """It failed; its operator hears why, once until it works again."""
        if place.trouble != str(error):
            place.trouble = str(error)
            log.warning(
                "the target at %s failed (%s); it rests for %g s",
                place.address,
                error,
                REST_SECONDS,
            )
        place.rests_until = time.monotonic() + REST_SECONDS
        self.failures.set()
        place.description = None

    def _remember(self, session_id: str, place: _Place) -> None:
        self._homes.pop(session_id, None)
        self._homes[session_id] = place
        if len(self._homes) > MAX_HOMES:
            del self._homes[next(iter(self._homes))]


def _worth_telling(error: OutriderError) -> int:
    """A full target is up: of all reasons that is the one to tell, 0. One that may be back comes next."""
    return 0 if isinstance(error, Exhausted) else 1 if isinstance(error, Unavailable) else 2
