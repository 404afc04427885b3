"""The stream of one turn: started on first use, in order, resumed where it breaks, failures translated.

Order is `started`, then events counted without a gap, then `summary`; anything else is a
`StreamBrokenError`. A stream that breaks, or that the service cannot go on with now, is asked for again
from the first token that has not arrived. Knows nothing of text, sessions or threads.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

from outrider import _wire
from outrider._channel import translated_failures
from outrider._ending import AGAIN_SECONDS, EndingTurns
from outrider._fork import Owned
from outrider._wire import TurnMessage
from outrider.errors import (
    CallCancelledError,
    OutriderError,
    StaleEpochError,
    StoppedError,
    StreamBrokenError,
    TryLaterError,
    TurnRunningError,
    UnavailableError,
    UnimplementedError,
    UsageError,
)
from outrider.types import Event, Started, Summary

_END: Any = object()


FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 1.0
"""Between two attempts to resume; the delay doubles, and a random half of it is left out."""


class Patience:
    """How long a turn that makes no progress is asked for again, and when next. A token is progress."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._uniform = uniform
        self._since: float | None = None
        self._delay = FIRST_DELAY_SECONDS

    def progress(self) -> None:
        """A token arrived, or the turn's end."""
        self._since, self._delay = None, FIRST_DELAY_SECONDS

    @property
    def trying(self) -> bool:
        """True from the first failure to the next progress."""
        return self._since is not None

    def delay(self, wanted_seconds: float) -> float | None:
        """Seconds to wait before the next attempt, at least those that the service wants; None to give up."""
        now = self._clock()
        self._since = now if self._since is None else self._since
        delay = max(wanted_seconds, self._delay * self._uniform(0.5, 1.0))
        self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS)
        return delay if now + delay - self._since < self._seconds else None

    def left(self) -> float | None:
        """Seconds until an attempt to resume is given up; None where none is made."""
        if self._since is None:
            return None
        return max(0.0, self._since + self._seconds - self._clock())


class TurnStream(Owned):
    """An async iterator of a turn's messages.

    `start` makes the call, on the event loop: for the whole turn, given None, or from an index on. A turn
    without progress is resumed while there is `patience`, by default not at all. `ending` knows of the
    session's turns before, and `translated` raises what a caller is to see.
    """

    def __init__(
        self,
        start: Callable[[int | None], Any],
        patience: Patience | None = None,
        first_index: int = 0,
        session_id: str = "",
        ending: EndingTurns | None = None,
        translated: Callable[[], AbstractContextManager[None]] = translated_failures,
    ) -> None:
        self._start = start
        self._session_id = session_id
        self._translated = translated
        self._ending = EndingTurns() if ending is None else ending
        self._patience = Patience(0.0) if patience is None else patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._call: Any = None
        self._messages: AsyncIterator[Any] | None = None
        self._waiting: deque[TurnMessage] = deque()
        self._order = _Order(first_index)
        self._failure: OutriderError | None = None
        self._lost: TryLaterError | None = None
        """What the stream that is being resumed was lost by."""
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

    def cancel(self, why: str = "the reply was cancelled") -> None:
        """Ends the turn; harmless when it has ended, and before the call is made."""
        if not self._ended and self._failure is None:
            self._fail(CallCancelledError(why))

    async def _next(self) -> list[TurnMessage]:
        """What the next message holds; nothing at the end, for kinds that this SDK does not know, and
        where the stream was begun again."""
        try:
            with self._translated():
                received = await self._received()
        except TryLaterError as error:
            if self._order.summarised:  # all that was lost is the end of the stream
                self._ended = True
                return []
            if await self._resumed(error):
                return []
            if self._order.started and isinstance(error, UnavailableError) and not error.reason:
                lost = f"the stream was lost: {error.message}"
                raise StreamBrokenError(lost, code=error.code) from error
            raise
        except (TurnRunningError, StaleEpochError) as error:
            # Where a stream was lost, the service may still be at work for it.
            if self._lost is not None and await self._resumed(self._lost):
                return []
            if isinstance(error, TurnRunningError) and self._ending.may_run(self._session_id):
                await asyncio.sleep(AGAIN_SECONDS)
                self._messages = None
                return []
            if isinstance(error, StaleEpochError):
                raise _taken_over(error) from error
            raise
        except UnimplementedError:
            if self._lost is None:
                raise
            raise self._lost from None  # a service that cannot resume
        if received is _END:
            self._order.check_end()
            self._ended = True
            return []
        if received is None:  # gRPC gives None for bytes that are no message
            raise StreamBrokenError("the service sent a message that cannot be read")
        self._lost = None
        self._ending.over(self._session_id)
        news = [message for message in _wire.turn_messages(received) if self._order.check(message)]
        if any(not isinstance(message, Started) for message in news):
            self._patience.progress()
        return news

    async def _resumed(self, error: TryLaterError) -> bool:
        """Waits and asks for the rest of the turn; False where that is no use, or has been tried enough."""
        self._lost = self._lost or error
        fresh = not self._order.started and not self._patience.trying
        if fresh and not isinstance(error, UnavailableError):
            return False  # the service is full: nothing was begun that could be lost
        delay = self._patience.delay(error.retry_after_ms / 1000 if error.reason else 0.0)
        if delay is None:
            return False
        await asyncio.sleep(delay)
        self._call = self._start(self._order.next_index if self._order.started else None)
        self._messages = aiter(self._call)
        self._order.resume()
        return True

    async def _received(self) -> Any:
        """What the call gives next. An attempt to resume that has not begun when patience ends is given up,
        with what the stream was lost by."""
        begun = self._begun()
        left = self._patience.left() if self._order.expects_start else None
        try:
            async with asyncio.timeout(left):
                return await anext(begun, _END)
        except TimeoutError:
            if left is None or self._lost is None:
                raise
            raise self._lost from None

    def _begun(self) -> AsyncIterator[Any]:
        """The messages of the call, which is made here when there is none yet."""
        self.check_own()
        loop = asyncio.get_running_loop()
        if self._messages is None:
            self._call = self._start(None)
            self._messages, self._loop = aiter(self._call), loop
            self.own()
        if self._loop is not loop:
            raise UsageError(
                "the reply was begun on another event loop; session.attach() goes on with its turn"
            )
        return self._messages

    def _fail(self, failure: OutriderError) -> None:
        self._failure = failure
        if self._call is not None and not self.is_inherited:
            self._call.cancel()
            if isinstance(failure, (StoppedError, StreamBrokenError, UnavailableError)):
                self._ending.ended(self._session_id)


def _taken_over(error: StaleEpochError) -> StaleEpochError:
    return StaleEpochError(
        "another call took the session over, and this reply ends here; what it committed stays: "
        f"session.attach() goes on with the session's last turn ({error.message})",
        code=error.code,
        reason=error.reason,
    )


class _Order:
    """Which message may come next."""

    def __init__(self, first_index: int) -> None:
        self.started = False
        self.next_index = first_index
        self.expects_start = True
        self.summarised = False

    def resume(self) -> None:
        """The stream begins again, from the next token on."""
        self.expects_start = True

    def check(self, message: TurnMessage) -> bool:
        """True for what is news. Raises `StreamBrokenError` unless the message may come now."""
        if self.summarised:
            raise StreamBrokenError("a message came after the summary")
        if isinstance(message, Started) is not self.expects_start:
            raise StreamBrokenError("the stream does not begin with one start message")
        if isinstance(message, Started):
            known, self.started, self.expects_start = self.started, True, False
            return not known
        if isinstance(message, Event):
            if message.index != self.next_index:
                raise StreamBrokenError(
                    f"token {message.index} came where {self.next_index} was due"
                )
            self.next_index += 1
        if isinstance(message, Summary):
            self.summarised = True
            if message.tokens != self.next_index:
                raise StreamBrokenError(
                    f"the summary counts {message.tokens} tokens where {self.next_index} came"
                )
        return True

    def check_end(self) -> None:
        """Raises `StreamBrokenError` unless the summary has come."""
        if not self.summarised:
            raise StreamBrokenError("the stream ended without a summary")
