"""Jobs as the scheduler and the device thread see them, without a model."""

from __future__ import annotations

import threading

from outrider_server.core.errors import OutriderError
from outrider_server.engine.layout import RowResult
from outrider_server.engine.scheduling.scheduler import Work
from outrider_server.engine.slots import Slot

VERIFY = Work(0, (1,), prefill=False)
PREFILL = Work(0, (1,), prefill=True)


class CountingJob:
    """Wants so many prefill chunks, then so many verify rows; remembers what it got."""

    def __init__(self, name: str, chunks: int = 0, rows: int = 1, error: Exception | None = None):
        self.slot = Slot(0, name, 1)
        self.name = name
        self.failures: list[OutriderError] = []
        self.ended = threading.Event()
        self._left = [PREFILL] * chunks + [VERIFY] * rows
        self._error = error

    @property
    def done(self) -> bool:
        return self.ended.is_set()

    def work(self) -> Work | None:
        if self._error is not None:
            raise self._error
        return self._left[0] if self._left else None

    def take(self, work: Work, result: RowResult | None, batch_rows: int, seconds: float) -> None:
        assert (result is None) == work.prefill
        self._left.pop(0)
        if not self._left:
            self.ended.set()

    def fail(self, error: OutriderError) -> None:
        self.failures.append(error)
        self.ended.set()
