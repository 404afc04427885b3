"""Waiting for a ledger that is away for a moment: restarted, or failing over to another server.

One budget for what a caller waits for, however often it is tried. What the ledger knows will stay so, a full
disk or a lock, is not waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from ...core.errors import LedgerUnavailable

Answer = TypeVar("Answer")

LEDGER_SECONDS = 5.0
"""How long a call waits for the ledger altogether."""
AGAIN_SECONDS = 0.1


async def patiently(write: Callable[[], Awaitable[Answer]]) -> Answer:
    """What a write answers that may be repeated. It is, while the ledger is away and the time lasts; raises
    what the last attempt raised."""
    away: LedgerUnavailable | None = None
    try:
        async with asyncio.timeout(LEDGER_SECONDS):
            while True:
                try:
                    return await write()
                except LedgerUnavailable as error:
                    if not error.is_away:
                        raise
                    away = error
                await asyncio.sleep(AGAIN_SECONDS)
    except TimeoutError:
        raise away or _silent() from None


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Bounds all that a call asks the ledger for. Raises LedgerUnavailable."""
    try:
        async with asyncio.timeout(LEDGER_SECONDS):
            yield
    except TimeoutError:
        raise _silent() from None


def _silent() -> LedgerUnavailable:
    return LedgerUnavailable("the ledger does not answer in time; try again later")
