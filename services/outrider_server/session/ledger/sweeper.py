"""Deletes what has expired, now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ...core.errors import InternalError, TryLater
from ...rpc.telemetry import LedgerMetrics
from .ledger import Ledger

BATCH = 100
"""Sessions a transaction, so that turns wait for none of them long."""

logger = logging.getLogger(__name__)


class Sweeper:
    """Sweeps a ledger for as long as `run` runs. Several may sweep one ledger."""

    def __init__(
        self,
        ledger: Ledger,
        interval_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._interval_seconds = interval_seconds
        self._sleep = sleep
        self._metrics = LedgerMetrics()

    async def run(self) -> None:
        """Sweeps after each interval until it is cancelled. A ledger that fails is tried again."""
        while True:
            await self._sleep(self._interval_seconds)
            try:
                await self.sweep()
            except TryLater:
                continue
            except InternalError as error:
                logger.error("expired sessions cannot be deleted: %s", error)

    async def sweep(self) -> int:
        """Deletes all that has expired; returns how many sessions. Raises as `Ledger.sweep`."""
        total = 0
        while True:
            swept = await self._ledger.sweep(BATCH)
            self._metrics.expired.add(swept)
            total += swept
            if swept < BATCH:
                return total
