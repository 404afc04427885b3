"""The ledger of the simulation keeps every ledger's promises."""

from __future__ import annotations

import time
from pathlib import Path

from outrider_server.session.ledger.ledger import Ledger

from tests.session.ledger_conformance import LedgerConformance

from .ledger import MemoryStore, SimulatedLedger


class TestSimulatedLedger(LedgerConformance):
    stores: dict[Path, MemoryStore]
    passed_us = 0

    def setup_method(self) -> None:
        self.stores = {}

    def teardown_method(self) -> None:
        for store in self.stores.values():
            store.close()

    async def open_store(self, folder: Path, default_ttl_seconds: int = 0) -> Ledger:
        store = self.stores.setdefault(folder, MemoryStore(self._now_us))
        return SimulatedLedger(store, default_ttl_seconds=default_ttl_seconds)

    def pass_time(self, seconds: float) -> None:
        self.passed_us += int(seconds * 1_000_000)

    def _now_us(self) -> int:
        return time.time_ns() // 1000 + self.passed_us
