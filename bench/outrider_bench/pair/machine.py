"""One machine in virtual time: steps of target and draft, each slower for as long as the other computes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from .costs import ModelTimes, PairTimes

DONE_SECONDS = 1e-8
"""What is left of a step when nothing is: some of the loop's clock, which rounds times of less to none."""


class Machine:
    """Where both models of a pair run, on a virtual loop."""

    def __init__(self, times: PairTimes) -> None:
        self._times = times
        self._working = 0
        self._changed = asyncio.Event()

    async def verify(self, context: int, tokens: int) -> float:
        """The target reads so many tokens of context, then runs a step; returns the milliseconds."""
        return await self._run(self._times.target, self._times.target_beside, context, tokens)

    async def draft(self, tokens: int, *, prefill: bool) -> float:
        """The draft reads so many tokens, or makes a guess; returns the milliseconds."""
        reads = (tokens, 0) if prefill else (0, 1)
        return await self._run(self._times.draft, self._times.draft_beside, *reads)

    async def _run(self, alone: ModelTimes, beside: ModelTimes, context: int, tokens: int) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with self._at_work():
            left = 1.0
            while True:
                whole = _seconds(beside if self._working > 1 else alone, context, tokens)
                if left * whole < DONE_SECONDS:
                    break
                since, changed = loop.time(), self._changed
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left * whole):
                        await changed.wait()
                left -= (loop.time() - since) / whole
        return (loop.time() - began) * 1000

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, models: int) -> None:
        self._working += models
        self._changed.set()
        self._changed = asyncio.Event()


def _seconds(times: ModelTimes, context: int, tokens: int) -> float:
    step_ms = times.step(tokens) if tokens else 0.0
    return (step_ms + context * times.prefill_ms) / 1000
