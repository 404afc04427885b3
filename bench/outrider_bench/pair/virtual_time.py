"""An event loop whose time is virtual: where it would wait, it is at once later."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumps(selectors.SelectSelector):
    """Waits for nothing: all that happens on the loop is its own timers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("in virtual time nothing is left to wait for")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what is ready in order; with nothing ready, time jumps to the next timer."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._jumps.now


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Runs work to its end on a virtual loop, from outside any other one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
