"""A reply's messages on their way from the event loop to the thread that reads them.

The loop is a few messages ahead and no more, so that the service waits for a slow reader, as it does for an
async one.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable

from outrider._stream import TurnStream
from outrider._wire import TurnMessage
from outrider.errors import CallCancelledError

READ_AHEAD = 32
"""The most messages that wait for the reader."""

Arrived = TurnMessage | Exception | None
"""A message, or the failure of the stream, or None at its end."""


class Bridge:
    """What arrives of one stream. Knows nothing of the reply, which can be dropped so."""

    def __init__(self, stream: TurnStream) -> None:
        self._stream = stream
        self._arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        self._room = asyncio.Event()
        self._full = False
        self._cancelled = False

    async def forward(self) -> None:
        """Puts what the stream brings into the queue, then its failure, or None. Runs on the loop."""
        try:
            async for message in self._stream:
                self._arrived.put(message)
                await self._wait_for_room()
        except Exception as failure:  # whoever reads must not wait for ever, whatever went wrong
            self._arrived.put(failure)
        except asyncio.CancelledError:
            self._arrived.put(CallCancelledError("the client was closed"))
            raise
        else:
            self._arrived.put(None)

    def take(self, call_soon: Callable[[Callable[[], None]], None]) -> Arrived:
        """The next thing that arrives; the end arrives again and again. For the thread that reads."""
        arrived = self._arrived.get()
        if arrived is None or isinstance(arrived, Exception):
            self._arrived.put(arrived)  # another thread may read the same reply
        if self._full and self._arrived.qsize() <= READ_AHEAD // 2:
            self._full = False
            call_soon(self._room.set)
        return arrived

    def cancel(self, why: str) -> None:
        """Ends the turn. Runs on the loop."""
        self._cancelled = True
        self._room.set()
        self._stream.cancel(why)

    async def _wait_for_room(self) -> None:
        while self._arrived.qsize() >= READ_AHEAD and not self._cancelled:
            self._room.clear()
            self._full = True  # before the size is looked at again: now the reader tells
            if self._arrived.qsize() >= READ_AHEAD:
                await self._room.wait()
