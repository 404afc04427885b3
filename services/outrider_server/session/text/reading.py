"""Reading what is long, off the event loop: templates, tokenizers, and text made of many tokens.

Owns where such work runs and how much of it may wait. What is short is read at once: a thread would
take longer to be asked. What waits for a call that has ended is never begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TypeVar

from ...core.errors import Exhausted, spread_ms

Found = TypeVar("Found")

AT_ONCE = 2_048
"""Characters that take the event loop a millisecond or two."""
LONG = 1 << 18
"""Characters that take a second: they wait for each other, and nobody else for them."""
MOST_WAITING = 1 << 26
RETRY_AFTER_MS = 2_000


class Reading:
    """Two threads, one for what is long. Sizes are characters, or tokens where text is made of them."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._lanes = {
            is_long: ThreadPoolExecutor(1, thread_name_prefix="reading")
            for is_long in (False, True)
        }
        self._waiting = 0

    async def read(self, size: int, work: Callable[[], Found]) -> Found:
        """What `work` returns or raises; it must touch nothing that the event loop owns. Raises Exhausted
        when too much waits already."""
        if size <= AT_ONCE:
            return work()
        if self._waiting and self._waiting + size > MOST_WAITING:
            raise Exhausted(
                "too many long inputs wait to be read; try again later",
                spread_ms(RETRY_AFTER_MS, self._chance),
            )
        self._waiting += size
        try:
            # A caller that is cancelled cancels its work, unless it has begun.
            return await asyncio.wrap_future(self._lanes[size > LONG].submit(work))
        finally:
            self._waiting -= size

    def close(self) -> None:
        """Ends the threads; what they do now they still do."""
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)
