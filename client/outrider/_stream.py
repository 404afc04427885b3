"""The stream of one turn: started on first use, in order, with its failures translated.

Order is `started`, then events counted from 0 without a gap, then `summary`; anything else is a
`StreamBrokenError`. Knows nothing of text, sessions or threads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from outrider import _wire
from outrider._channel import translated_failures
from outrider._wire import TurnMessage
from outrider.errors import (
    CallCancelledError,
    OutriderError,
    StreamBrokenError,
    UnavailableError,
)
from outrider.types import Event, Started, Summary

_END: Any = object()


class TurnStream:
    """An async iterator of a turn's messages; `start` makes the call, on the event loop."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._call: Any = None
        self._messages: AsyncIterator[Any] | None = None
        self._waiting: deque[TurnMessage] = deque()
        self._order = _Order()
        self._failure: OutriderError | None = None
        self._ended = False

    def __aiter__(self) -> TurnStream:
        return self

    async def __anext__(self) -> TurnMessage:
        """The next message. After a failure, the same failure again."""
        while not self._ended:
            if self._failure is not None:
                raise self._failure
            if self._waiting:
                return self._waiting.popleft()
            try:
                self._waiting += await self._next()
            except OutriderError as failure:
                if self._failure is not None:  # cancelled meanwhile, which is the cause
                    raise self._failure from None
                self._fail(failure)
                raise
            except asyncio.CancelledError:
                self.cancel()
                raise
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Ends the turn; harmless when it has ended, and before the call is made."""
        if not self._ended and self._failure is None:
            self._fail(CallCancelledError("the reply was cancelled"))

    async def _next(self) -> list[TurnMessage]:
        """What the next message holds; nothing at the end and for kinds that this SDK does not know."""
        try:
            with translated_failures():
                received = await anext(self._begun(), _END)
        except UnavailableError as error:
            if self._order.started and not error.reason:
                lost = f"the stream was lost: {error.message}"
                raise StreamBrokenError(lost, code=error.code) from error
            raise
        if received is _END:
            self._order.check_end()
            self._ended = True
            return []
        if received is None:  # gRPC gives None for bytes that are no message
            raise StreamBrokenError("the service sent a message that cannot be read")
        messages = _wire.turn_messages(received)
        for message in messages:
            self._order.check(message)
        return messages

    def _begun(self) -> AsyncIterator[Any]:
        """The messages of the call, which is made here when there is none yet."""
        if self._messages is None:
            self._call = self._start()
            self._messages = aiter(self._call)
        return self._messages

    def _fail(self, failure: OutriderError) -> None:
        self._failure = failure
        if self._call is not None:
            self._call.cancel()


class _Order:
    """Which message may come next."""

    def __init__(self) -> None:
        self.started = False
        self._summarised = False
        self._next_index = 0

    def check(self, message: TurnMessage) -> None:
        """Raises `StreamBrokenError` unless the message is one that may come now."""
        if self._summarised:
            raise StreamBrokenError("a message came after the summary")
        if isinstance(message, Started) is self.started:
            raise StreamBrokenError("the stream does not begin with one start message")
        self.started = True
        if isinstance(message, Event):
            if message.index != self._next_index:
                raise StreamBrokenError(
                    f"token {message.index} came where {self._next_index} was due"
                )
            self._next_index += 1
        self._summarised = isinstance(message, Summary)

    def check_end(self) -> None:
        """Raises `StreamBrokenError` unless the summary has come."""
        if not self._summarised:
            raise StreamBrokenError("the stream ended without a summary")
