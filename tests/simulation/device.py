"""The device thread on the virtual loop: the real thread's jobs, batches and steps, without the thread.

What stands in is the waiting: no step is held back for sessions that may return.
While a step takes its time the inbox is not looked at, as on the real thread.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from outrider_server.engine.engine import Engine
from outrider_server.engine.scheduling.scheduler import Batch, Scheduler
from outrider_server.host.device_thread import DeviceThread

Change = Callable[[], None]


class Inbox:
    """`queue.SimpleQueue` as far as the device thread uses it, with news for the loop."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._changes: deque[Change] = deque()

    def put(self, change: Change) -> None:
        self._changes.append(change)
        self.news.set()

    def get(self, timeout: float | None = None) -> Change:
        return self._changes.popleft()

    def empty(self) -> bool:
        return not self._changes


class VirtualDevice(DeviceThread):
    """Owns an engine. A step takes up to `step_seconds`."""

    def __init__(self, engine: Engine, randomness: random.Random, step_seconds: float) -> None:
        super().__init__(lambda: engine)
        self._engine = engine
        self._changes = Inbox()
        self._inbox = cast(Any, self._changes)
        self._random = randomness
        self._step_seconds = step_seconds

    async def run(self) -> None:
        """Runs for ever."""
        scheduler = Scheduler(self.engine.plan_rows)
        while True:
            await self._changes.news.wait()
            self._changes.news.clear()
            self._drain_inbox(wait=False)
            while ready := self._ready():
                await asyncio.sleep(self._step_seconds * self._random.uniform(0.2, 1.0))
                now = asyncio.get_running_loop().time()
                decision = scheduler.next(ready, now, has_waited=True)
                assert isinstance(decision, Batch), "who has waited runs"
                self._step(self.engine, scheduler, decision)
                self._drain_inbox(wait=False)
