"""Which sessions run a turn in this process, and under which epoch it owns them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..speculation.errors import StaleEpoch, TurnRunning
from .ledger import Ledger


class LiveSessions:
    """One turn a session at a time. Owns the epochs and the endings that are still being written."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._running: set[str] = set()
        self._epochs: dict[str, int] = {}
        self._endings: set[asyncio.Task[None]] = set()

    def is_running(self, session_id: str) -> bool:
        """True while a turn of the session runs here."""
        return session_id in self._running

    def claim(self, session_id: str) -> None:
        """Marks the session as running a turn. Raises TurnRunning when it does already."""
        if session_id in self._running:
            raise TurnRunning("the session runs a turn; wait for its end or cancel it")
        self._running.add(session_id)

    def free(self, session_id: str) -> None:
        """The session's turn has ended."""
        self._running.discard(session_id)

    async def epoch(self, session_id: str) -> int:
        """The epoch under which this process owns the session; takes it over the first time."""
        epoch = self._epochs.get(session_id)
        if epoch is None:
            epoch = await self._ledger.take_over(session_id)
            self._epochs[session_id] = epoch
        return epoch

    def forget(self, session_id: str) -> None:
        """Somebody else owns the session now, or it is deleted."""
        self._epochs.pop(session_id, None)

    def lost(self, session_id: str, error: BaseException) -> None:
        """Forgets the session if `error` says that its epoch is out of date."""
        if isinstance(error, StaleEpoch):
            self.forget(session_id)

    def end_in_background(self, ending: Coroutine[Any, Any, None]) -> None:
        """Runs what is left to write of a turn whose caller is gone."""
        task = asyncio.create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def settle(self) -> None:
        """Waits for all endings."""
        await asyncio.gather(*self._endings, return_exceptions=True)
