"""What signals ask of a process that serves: to drain, or to end soon. Knows nothing of what it serves."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


class Stop:
    """What was asked for since this was made.

    SIGTERM and SIGINT ask to drain, and once more to end soon. SIGQUIT, and SIGHUP of a terminal that closes,
    ask for that at once; under `nohup` SIGHUP asks for nothing. The next signal ends the process.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._ask)
        self._loop.add_signal_handler(signal.SIGINT, self._ask)
        self._loop.add_signal_handler(signal.SIGQUIT, self._hurry)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self._loop.add_signal_handler(signal.SIGHUP, self._hurry)

    async def end(
        self, drain: Coroutine[Any, Any, None], hurry: Callable[[], Awaitable[object]]
    ) -> None:
        """Drains; calls `hurry` beside it when it is to be soon."""
        draining = asyncio.create_task(drain)
        hurrying = asyncio.create_task(self.hurried.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not draining.done():
            await hurry()
        await draining

    def _ask(self) -> None:
        if self.asked.is_set():
            self._hurry()
        self.asked.set()

    def _hurry(self) -> None:
        self.asked.set()
        self.hurried.set()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
