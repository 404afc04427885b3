"""Which sessions run a turn in this process, and under which epoch it owns them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ..core.errors import OutriderError, StaleEpoch, TryLater, TurnRunning
from ..core.surroundings import random_id
from .ledger.ledger import Ledger, SessionRecord

SETTLE_SECONDS = 5.0
"""A turn that was cut off has ended by then, or is left as a killed process would leave it."""
RENEWALS_A_LEASE = 3
"""A lease outlives two renewals that fail."""


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """The right to run a session's turn, until it is freed or another claim takes its place."""

    session_id: str


class LiveSessions:
    """One turn a session at a time. Owns the epochs and the endings that are still being written.

    While a turn runs its session has a lease: it does not expire, and no other process can begin a turn
    of it. On a ledger that serves this process alone the lease has no end but the turn's, and is taken
    from whoever has it, who is dead. On one that several share it is renewed.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease_seconds: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        new_id: Callable[[], str] = random_id,
    ) -> None:
        """`lease_seconds` None is for a ledger that serves this process alone."""
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._sleep = sleep
        self._holder = new_id()
        self._running: dict[str, Claim] = {}
        self._epochs: dict[str, int] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._freed_one = asyncio.Event()

    def is_running(self, session_id: str) -> bool:
        """True while a turn of the session runs here."""
        return session_id in self._running

    def runs_turn(self, record: SessionRecord) -> bool:
        """True while a turn of the session runs, here or where its lease is."""
        is_shared = self._lease_seconds is not None
        is_held_elsewhere = is_shared and record.is_held and record.holder != self._holder
        return is_held_elsewhere or self.is_running(record.session_id)

    def check_idle(self, record: SessionRecord) -> None:
        """Raises TurnRunning while a turn of the session runs, here or where its lease is."""
        if self.is_running(record.session_id):
            raise TurnRunning("the session runs a turn; wait for its end or cancel it")
        if self.runs_turn(record):
            raise TurnRunning(
                "another session service runs a turn of the session, or died in one; wait for its"
                " end, or until the lease of that service has run out"
            )

    def claim(self, session_id: str) -> Claim:
        """Marks the session as running a turn. Raises TurnRunning when it does already."""
        if session_id in self._running:
            raise TurnRunning("the session runs a turn; wait for its end or cancel it")
        return self._claim(session_id)

    async def epoch(self, session_id: str) -> int:
        """The epoch under which this process owns the session that it has claimed; takes it over
        if need be. Raises LeaseHeld while a turn of the session runs in another process."""
        epoch = self._epochs.get(session_id)
        if epoch is None:
            epoch = await self._own(session_id, force=self._lease_seconds is None)
            self.moved(session_id, epoch)
        return epoch

    async def take_over(self, session_id: str) -> tuple[Claim, int]:
        """Claims the session whoever runs its turn, under a new epoch in which whoever that was cannot
        write. Raises what `Ledger.take_over` raises."""
        epoch = await self._own(session_id, force=True)
        claim = self._claim(session_id)
        self.moved(session_id, epoch)
        return claim, epoch

    def moved(self, session_id: str, epoch: int) -> None:
        """What this process wrote began a new epoch of the session, which it still owns.

        Where the session runs no turn here any more, as one that took it over has ended meanwhile, nothing
        is kept: the lease runs out by itself.
        """
        if session_id not in self._running:
            return
        self._epochs[session_id] = epoch
        if self._lease_seconds is None:
            return
        before = self._keepers.get(session_id)
        if before is not None:
            before.cancel()
        keeping = self._keep(session_id, epoch, self._lease_seconds)
        self._keepers[session_id] = asyncio.create_task(keeping)

    def free(self, claim: Claim) -> None:
        """The claim's turn has ended. One that was taken over frees nothing."""
        self._freed(claim)

    async def give_back(self, claim: Claim) -> None:
        """Frees the session, and returns when any other process may claim it."""
        release = self._freed(claim)
        if release is not None:
            await asyncio.shield(release)

    def forget(self, session_id: str) -> None:
        """Somebody else owns the session now, or it is deleted."""
        self._epochs.pop(session_id, None)

    def lost(self, session_id: str, epoch: int, error: BaseException) -> None:
        """Forgets the session if `error` says that the epoch, which is the latest known, is out of date."""
        if isinstance(error, StaleEpoch) and self._epochs.get(session_id) == epoch:
            self.forget(session_id)

    def end_in_background(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs what is left to write of a turn whose caller is gone."""
        task = asyncio.create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def settle(self) -> None:
        """Waits for turns that were cut off, for all endings, and for those that they begin."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while self._running:
                    self._freed_one.clear()
                    await self._freed_one.wait()
        while self._endings:
            await asyncio.gather(*self._endings, return_exceptions=True)

    def _claim(self, session_id: str) -> Claim:
        claim = Claim(session_id)
        self._running[session_id] = claim
        return claim

    def _freed(self, claim: Claim) -> asyncio.Task[None] | None:
        """The release of the lease, where there is one."""
        session_id = claim.session_id
        if self._running.get(session_id) is not claim:
            return None
        del self._running[session_id]
        self._freed_one.set()
        keeper = self._keepers.pop(session_id, None)
        if keeper is not None:
            keeper.cancel()
        epoch = self._epochs.pop(session_id, None)
        return None if epoch is None else self.end_in_background(self._release(session_id, epoch))

    async def _own(self, session_id: str, *, force: bool) -> int:
        lease = await self._ledger.take_over(
            session_id, self._holder, self._lease_seconds, force=force
        )
        return lease.epoch

    async def _keep(self, session_id: str, epoch: int, lease_seconds: float) -> None:
        """Renews the lease while the turn runs. Once somebody else has taken the session over, the
        turn's next write finds it out."""
        while True:
            await self._sleep(lease_seconds / RENEWALS_A_LEASE)
            try:
                await self._ledger.renew(session_id, epoch, lease_seconds)
            except TryLater:
                continue
            except OutriderError:
                return

    async def _release(self, session_id: str, epoch: int) -> None:
        # The turn's end has ended the lease, but a renewal that was under way may have begun it again.
        # Without an answer it runs out by itself.
        with contextlib.suppress(OutriderError):
            await self._ledger.release(session_id, epoch)
