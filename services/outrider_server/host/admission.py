"""Turns that wait for a slot: first come, first served, and no more of them than the queue holds.

Lives on the event loop. Knows of slots only how many there are: it tries to open again when told that one
may be free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from ..core.errors import Exhausted, spread_ms

T = TypeVar("T")
FIRST_HOLD_SECONDS = 1.0
"""How long a turn is taken to hold its slot before one has ended."""
WEIGHT = 0.2
"""Of the latest turn in the running mean."""


class AdmissionQueue:
    """At most `limit` turns wait; the next one is refused and told when to come back."""

    def __init__(self, limit: int, slots: int, chance: Random) -> None:
        self._chance = chance
        self._limit = limit
        self._slots = slots
        self._waiting: deque[asyncio.Event] = deque()
        self._hold_seconds = FIRST_HOLD_SECONDS

    def __len__(self) -> int:
        return len(self._waiting)

    async def enter(self, attempt: Callable[[], Awaitable[T]], in_place: bool) -> T:
        """Runs `attempt` until it does not raise Exhausted, waiting in turn.

        `in_place` says that the session has a slot already and takes nobody's place. Raises Exhausted with
        the time to wait where the queue is full, and what else `attempt` raises.
        """
        if in_place or not self._waiting:
            try:
                return await attempt()
            except Exhausted:
                pass
        if len(self._waiting) >= self._limit:
            raise Exhausted(
                f"every slot runs a turn and {len(self._waiting)} wait; try again later",
                self._retry_after_ms(),
            )
        return await self._wait(attempt)

    async def _wait(self, attempt: Callable[[], Awaitable[T]]) -> T:
        called = asyncio.Event()
        self._waiting.append(called)
        if self._waiting[0] is called:
            called.set()  # who left while the first attempt was refused has called nobody
        try:
            while True:
                await called.wait()
                called.clear()
                try:
                    return await attempt()
                except Exhausted:
                    continue
        finally:
            self._waiting.remove(called)
            self.call_next()

    def left(self, seconds: float) -> None:
        """A turn gave up its slot after so many seconds."""
        self._hold_seconds += WEIGHT * (seconds - self._hold_seconds)
        self.call_next()

    def call_next(self) -> None:
        """A slot may be free: the turn that has waited longest tries."""
        if self._waiting:
            self._waiting[0].set()

    def _retry_after_ms(self) -> int:
        """Until the queue has moved by one: turns end one after the other, a slot each."""
        turns = (len(self._waiting) + 1) / self._slots
        return spread_ms(1000 * self._hold_seconds * turns, self._chance)
