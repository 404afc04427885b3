"""The time of a ledger in a file: the host's, without its jumps.

A host's clock is set by hand, by a time server, or by waking up. A session whose life were measured with
it would expire in that moment, whoever uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Starts with the wall clock and then counts by itself. Any thread may read it."""

    def __init__(
        self,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        steady_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self._wall_us = wall_us
        self._steady_us = steady_us
        self._offset_us = wall_us() - steady_us()

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return self._steady_us() + self._offset_us

    def jump_us(self) -> int:
        """How far the wall clock has moved away since the start, or since it was followed last."""
        return self._wall_us() - self.now_us()

    def follow(self, jump_us: int) -> None:
        """Makes the jump too."""
        self._offset_us += jump_us
