"""The targets of a session service: which one runs a session's turns.

A session stays where its KV is while that target is up and has a slot; else the least loaded one takes it. A
target that fails is left alone for a while, unless there is no other. All of them must serve one model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from ...core.description import ModelDescription, TokenizerFiles
from ...core.errors import (
    Exhausted,
    ModelMismatch,
    OutriderError,
    StartupError,
    Unavailable,
    spread_ms,
)
from ...core.surroundings import Clock
from ...core.types import Draw
from .model_differences import differences, how_it_differs
from .pool import Pool
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
class _Target:
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
    def turns(self) -> int:
        """Turns of this process that run there, or wait to."""
        return self.link.turns

    async def close(self) -> None:
        """Ends every turn there and closes the channel."""
        await self.link.close()

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
    """Several targets behind the calls of one. `link_to` makes the way to the one at an address."""

    addresses: Sequence[str]
    link_to: Callable[[str], TargetLink]
    clock: Clock
    chance: Random
    failures: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a target fails; whoever looks for others clears it."""
    _pool: Pool[_Target] = field(init=False)
    _homes: dict[str, _Target] = field(default_factory=dict)
    _model: ModelDescription | None = None

    def __post_init__(self) -> None:
        self._pool = Pool(lambda address: _Target(address, self.link_to(address)), self.addresses)

    async def describe(self, timeout_ms: int) -> tuple[ModelDescription, TokenizerFiles]:
        """The model and its tokenizer, of the first target that answers.

        Raises Unavailable after the timeout, and StartupError where targets that answer differ.
        """
        asked = [
            asyncio.create_task(target.link.describe(timeout_ms)) for target in self._pool.members
        ]
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
        for target, task in zip(self._pool.members, asked, strict=True):
            if not task.done() or task.exception() is not None:
                continue
            description, files = task.result()
            if found is None:
                found, first = (description, files), target.address
            if description.model_fingerprint != found[0].model_fingerprint:
                raise StartupError(
                    f"the target at {target.address} serves another model than the one at {first}"
                    f" ({differences(description, found[0])}); give every target the same"
                )
            target.description = description
        assert found is not None, "one of them has answered"
        self._model = found[0]
        return found

    async def troubles(self) -> str:
        """Why each of them does not answer, for the operator."""
        told = await asyncio.gather(*(target.link.trouble() for target in self._pool.members))
        each = zip(self._pool.members, told, strict=True)
        return "; ".join(f"{target.address}: {trouble}" for target, trouble in each)

    @property
    def note(self) -> str:
        """Which of them are not what they were at the start; empty where all are."""
        return "; ".join(target.note for target in self._pool.members if target.note)

    async def move_to(self, addresses: Sequence[str]) -> None:
        """From now on turns go to these targets. Those that are gone end the turns that run there."""
        await self._pool.move_to(addresses)
        self._homes = {
            session_id: target
            for session_id, target in self._homes.items()
            if target in self._pool.members
        }

    def check_room(self, session_id: str) -> None:
        """Raises Exhausted where every target has just refused a turn, and none of them is the session's.

        So what cannot run costs neither a read, a write nor a call.
        """
        now, refusal = self.clock(), None
        for target in self._pool.members:
            refusal = target.refusal_that_stands(now)
            if refusal is None:
                return
        if refusal is not None and session_id not in self._homes:
            raise Exhausted(str(refusal), spread_ms(refusal.retry_after_ms, self.chance))

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
        for target in self._in_order(session_id):
            try:
                await self._check_model(target)
                verifier = await target.link.open_turn(
                    session_id, epoch, tokens, committed, draw, wanted
                )
            except Unavailable as error:
                self._rest(target, error)
                errors.append(error)
                continue
            except Exhausted as error:
                target.refused(error, self.clock())
                errors.append(error)
                continue
            except ModelMismatch:
                errors.append(await self._is_another(target, arithmetic))
                continue
            target.note = target.trouble = ""
            self._remember(session_id, target)
            return verifier
        raise min(errors, key=_worth_telling)

    def failed(self, session_id: str, error: Unavailable) -> None:
        """The session's target failed in the middle of a turn."""
        target = self._homes.get(session_id)
        if target is not None:
            self._rest(target, error)

    async def release(self, session_id: str, epoch: int) -> None:
        """Frees the session's slot, where it has one. Raises OutriderError."""
        target = self._homes.pop(session_id, None)
        targets = self._pool.members if target is None else [target]
        await asyncio.gather(*(each.link.release(session_id, epoch) for each in targets))

    async def fork(self, session_id: str, fork_session_id: str, length: int, epoch: int) -> None:
        """Copies what the session's target holds of it to a new session, which then is placed there.

        Raises OutriderError.
        """
        target = self._homes.get(session_id)
        if target is not None:
            await target.link.fork(session_id, fork_session_id, length, epoch)
            self._remember(fork_session_id, target)

    async def close(self) -> None:
        """Ends every turn and closes the channels."""
        await self._pool.close()

    def _in_order(self, session_id: str) -> list[_Target]:
        """The targets, the best first."""
        home, now = self._homes.get(session_id), self.clock()
        return sorted(
            self._pool.members,
            key=lambda target: (
                target.rests_until > now,
                target.is_full,
                target is not home,
                target.link.turns,
            ),
        )

    async def _check_model(self, target: _Target) -> None:
        """Raises ModelMismatch for a target that serves another model than the first."""
        if target.description is None:
            rests = target.rests_until > self.clock()
            timeout_ms = RESTING_CHECK_TIMEOUT_MS if rests else CHECK_TIMEOUT_MS
            target.description, _ = await target.link.describe(timeout_ms)
        model = self._model
        if model and target.description.model_fingerprint != model.model_fingerprint:
            raise ModelMismatch("the target serves another model than the session's")

    async def _is_another(self, target: _Target, arithmetic: str) -> OutriderError:
        """What to say of a target that is not the one wanted; its operator hears it once."""
        assert self._model is not None, "it was compared"
        try:
            found, _ = await target.link.describe(CHECK_TIMEOUT_MS)
        except OutriderError as error:
            return error
        finally:
            target.description = None
        note = how_it_differs(target.address, found, self._model, arithmetic)
        if note != target.note:
            target.note = note
            log.warning(note)
        return ModelMismatch(note)

    def _rest(self, target: _Target, error: Unavailable) -> None:
        """It failed; its operator hears why, once until it works again."""
        if target.trouble != str(error):
            target.trouble = str(error)
            log.warning(
                "the target at %s failed (%s); it rests for %g s",
                target.address,
                error,
                REST_SECONDS,
            )
        target.rests_until = self.clock() + REST_SECONDS
        self.failures.set()
        target.description = None

    def _remember(self, session_id: str, target: _Target) -> None:
        self._homes.pop(session_id, None)
        self._homes[session_id] = target
        if len(self._homes) > MAX_HOMES:
            del self._homes[next(iter(self._homes))]


def _worth_telling(error: OutriderError) -> int:
    """A full target is up: of all reasons that is the one to tell, 0. One that may be back comes next."""
    return 0 if isinstance(error, Exhausted) else 1 if isinstance(error, Unavailable) else 2
